"""No password, key or token is in an output, an answer, a command line or the environment of a child process."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import pytest

from pushsvc.broker.embedded import EmbeddedServer, find_binary
from support.fleet import client
from support.parent import Parent, children, command
from support.ports import free_port
from support.processes import needs_proc
from support.waiting import DEADLINE, until

MARK = "s3cr3t"  # in every secret
KEY = f"{MARK}-of-the-tokens-0123456789abcdef"
PASSWORD = f"{MARK}-of-redis"
API_KEY = f"{MARK}-of-a-producer"


def token(**claims: Any) -> str:
    now = int(time.time())
    grants = {"publish": [">"], "subscribe": [">"], "manage": [">"]}
    return jwt.encode({"sub": "u", "iat": now, "exp": now + 600, "pushsvc": grants} | claims, KEY, "HS256")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that knows the user ``me`` with a password."""
    folder = tmp_path / "guarded"
    server = EmbeddedServer(folder, port=free_port())
    server.start()
    client(server.port).execute_command("ACL", "SETUSER", "me", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    client(server.port).execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
    client(server.port).execute_command("ACL", "SETUSER", "default", "off")
    yield server
    server.stop()


def admin(server: EmbeddedServer) -> Any:
    return client(server.port, username="admin", password="admin")


@pytest.fixture
def without_auth(tmp_path: Path) -> Iterator[int]:
    """The port of a server without the command AUTH: its error quotes user and password."""
    port = free_port()
    (tmp_path / "conf").write_text(f'port {port}\nbind 127.0.0.1\nsave ""\nrename-command AUTH ""\n')
    process = subprocess.Popen([find_binary(), tmp_path / "conf"], stdout=subprocess.DEVNULL, cwd=tmp_path)
    until(lambda: is_answered(port))
    yield port
    process.kill()
    process.wait()


def is_answered(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


SERVE = ("serve", "--port", "0")
URLS = [
    "redis://127.0.0.1/{mark}", "redis://me:{mark}?x@127.0.0.1", "redis://me:{mark}#x@127.0.0.1",
    "redis://me:{mark}/x@127.0.0.1", "redis://127.0.0.1:{mark}", "redis://127.0.0.1?{mark}",
    "redis://me:[{mark}@127.0.0.1",
    "redis+cluster://me:{mark}@127.0.0.1:1", "redis+sentinel://me:{mark}@127.0.0.1:1/m?sentinel_password={mark}",
    "rediss://me:{mark}@127.0.0.1:{guarded}", "redis://me:{mark}-wrong@127.0.0.1:{guarded}",
    "redis+cluster://me:{password}@127.0.0.1:{guarded}", "redis+cluster://me:{mark}@127.0.0.1:{guarded}",
    "redis+sentinel://127.0.0.1:{guarded}/m?sentinel_username=me&sentinel_password={mark}",
    "redis://me:{mark}@127.0.0.1:1", "{mark}", "redis://me:{mark}@127.0.0.1:{guarded}/0?ssl_ca_certs=/x",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_refused_start_shows_no_password(guarded: EmbeddedServer, tmp_path: Path, url: str) -> None:
    url = url.format(mark=MARK, guarded=guarded.port, password=PASSWORD)
    assert_refused(Parent(tmp_path, *SERVE, PUSHSVC_REDIS=url))


def test_server_without_auth_quotes_no_password(without_auth: int, tmp_path: Path) -> None:
    for kind in ("redis", "redis+cluster"):
        url = f"{kind}://me:{MARK}@127.0.0.1:{without_auth}"
        assert_refused(Parent(tmp_path, *SERVE, PUSHSVC_REDIS=url))


FILES = [
    f"jwt_key = {MARK}", f'jwt_key = ["{MARK}"]', f'jwt_key = "{MARK}', f'jwt_key = "{MARK}"\njwt_alg = "RS256"',
    f'redis = ["redis://:{MARK}@h"]', f'redis = "redis://:{MARK}@h',
    'redis_password_file = "none"\nredis = "redis://h"',
    f'[keys.a]\nhash = "{MARK}"\npublish = [">"]', f'[keys.a]\nhash = "sha256:{MARK}"\npublish = [">"]',
    f'[keys]\na = "{MARK}"', f'[[issuers]]\nname = "a"\nkey = "{MARK}"\nalgorithms = ["RS256"]',
    f'[[issuers]]\nname = "a"\nkey = "{MARK}"\nkey_file = "x"', f'[[issuers]]\nname = "a"\nkey = 1\nkye = "{MARK}"',
    f'redis = "redis://:{MARK}@h"\nredis_username = "u"\nredis_password_file = "/none"',
    f'authorize_url = "https://me:{MARK}@127.0.0.1:1/x"', f'authorize_url = "{MARK}"',
    f'jwt_jwks_url = "https://me:{MARK}@127.0.0.1:1/x"\njwt_key = "{MARK}"',
]  # fmt: skip


@pytest.mark.parametrize("text", FILES)
def test_refused_settings_show_no_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "pushsvc.toml").write_text(text)
    assert_refused(Parent(tmp_path, *SERVE))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "none", MARK])
def test_refused_key_is_not_shown(tmp_path: Path, algorithm: str) -> None:
    text = f"-----BEGIN PUBLIC KEY-----\n{MARK}\n-----END PUBLIC KEY-----"
    for key in (KEY, text):
        assert_refused(Parent(tmp_path, *SERVE, PUSHSVC_JWT_KEY=key, PUSHSVC_JWT_ALG=algorithm), but=f"{algorithm!r}")


def assert_refused(parent: Parent, but: str = "") -> None:
    assert parent.process.wait(DEADLINE) in (1, 2), parent.output
    assert "Error: " in parent.output
    assert MARK not in parent.output.replace(but, "") if but else MARK not in parent.output
    assert "Traceback" not in parent.output


def exchange(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Return status, and headers with body as text."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, str(answer.headers)
        return answer.status, f"{answer.headers}{answer.read().decode(errors='replace')}"
    finally:
        connection.close()


def descendants(pid: int) -> dict[int, str]:
    found = children(pid)
    for one in list(found):
        found |= descendants(one)
    return found


@needs_proc
def test_running_server_shows_no_secret_whatever_fails(guarded: EmbeddedServer, tmp_path: Path) -> None:
    """The settings and requests have secrets in every place. Redis refuses the login, and then is away."""
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "pushsvc.toml").write_text(
        'redis_username = "me"\nredis_password_file = "password"\ntoken_parameter = true\naccess_log = true\n'
        f'log_level = "debug"\nauthorize_url = "http://127.0.0.1:1/ask?key={MARK}"\n'
        f'[[issuers]]\nname = "other"\nkey = "{KEY}-other"\n'
        f'[[issuers]]\nname = "remote"\njwks_url = "http://127.0.0.1:1/keys?key={MARK}"\n'
        "[topics.hot]\nparts = 2\n"
    )
    parent = Parent(
        tmp_path, *SERVE, "--workers", "2", PUSHSVC_REDIS=f"redis://127.0.0.1:{guarded.port}/0", PUSHSVC_JWT_KEY=KEY
    )
    tokens = {
        "good": token(), "expired": token(exp=1), "soon": token(nbf=int(time.time()) + 500),
        "strange": token(pushsvc=MARK),
        "other key": jwt.encode({"sub": MARK}, MARK * 6, "HS256"), "unsigned": jwt.encode({"sub": "u"}, None, "none"),
        "remote": token(iss="remote"), "no token": MARK, "API key": API_KEY,
    }  # fmt: skip
    hidden = [MARK, *(part for one in tokens.values() for part in one.split(".")[1:] if len(part) > 20)]
    try:
        port = parent.ready()
        answers = list(requests(port, tokens))
        assert {202, 200, 401} <= {status for status, _ in answers}
        assert exchange(port, "POST", "/v1/topics/hot/events", b'{"x": 1}', **good(tokens))[0] == 202
        exchange(port, "GET", "/v1/topics/hot/stats.json", **good(tokens))

        admin(guarded).execute_command("ACL", "SETUSER", "me", "resetpass", ">another")
        admin(guarded).execute_command("CLIENT", "KILL", "USER", "me")
        until(lambda: exchange(port, "GET", "/readyz")[0] == 503)
        answers += requests(port, tokens)
        assert "invalid username-password pair" in parent.output
        assert_hidden(parent, hidden)
        (tmp_path / "password").unlink()
        until(lambda: "cannot read the password in" in parent.output)
        (tmp_path / "password").write_text("another")
        until(lambda: exchange(port, "GET", "/readyz")[0] == 200)
        guarded.stop()
        until(lambda: exchange(port, "GET", "/readyz")[0] == 503)
        answers += requests(port, tokens)
        assert_hidden(parent, hidden)
        for _, text in answers:
            assert not [one for one in hidden if one in text], text
    finally:
        parent.end()
    assert_hidden(parent, hidden)
    assert "Traceback" not in parent.output


def good(tokens: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['good']}", "Content_Type": "application/json"}


def requests(port: int, tokens: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Send requests with each token in each place, also in wrong ones; yield the answers."""
    for one in tokens.values():
        for headers in (
            {"Authorization": f"Bearer {one}"}, {"Authorization": f"Basic {one}"}, {"Authorization": one},
            {"Cookie": f"__Host-pushsvc={one}"}, {"X_Request_Id": one}, {},
        ):  # fmt: skip
            query = "" if headers else f"?token={one}"
            for path in ("/v1/topics", "/v1/topics/t", "/v1/topics/t/events", "/v1/nothing", "/metrics"):
                yield exchange(port, "GET", path + query, **headers)
            yield exchange(
                port, "POST", "/v1/topics/t/events" + query, b'{"x": 1}', Content_Type="application/json", **headers
            )
            yield exchange(
                port, "POST", "/v1/topics/t/events" + query, b"no JSON", Content_Type="application/json", **headers
            )
            yield exchange(port, "DELETE", "/v1/topics/other" + query, **headers)
        yield exchange(port, "GET", f"/v1/stream?events=t&token={one}&token={one}")
    for path in ("/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"):
        yield exchange(port, "GET", path, **good(tokens))
    # A token in a request that cannot be read.
    for text in (
        f"GET /v1/topics?token={tokens['good']} HTTP/9.9\r\n\r\n",
        f"GET /v1/topics HTTP/1.1\r\nAuthorization {MARK}\r\n\r\n",
        f"{MARK}\r\n\r\n", f"GET /?token={MARK} HTTP/1.1\r\n\r\n",
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as raw, suppress(OSError):
            raw.sendall(text.encode())
            raw.shutdown(socket.SHUT_WR)
            yield 0, raw.makefile("rb").read().decode(errors="replace")


def assert_hidden(parent: Parent, hidden: list[str]) -> None:
    """Look for secrets in the output, in all command lines, and in the environment of the children."""
    found = [line for line in parent.output.splitlines() if any(one in line for one in hidden)]
    assert not found, found[:3]
    assert MARK not in command(parent.pid)
    for pid, line in descendants(parent.pid).items() if parent.process.poll() is None else ():
        assert MARK not in line
        with suppress(OSError):
            assert MARK not in Path(f"/proc/{pid}/environ").read_text(errors="replace"), line
