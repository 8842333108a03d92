"""`make check` finds secrets in the files, and a database of vulnerabilities that does not answer does not stop it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
OFFLINE = {f"{name}_proxy": "http://127.0.0.1:1" for name in ("http", "https", "HTTP", "HTTPS")}


def scan(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci/scan.py")], cwd=folder, env=os.environ | OFFLINE | {"no_proxy": ""},
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if not shutil.which("git"):
        pytest.skip("needs git")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/dev.txt").write_text(f"click==8.1.0 --hash=sha256:{'0' * 64}\n")
    return tmp_path


def private_key() -> str:
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_secrets_are_found_without_being_shown(repository: Path) -> None:
    made = [private_key(), jwt.encode({"sub": "u"}, "k" * 32, "HS256"), f"ghp_{secrets.token_hex(18)}"]
    (repository / "notes.md").write_text("\n\n".join(made))
    done = scan(repository)
    assert done.returncode == 1, done.stderr
    assert "notes.md:1: a private key" in done.stdout
    assert "a signed token" in done.stdout
    assert "a token of GitHub" in done.stdout
    assert not [
        line for text in made for line in text.splitlines() if "KEY-----" not in line and line and line in done.stdout
    ]


def test_unreachable_database_is_reported_and_does_not_fail(repository: Path) -> None:
    (repository / "notes.md").write_text("-----BEGIN PRIVATE KEY-----\n…\n")
    done = scan(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT scanned for known vulnerabilities" in done.stdout
