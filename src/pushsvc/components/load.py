"""Loads the module of a user that registers handlers."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from pushsvc.components.registry import Components, on
from pushsvc.errors import StartupError


def load_components(app: str) -> Components:
    """Return the components of ``module`` or ``module:object``, from the working directory or the installed packages.

    Raise StartupError, and whatever the module raises.
    """
    name, _, attribute = app.partition(":")
    if not all(part.isidentifier() for part in name.split(".")):
        raise StartupError(f"--app {app}: a module is expected, such as shop or shop.components:on")
    sys.path.insert(0, os.getcwd())  # only now: a module of the folder must not replace one of ours
    module = import_module(name)
    found = on if not attribute else getattr(module, attribute, None)
    if not isinstance(found, Components):
        raise StartupError(f"--app {app}: {attribute} is no object of pushsvc.components.registry.Components")
    try:
        found.check()
    except ValueError as error:
        raise StartupError(f"--app {app}: {error}") from None
    return found


def source_files() -> list[str]:
    """Return the files of the modules that were loaded from the working directory."""
    here = Path.cwd()
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(file for file in files if file and here in Path(file).parents)
