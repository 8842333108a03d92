"""The container files, tested without a container engine: their programs run on this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import pushsvc
from pushsvc.broker.embedded import find_binary
from pushsvc.cli.main import program
from pushsvc.config.access import KEY_VARIABLE
from pushsvc.config.alerts import SECRET_VARIABLE
from support.ports import free_port
from support.stack import Stream
from support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

SECRETS = {KEY_VARIABLE, SECRET_VARIABLE, "PUSHSVC_TOKEN"}  # they have no options: others can read a command line

# Replaces the client that a health check runs, if no client is installed.
CLIENT = """#!{python} -IS
import os, socket, sys
_, raise_errors, _, port, *command = sys.argv
try:
    with socket.create_connection(("127.0.0.1", int(port))) as server:
        commands = [["AUTH", os.environ["REDISCLI_AUTH"]], command]
        for words in commands:
            server.sendall(" ".join(words).encode() + b"\\r\\n")
            answer = server.recv(1000).decode()
except OSError as error:
    sys.exit(f"Could not connect: {{error}}")
print(answer)
sys.exit(raise_errors == "-e" and not answer.startswith("+"))
"""


# The compose file


def test_only_one_port_is_published_and_only_on_the_loopback_interface() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:8000:8000"]}
    for service in SERVICES.values():
        assert not {"network_mode", "networks", "privileged", "pid", "ipc", "extends"} & set(service)


def test_every_image_is_pinned_to_a_major_version() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    for image in images.values():
        assert re.fullmatch(r"[a-z0-9/_-]+:\d+(\.\d+)*", image)
    ours = f"pushsvc:{pushsvc.__version__.partition('.')[0]}"
    assert {name for name, image in images.items() if image != ours} == {"redis"}
    assert [name for name, service in SERVICES.items() if "build" in service] == ["web"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert all(":" not in volume or volume.split(":")[0] in COMPOSE["volumes"] for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_limits_of_memory_and_processes(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"(\$\{REDIS_MEMORY:-)?\dg\}?", service["mem_limit"])
    assert service["pids_limit"] <= 200


@pytest.mark.parametrize("name", SERVICES)
def test_services_restart_and_wait_for_their_dependencies(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    for needed, how in service.get("depends_on", {}).items():
        assert needed in SERVICES
        assert how == {"condition": "service_healthy"}


def test_redis_persists_acknowledged_events() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "${REDIS_MAXMEMORY:-1gb}"
    assert options["--requirepass"] == SERVICES["redis"]["environment"]["REDISCLI_AUTH"]
    assert f"events:{options['--dir']}" in SERVICES["redis"]["volumes"]


@pytest.mark.parametrize("name", [name for name in SERVICES if SERVICES[name]["command"][0] == "pushsvc"])
def test_every_option_of_a_service_exists(name: str) -> None:
    _, role, *words = SERVICES[name]["command"]
    command = program.commands.get(role)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert set(SERVICES[name].get("environment", {})) <= {str(option.envvar) for option in options} | SECRETS
    named = {word for word in words if word.startswith("-")}
    assert named <= {spelled for option in options for spelled in option.opts}


# Its services


class Composition:
    """The services as local processes: names and ports become loopback addresses, the volume a folder."""

    def __init__(self, folder: Path) -> None:
        self.ports = {port: str(free_port()) for port in ("6379", "8000", "9464")}
        self.web, self.metrics = int(self.ports["8000"]), int(self.ports["9464"])
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.volume, programs = folder / "data", folder / "bin"
        for made in (self.volume, programs, folder / "tmp"):
            made.mkdir()
        shutil.copy(find_binary(), programs / "valkey-server")
        client = shutil.which("valkey-cli") or shutil.which("redis-cli")
        if client:
            (programs / "valkey-cli").symlink_to(client)
        else:
            (programs / "valkey-cli").write_text(CLIENT.format(python=sys.executable))
        for name in ("valkey-server", "valkey-cli"):
            (programs / name).chmod(0o700)
        self.path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath])

    def __enter__(self) -> Composition:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def local(self, text: str) -> str:
        """Return a text of the compose file with names, ports and paths of this machine."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        assert "${" not in text, "no variable of the caller is known here"
        text = re.sub(r"\b(redis|web)(?=:\d)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"\b(6379|8000|9464)\b", lambda port: self.ports[port[0]], text)
        return re.sub(r"^/data$", str(self.volume), text).replace("$$", "$")

    def environment(self, name: str) -> dict[str, str]:
        given = {key: self.local(value) for key, value in SERVICES[name].get("environment", {}).items()}
        return {"PATH": self.path, "HOME": "/", "TMPDIR": str(self.folder / "tmp"), **given}

    def workplace(self, name: str) -> Path:
        """Return a read-only folder in place of the container's file system."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    def start(self, name: str) -> None:
        command = [self.local(word) for word in SERVICES[name]["command"]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(name),
                cwd=self.workplace(name), start_new_session=True,
            )  # fmt: skip

    def healthy(self, name: str) -> bool:
        """Return whether a service's health check succeeds."""
        check = SERVICES[name]["healthcheck"]
        form, *words = map(self.local, check["test"])
        assert form in ("CMD", "CMD-SHELL")
        command = words if form == "CMD" else ["sh", "-c", *words]
        seconds = re.fullmatch(r"(\d+)s", check["timeout"])
        assert seconds
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, env=self.environment(name),
                cwd=self.workplace(name), timeout=int(seconds[1]),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        # A failed health check must exit with 1; a missing program would exit with 127.
        assert ran.returncode in (0, 1), ran.stderr
        return ran.returncode == 0

    def up(self) -> None:
        """Start every service after its dependencies are healthy."""
        waiting = list(SERVICES)
        while waiting:
            ready = [name for name in waiting if set(SERVICES[name].get("depends_on", ())) <= set(self.running)]
            assert ready, f"{waiting} wait for each other"
            for name in ready:
                self.start(name)
                self.until_healthy(name)
                waiting.remove(name)

    def until_healthy(self, name: str) -> None:
        process = self.running[name]
        until(lambda: process.poll() is not None or self.healthy(name), seconds=600)
        assert process.poll() is None, (self.folder / f"{name}.log").read_text()

    def stop(self, name: str) -> int:
        """Stop a service as an engine does; return its exit code after all its processes ended."""
        process = self.running[name]
        process.send_signal(signal.SIGTERM)
        grace = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
        assert grace
        code = process.wait(int(grace[1]))  # an engine would kill it then
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        del self.running[name]
        return code

    def request(
        self, method: str, path: str, body: str | None = None, *, port: int | None = None, **headers: str
    ) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", port or self.web, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def test_the_services_start_work_and_stop(tmp_path: Path) -> None:
    with Composition(tmp_path) as stack:
        assert not any(map(stack.healthy, SERVICES))
        stack.up()
        _check_demo(stack)
        _check_posted_events(stack)
        _check_host_names(stack)
        _check_metrics(stack)
        _check_redis_outage(stack)
        assert {name: stack.stop(name) for name in ("demo", "aggregator", "web")} == dict.fromkeys(
            ("demo", "aggregator", "web"), 0
        )
        until(lambda: not stack.healthy("aggregator"))
        assert not stack.healthy("web")
        until(lambda: stack.healthy("redis"))
        assert stack.stop("redis") == 0
        assert not stack.healthy("redis")
        for name in SERVICES:
            assert list(stack.workplace(name).iterdir()) == [], f"{name} wrote to a read-only file system"


def _check_demo(stack: Composition) -> None:
    stream = Stream(stack.web, "/v1/topics/flights/stats", {})
    try:
        first, _ = stream.frame()
        assert first == "snapshot"
        stream.until(lambda event, data: event == "update" and any(row[2] for row in data["data"]))
    finally:
        stream.close()


def _check_posted_events(stack: Composition) -> None:
    stream = Stream(stack.web, "/v1/topics/feedback/stats", {})
    try:
        assert stream.frame()[0] == "snapshot"
        status, body = stack.request("POST", "/v1/topics/feedback/events", '{"key": "soup", "rating": 4}')
        assert status == 202, body
        wanted = ["soup", "rating", 1]
        frame = stream.until(lambda _, data: any(row[:3] == wanted for row in data["data"]))
        assert frame["offset"] == 1
    finally:
        stream.close()


def _check_host_names(stack: Composition) -> None:
    for host, expected in {"web:8000": 200, "localhost:8000": 200, "rebound.example:8000": 403}.items():
        status, _ = stack.request("GET", "/v1/topics", Host=host)
        assert status == expected, host


def _check_metrics(stack: Composition) -> None:
    for port, host, metric in (
        (stack.web, "web:8000", b"pushsvc_events_accepted_total "),
        (stack.metrics, "aggregator:9464", b"pushsvc_partitions_owned 64.0"),
    ):
        status, text = stack.request("GET", "/metrics", port=port, Host=host)
        assert status == 200
        assert metric in text


def _check_redis_outage(stack: Composition) -> None:
    """Every service becomes unhealthy and recovers by itself; the volume keeps the posted events."""
    stack.stop("redis")
    for name in ("redis", "web", "aggregator", "demo"):
        assert not stack.healthy(name)
    stack.start("redis")
    for name in SERVICES:
        stack.until_healthy(name)
    status, body = stack.request("GET", "/v1/topics/feedback/events", Accept="application/x-ndjson")
    assert status == 200
    assert body.count(b"\n") == 1
    assert b'"soup"' in body


# The Dockerfile


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines() if line)
    ]


def _sent(path: Path) -> bool:
    """Return whether .dockerignore lets a path reach the engine: its last matching line decides."""
    name, sent = path.relative_to(ROOT), True
    lineage = [str(part) for part in (name, *name.parents)][:-1]
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in line
        if any(pattern in ("*", Path(one).name if anywhere else one) for one in lineage):
            sent = line.startswith("!")
    return sent


def _copy(sources: list[str], target: Path, *, into: bool) -> None:
    """Copy files, or the contents of a folder, as COPY does."""
    for source in sources:
        origin = ROOT / source
        assert origin.exists(), f"{source} is not there"
        assert _sent(origin), f"{source} is kept back by .dockerignore"
        files = [origin] if origin.is_file() else [path for path in origin.rglob("*") if path.is_file() and _sent(path)]
        assert files
        for file in files:
            place = target / file.relative_to(origin) if origin.is_dir() else target / file.name if into else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


class Build:
    """Runs the instructions of a Dockerfile, with a new virtual environment as the base image of each stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.workdir = self.root
        self.stages: dict[str, Path] = {}
        self.venv = folder / "venv"  # of all stages: programs name the interpreter with which they were installed
        self.environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "PUSHSVC"))
        }
        self.environment["PATH"] = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.command: list[str] = []

    def run(self) -> None:
        for word, rest in _instructions((ROOT / "Dockerfile").read_text()):
            carry_out = getattr(self, f"_{word.lower()}", None)
            assert carry_out, f"unknown instruction {word}"
            carry_out(rest)

    def _from(self, rest: str) -> None:
        base, _, name = rest.partition(" AS ")
        version = re.fullmatch(r"python:3\.(\d+)-slim", base)
        assert version
        assert int(version[1]) >= 11, "older than the project allows"
        assert name not in self.stages
        self.root = self.workdir = self.stages[name] = self.folder / f"root-{name}"
        shutil.rmtree(self.venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", self.venv], check=True, timeout=600)

    def _env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, value = pair.split("=", 1)
            self.environment[name] = value

    def _workdir(self, rest: str) -> None:
        self.workdir = self.root / rest.lstrip("/")
        self.workdir.mkdir(parents=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert target == "/usr/local"
            [source] = sources[1:]
            stage = self.stages[sources[0].removeprefix("--from=")]
            shutil.copytree(stage / source.lstrip("/"), self.venv, dirs_exist_ok=True)
            return
        assert not any(word.startswith(("-", "/")) for word in sources)
        _copy(sources, self.workdir / target, into=target.endswith("/"))

    def _run(self, rest: str) -> None:
        command = re.sub(r"^(--mount=type=cache,\S+\s+)*", "", rest)
        assert command.startswith("pip install "), f"only pip is run here, not {command}"
        self.shell(re.sub(r"(--prefix )(\S+)", rf"\1{self.root}\2", command))

    def shell(self, command: str) -> str:
        ran = subprocess.run(
            ["sh", "-c", command], cwd=self.workdir, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1_800,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout[-3000:]
        return ran.stdout

    def _user(self, rest: str) -> None:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", rest)
        assert {service["user"] for service in SERVICES.values() if service["image"].startswith("pushsvc:")} == {rest}

    def _expose(self, rest: str) -> None:
        assert rest == "8000"

    def _cmd(self, rest: str) -> None:
        self.command = yaml.safe_load(rest)


@pytest.mark.timeout(3_600)
def test_the_dockerfile_installs_the_whole_program(tmp_path: Path) -> None:
    build = Build(tmp_path)
    build.run()
    assert "aggregator" in build.shell(shlex.join(build.command))
    [installed] = build.venv.glob("lib/python*/site-packages/pushsvc")
    for file in (ROOT / "src/pushsvc").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert (installed / file.relative_to(ROOT / "src/pushsvc")).is_file(), f"{file} is not installed"
    shown = build.shell("python -c 'import pushsvc; print(pushsvc.__file__)'")
    assert shown.strip() == str(installed / "__init__.py")
    build.shell("python -c 'from pushsvc.broker.embedded import find_binary; find_binary()'")
