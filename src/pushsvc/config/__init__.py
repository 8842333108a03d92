"""Settings of the program, from options, ``PUSHSVC_*`` variables and ``pushsvc.toml``, in this order."""

from pushsvc.config.settings import Settings, load

__all__ = ["Settings", "load"]
