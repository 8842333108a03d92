"""Redis servers with TLS and users, and the certificates that they need. Debian's redis-server has TLS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from pushsvc.broker import launch
from support.ports import free_port
from support.waiting import until

ADMIN = "admin-secret"
SENTINEL = "sentinel-secret"
REDIS_DOCS = Path(__file__).parents[2] / "docs/redis.md"


def documented_rules() -> list[str]:
    """Return the rules of the user that docs/redis.md describes, with those for Sentinels and clusters."""
    text = REDIS_DOCS.read_text()
    [block] = re.findall(r"ACL SETUSER pushsvc on >password ([^`]*)", text)
    rows = re.findall(r"^- for (?:Sentinels|a cluster): `([^`]*)`", text, re.MULTILINE)
    return " ".join([block.replace("\\\n", " "), *rows]).split()


class Certificates:
    """A certificate authority, and certificates that it signed for 127.0.0.1, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = folder / "ca.pem"
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                  "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate and its key."""
        (self._folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                  "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                  "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self._folder)


class SecureRedis:
    """Servers that take only TLS connections with a client certificate, and know the user ``pushsvc``.

    ``close`` ends them all.
    """

    def __init__(self, folder: Path, password: str) -> None:
        if not shutil.which("redis-server") or not shutil.which("openssl"):
            pytest.skip("needs redis-server (with TLS) and openssl")
        self.folder = folder
        self.password = password
        self.certificates = Certificates(folder)
        self.client_files = self.certificates.sign("client")
        self._server_files = self.certificates.sign("server")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *, sentinel_of: int | None = None, **options: str) -> int:
        """Start a server, or a Sentinel of the primary at a port; return its port."""
        port = free_port()
        certificate, key = self._server_files
        lines = {
            "port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(self.folder),
            "tls-cert-file": str(certificate), "tls-key-file": str(key),
            "tls-ca-cert-file": str(self.certificates.authority), "tls-replication": "yes",
        } | {name.replace("_", "-"): value for name, value in options.items()}  # fmt: skip
        if sentinel_of is None:
            rules = " ".join(documented_rules())
            lines |= {"save": '""', "appendonly": "yes", "appendfsync": "no", "appenddirname": f"aof-{port}"}
            lines |= {"masteruser": "default", "masterauth": ADMIN, "cluster-config-file": f"nodes-{port}.conf"}
            text = f"user default on >{ADMIN} ~* &* +@all\nuser pushsvc on >{self.password} {rules}\n"
        else:
            text = (
                f"user default on >{ADMIN} ~* &* +@all\n"
                f"user watcher on >{SENTINEL} -@all +ping +sentinel|get-master-addr-by-name\n"
                f"sentinel monitor mymaster 127.0.0.1 {sentinel_of} 1\n"
                f"sentinel auth-user mymaster default\nsentinel auth-pass mymaster {ADMIN}\n"
                "sentinel down-after-milliseconds mymaster 800\n"
            )
        path = self.folder / f"{port}.conf"
        path.write_text("".join(f"{name} {value}\n" for name, value in lines.items()) + text)
        command = [
            sys.executable,
            "-I",
            "-S",
            launch.__file__,
            str(os.getpid()),
            "-1",
            "-1",
            shutil.which("redis-server"),
        ]
        with (self.folder / f"{port}.log").open("wb") as log:
            self._processes[port] = subprocess.Popen(
                [*map(str, command), str(path), *(["--sentinel"] if sentinel_of is not None else [])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(lambda: self._answers(port))
        return port

    def form_cluster(self, masters: int = 2) -> list[int]:
        """Return the ports of primaries that share the slots."""
        ports = [
            self.start(cluster_enabled="yes", tls_cluster="yes", cluster_port=str(free_port())) for _ in range(masters)
        ]
        buses = [self.admin(port).config_get("cluster-port")["cluster-port"] for port in ports]
        for number, port in enumerate(ports):
            begin, end = (16_384 * n // masters for n in (number, number + 1))
            self.admin(port).execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            self.admin(port).execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                self.admin(ports[0]).execute_command("CLUSTER", "MEET", "127.0.0.1", port, buses[number])
        for port in ports:
            until(lambda: self.admin(port).execute_command("CLUSTER INFO")["cluster_state"] == "ok")  # noqa: B023
        return ports

    def admin(self, port: int) -> Any:
        """Return a client that may do everything."""
        certificate, key = map(str, self.client_files)
        return redis.Redis(
            "127.0.0.1", port, password=ADMIN, ssl=True, ssl_ca_certs=str(self.certificates.authority),
            ssl_certfile=certificate, ssl_keyfile=key, decode_responses=True, socket_timeout=10,
        )  # fmt: skip

    def denied(self, port: int) -> list[Any]:
        """Return what a server refused to its users: commands, keys, channels and passwords."""
        return [entry for entry in self.admin(port).acl_log() if "LIB-" not in entry["object"]]

    def kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def close(self) -> None:
        for port in list(self._processes):
            self.kill(port)

    def _answers(self, port: int) -> bool:
        assert self._processes[port].poll() is None, (self.folder / f"{port}.log").read_text()
        try:
            return bool(self.admin(port).ping())
        except redis.RedisError:
            return False
