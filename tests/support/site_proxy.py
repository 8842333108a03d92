"""The configurations in deploy/ under a real nginx and a real Caddy, on a port and with a certificate of the test."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from support.ports import free_port
from support.waiting import DEADLINE, until

DEPLOY = Path(__file__).parents[2] / "deploy"
HOST = "localhost"


class SiteProxy:
    """A proxy in front of web processes on ``upstreams``; everything is below ``/push/``."""

    def __init__(self, kind: str, folder: Path, upstreams: list[int]) -> None:
        if shutil.which(kind) is None or shutil.which("openssl") is None:
            pytest.skip(f"needs {kind} and openssl")
        self.folder = folder / kind
        self.folder.mkdir()
        self.port = free_port()
        self.url = f"https://{HOST}:{self.port}/push"
        self.certificate = self.folder / "cert.pem"
        self._key = self.folder / "key.pem"
        subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        subprocess.run([*command, "-keyout", self._key, "-out", self.certificate], check=True, capture_output=True)
        self._context = ssl.create_default_context(cafile=str(self.certificate))
        command = {"nginx": self._nginx, "caddy": self._caddy}[kind](upstreams)
        environment = os.environ | {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        self._log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment)
        until(lambda: self._answers() or self._process.poll() is not None)
        assert self._process.poll() is None, (self.folder / "log").read_text()

    def stop(self) -> None:
        """End the proxy, and with it all streams."""
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()

    def __enter__(self) -> SiteProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def connect(self) -> HTTPSConnection:
        return HTTPSConnection(HOST, self.port, timeout=DEADLINE, context=self._context)

    def _nginx(self, upstreams: list[int]) -> list[str]:
        first, second = (f"server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;" for port in (upstreams * 2)[:2])
        site = _changed(DEPLOY / "nginx" / "pushsvc.conf", {
            "server 127.0.0.1:8000 max_fails=1 fail_timeout=1s;": first,
            "# server 127.0.0.1:8001 max_fails=1 fail_timeout=1s;": second if len(upstreams) > 1 else "",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "server_name push.example.com;": f"server_name {HOST};",
            "/etc/ssl/push.example.com.pem": str(self.certificate),
            "/etc/ssl/push.example.com.key": str(self._key),
        })  # fmt: skip
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        file = self.folder / "nginx.conf"
        file.write_text(
            f"daemon off; user root; pid {self.folder}/pid; error_log stderr notice; worker_processes 1;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{ access_log off; {paths}\n{site}\n}}\n"
        )
        return ["nginx", "-e", "stderr", "-c", str(file)]

    def _caddy(self, upstreams: list[int]) -> list[str]:
        file = self.folder / "Caddyfile"
        site = _changed(DEPLOY / "caddy" / "Caddyfile", {
            "\tgrace_period 10s\n": "\tgrace_period 1s\n\tadmin off\n\tauto_https disable_redirects\n",
            "push.example.com {\n": f"{HOST}:{self.port} {{\nbind 127.0.0.1\ntls {self.certificate} {self._key}\n",
            "reverse_proxy 127.0.0.1:8000 {": f"reverse_proxy {' '.join(f'127.0.0.1:{p}' for p in upstreams)} {{",
        })  # fmt: skip
        file.write_text(site)
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]

    def _answers(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", "/push/livez")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _changed(file: Path, changes: dict[str, str]) -> str:
    text = file.read_text()
    for old, new in changes.items():
        assert old in text, f"{file} has no {old!r}"
        text = text.replace(old, new)
    return text


def answer(connection: HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    """Send a request, read its whole answer, and return the status."""
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    response.read()
    return response.status


Starting = Callable[[str, list[int]], SiteProxy]
