"""Fast paths: requests that are answered without Flask."""
