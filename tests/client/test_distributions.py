"""Both wheels in empty environments: what they have, what they need, and that they publish to a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.stack import Stack
from support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
OF_THE_SERVER = {"flask", "gevent", "numpy", "pandas", "redis"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PUSHSVC"))}


def ended(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=2 * DEADLINE, check=False,
        env=ENVIRONMENT, cwd="/",
    )  # fmt: skip


def run(*command: str | Path) -> str:
    found = ended(*command)
    assert found.returncode == 0, found.stdout[-2_000:] + found.stderr[-2_000:]
    return found.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    build = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-build-isolation")
    run(*build, "--no-deps", "--wheel-dir", folder, ROOT / "clients/python", ROOT)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def metadata(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        message = HeaderParser().parsestr(file.read(name).decode())
    return {name: message.get_all(name, []) for name in ("Version", "Requires-Dist")}


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.fixture(scope="module")
def client_python(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an empty environment with pushsvc-client, and httptools as the only other package."""
    import httptools

    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    [packages] = folder.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
        "--target", packages, wheels["pushsvc_client"])  # fmt: skip
    (packages / "httptools").symlink_to(Path(httptools.__file__).parent)
    return folder / "bin/python"


def test_the_server_contains_the_client_of_its_version(wheels: dict[str, Path]) -> None:
    server, client = metadata(wheels["pushsvc"]), metadata(wheels["pushsvc_client"])
    assert server["Version"] == client["Version"]
    assert not [line for line in server["Requires-Dist"] if line.startswith("pushsvc")]
    assert [line for line in client["Requires-Dist"] if "extra ==" not in line] == ["httptools>=0.7"]
    sources = {f"pushsvc_client/{path.name}" for path in (ROOT / "src/pushsvc_client").glob("*.py")}
    assert sources <= files(wheels["pushsvc"])
    assert sources | {"pushsvc_client/py.typed", "pushsvc_client/LICENSE"} <= files(wheels["pushsvc_client"])


PUBLISH = """
import asyncio, sys
from pushsvc_client import AsyncClient, Client
url, topic = sys.argv[1:]
with Client(url) as client:
    client.publish(topic, {"x": 1})
async def publish():
    async with AsyncClient(url) as client:
        await client.publish(topic, {"x": 2})
        print([event["x"] async for event in client.history(topic)])
asyncio.run(publish())
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_producer_publishes_without_the_packages_of_the_server(
    client_python: Path, shared_server, topic: str
) -> None:
    events, modules = run(client_python, "-c", PUBLISH, shared_server.url, topic).splitlines()
    assert events == "[1, 2]"
    assert "pushsvc_client" in modules
    assert not [name for name in OF_THE_SERVER | {"pushsvc"} if f"'{name}'" in modules]


IMPORT = """
import sys, time
begin = time.process_time()
from pushsvc_client import Client
print(time.process_time() - begin)
"""


def test_the_client_is_imported_in_a_moment(client_python: Path) -> None:
    """The target is 0.05 s. CPU time and the bound leave room for a busy machine."""
    assert min(float(run(client_python, "-c", IMPORT)) for _ in range(10)) < 0.15


BOTH = """
import importlib.metadata, pushsvc, pushsvc.client, pushsvc.errors, pushsvc_client, pushsvc_client.errors, sys
assert pushsvc.__file__.startswith(sys.prefix) and pushsvc_client.__file__.startswith(sys.prefix)
assert pushsvc.client.Client is pushsvc_client.Client
assert pushsvc.client.AsyncClient is pushsvc_client.AsyncClient
for name in ("PushError", "ClientError", "InvalidValue"):
    assert getattr(pushsvc.errors, name) is getattr(pushsvc_client.errors, name)
print(pushsvc.__version__, importlib.metadata.version("pushsvc"))
"""


def test_the_server_is_installed_from_one_wheel(wheels: dict[str, Path], tmp_path: Path) -> None:
    """The other packages come from this environment: there is not always a network."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    [packages] = tmp_path.glob("lib/python*/site-packages")
    install = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    run(*install, "--no-index", "--target", packages, wheels["pushsvc"])
    [ours] = [Path(path) for path in sys.path if path.endswith("site-packages")][:1]
    (packages / "ours.pth").write_text(f"{ours}\n")
    versions = run(tmp_path / "bin/python", "-c", BOTH).split()
    assert len(set(versions)) == 1
    assert "publish" in run(tmp_path / "bin/python", "-m", "pushsvc", "--help")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions of the lock as constraints, where the registry that has them is reachable."""
    folder = tmp_path_factory.mktemp("locked")
    probe = ended(sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
                  "download", "--quiet", "--no-cache-dir", "--no-deps", "--dest", folder, "blinker")  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"the registry of Python packages is not reachable: {probe.stderr.strip()[-200:]}")
    lock = (ROOT / "requirements/runtime.txt").read_text()
    constraints = folder / "constraints.txt"
    # Without their hashes: a wheel of this repository has none.
    constraints.write_text("\n".join(re.findall(r"^(\S+==[^\\\n]*)", lock, re.MULTILINE)))
    return constraints


@pytest.fixture
def empty_python() -> Iterator[Path]:
    """Python of an environment with pip alone."""
    with TemporaryDirectory(prefix="pushsvc-test-") as folder:
        run(sys.executable, "-m", "venv", folder)
        yield Path(folder) / "bin/python"


def installed(python: Path, wheel: Path, constraints: Path) -> set[str]:
    """Install a wheel with what it needs, and return the names of all packages that are then there."""
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", constraints, wheel)
    run(*pip, "check")
    return {one["name"].lower() for one in json.loads(run(*pip, "list", "--format", "json"))} - {"pip", "setuptools"}


def test_pip_installs_the_client_with_one_other_package(
    wheels: dict[str, Path], locked: Path, empty_python: Path, shared_server: Stack, topic: str
) -> None:
    assert installed(empty_python, wheels["pushsvc_client"], locked) == {"pushsvc-client", "httptools"}
    assert run(empty_python, "-c", PUBLISH, shared_server.url, topic).startswith("[1, 2]\n")


def test_pip_installs_the_server(wheels: dict[str, Path], locked: Path, empty_python: Path) -> None:
    names = installed(empty_python, wheels["pushsvc"], locked)
    assert names >= OF_THE_SERVER | {"pushsvc"}
    assert "pushsvc-client" not in names
    assert run(empty_python.parent / "pushsvc", "-V").startswith("pushsvc, version ")


def test_the_demo_of_the_readme_runs_by_uvx(wheels: dict[str, Path], locked: Path, tmp_path: Path) -> None:
    """The command of the README; the wheel comes from a folder, because it may not be published."""
    [command] = re.findall(r"`(uvx [^`]+ demo)`", (ROOT / "README.md").read_text())
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed")
    site = Stack("", "", tmp_path)
    options = ("--isolated", "--no-cache", "--quiet", "--no-config", "--python", sys.executable,
               "--find-links", wheels["pushsvc"].parent, "--constraints", locked)  # fmt: skip
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(
            [uv, "tool", "run", *options, *shlex.split(command)[1:], "--port", str(site.port)],
            cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: site.ready() or demo.poll() is not None, seconds=2 * DEADLINE)
        assert demo.poll() is None, site.output("demo")
        page = site.get("/").body.decode()
        parts = re.findall(r'(?:src|href)="([^":#]+)"', page)
        assert any("uplot" in part.lower() for part in parts), parts
        for part in parts:
            assert site.get("/" + part.removeprefix("/")).status == 200, part
        with site.stream("/v1/topics/flights/stats?window=1m") as stream:
            stream.until(lambda event, frame: event == "update" and frame["offset"] > 0 and len(frame["data"]) > 1)
    finally:
        demo.send_signal(signal.SIGTERM)
        code = demo.wait(DEADLINE)
    assert code == 0, site.output("demo")
