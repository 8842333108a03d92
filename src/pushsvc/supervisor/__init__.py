"""The parent process: it starts the server's processes, restarts those that end, and stops all in order."""
