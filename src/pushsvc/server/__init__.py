"""The HTTP server of one worker process: gevent and llhttp, over an inherited listening socket."""
