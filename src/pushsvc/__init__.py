"""pushsvc: a Server-Sent Events push server with rolling-window statistics."""

__version__ = "0.1.0"
