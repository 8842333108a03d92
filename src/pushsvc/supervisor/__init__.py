"""The parent process: starts, watches and stops the others."""
