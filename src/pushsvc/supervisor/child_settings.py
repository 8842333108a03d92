"""The settings of the children, in memory that they inherit.

They hold keys and passwords: `ps` shows arguments to every user of the machine, and the environment to every process of
the same user. The children keep these settings after a change of the file of settings, too.
"""

import os
import tempfile

from pushsvc.config import Settings

SETTINGS_VARIABLE = "PUSHSVC_SETTINGS"  # the descriptor of the settings


def share_settings(settings: Settings) -> int:
    """Return a descriptor from which children read the settings; the caller closes it."""
    return share(settings.encode().encode())


def share(data: bytes) -> int:
    """Return a descriptor from which children read some bytes; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pushsvc-settings")
    else:
        with tempfile.TemporaryFile(prefix="pushsvc-settings-") as file:
            descriptor = os.dup(file.fileno())
    os.pwrite(descriptor, data, 0)
    return descriptor


def read_settings() -> Settings:
    """Return the settings that this process inherited, and close their descriptor."""
    descriptor = int(os.environ.pop(SETTINGS_VARIABLE))
    try:
        return Settings.decode(os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode())
    finally:
        os.close(descriptor)


def without_settings(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without the variables of the program, some of which are secrets."""
    return {name: value for name, value in environment.items() if not name.startswith("PUSHSVC_")}
