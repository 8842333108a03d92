"""``pushsvc token``, in real processes where secrets could leak."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from pushsvc.auth.api_keys import PREFIX, ApiKeys, read_api_key
from pushsvc.auth.grants import Action
from pushsvc.auth.tokens import ALGORITHMS
from pushsvc.cli.main import program

SECRET = "a secret of more than thirty-two bytes"


pytestmark = pytest.mark.usefixtures("elsewhere")


def invoke(*arguments: str, stdin: str | None = None, key: str | None = SECRET) -> Result:
    environment = {} if key is None else {"PUSHSVC_JWT_KEY": key}
    return CliRunner().invoke(program, ["token", *arguments], input=stdin, env=environment)


def minted(*arguments: str) -> str:
    made = invoke("mint", "--subscribe", "shop.>", *arguments)
    assert made.exit_code == 0, made.output
    return made.stdout


def test_a_minted_token_is_accepted_and_says_what_was_granted() -> None:
    made = minted("--sub", "u42", "--publish", "shop.orders", "--key", "u42", "--connections", "3", "--expires", "2h")
    checked = invoke("check", stdin=made)
    assert checked.exit_code == 0, checked.output
    said = json.loads(checked.stdout)
    assert said["sub"] == "u42"
    assert said["subscribe"] == [{"topics": "shop.>", "keys": ["u42"]}]
    assert said["publish"] == [{"topics": "shop.orders", "keys": ["u42"]}]
    assert said["connections"] == 3
    claims = jwt.decode(made.strip(), SECRET, ["HS256"])
    assert claims["exp"] - claims["iat"] == 7_200


def test_keys_do_not_limit_what_is_managed() -> None:
    made = minted("--manage", ">", "--key", "u42", "--jwt-issuer", "us", "--jwt-audience", "push")
    said = json.loads(invoke("check", "--jwt-issuer", "us", "--jwt-audience", "push", stdin=made).stdout)
    assert said["manage"] == [">"]
    assert invoke("check", "--jwt-issuer", "others", stdin=made).exit_code == 1
    assert invoke("check", "--jwt-audience", "others", stdin=made).exit_code == 1


def test_show_reads_a_token_of_any_key_and_says_that_nothing_was_checked() -> None:
    made = jwt.encode({"exp": 1, "sub": "\x1b]0;title\x07"}, "another secret of thirty-two bytes!", "HS256")
    shown = invoke("show", stdin=made, key=None)
    assert shown.exit_code == 0
    assert "NOT CHECKED" in shown.stderr
    assert "1970-01-01T00:00:01" in shown.stderr
    assert "\x1b" not in shown.output
    assert json.loads(shown.stdout)["claims"]["exp"] == 1
    refused = invoke("check", stdin=made)
    assert refused.exit_code == 1
    assert "no key" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (["mint"], "", "--publish"),
        (["mint", "--publish", "a..b"], "", "publish"),
        (["mint", "--publish", "a", "--expires", "0s"], "", "duration"),
        (["mint", "--publish", "a", "--expires", "soon"], "", "duration"),
        (["mint", "--publish", "a", "--jwt-alg", "none"], "", "is none of"),
        (["mint", "--publish", "a", "--jwt-alg", "RS256"], "", "sign"),
        (["mint", "--publish", "a", "--connections", "-1"], "", "connections"),
        (["check"], "", "standard input"),
        (["check"], "nonsense", "cannot be read"),
        (["show"], "nonsense", "not a token"),
        (["show"], "a.b.c", "not a token"),
        (["key", "two words", "--publish", "a"], "", "name"),
        (["key", "producer"], "", "--publish"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], stdin: str, why: str) -> None:
    refused = invoke(*arguments, stdin=stdin)
    assert refused.exit_code in (1, 2)
    assert why in refused.stderr
    assert "Traceback" not in refused.output


def test_without_a_key_nothing_is_minted() -> None:
    refused = invoke("mint", "--publish", "a", key=None)
    assert refused.exit_code == 1
    assert "PUSHSVC_JWT_KEY" in refused.stderr


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    made = CliRunner().invoke(program, ["token", "mint", "--publish", "a", "--jwt-key-file", str(file)])
    assert jwt.decode(made.stdout.strip(), SECRET, ["HS256"])["pushsvc"] == {"publish": ["a"]}


def test_a_short_secret_is_warned_of() -> None:
    made = invoke("mint", "--publish", "a", key="short")
    assert made.exit_code == 0
    assert "guessed" in made.stderr


def test_an_asymmetric_key_signs_and_its_public_half_checks() -> None:
    pytest.importorskip("cryptography", reason="ES256 needs cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    made = invoke("mint", "--publish", "a", "--jwt-alg", "ES256", key=secret)
    assert made.exit_code == 0, made.output
    checked = invoke("check", "--jwt-alg", "ES256", stdin=made.stdout, key=public.decode())
    assert json.loads(checked.stdout)["publish"] == ["a"]
    assert "ES256" in ALGORITHMS


def test_an_api_key_comes_with_the_lines_for_the_settings() -> None:
    made = invoke("key", "producer", "--publish", "shop.>", "--key", "u42")
    assert made.stdout.startswith(PREFIX)
    entry = tomllib.loads(made.stderr)["keys"]["producer"]
    grants = ApiKeys((read_api_key("producer", entry),)).grants(made.stdout.strip())
    assert grants.keys(Action.PUBLISH, "shop.orders") == {"u42"}
    assert grants.subject == "producer"
    assert made.stdout.strip() not in made.stderr


@pytest.mark.parametrize("command", ["mint", "show", "check", "key"])
def test_the_help_is_one_screen_and_takes_no_secret_as_an_argument(command: str) -> None:
    text = invoke(command, "--help").output
    assert len(text.splitlines()) <= 40
    assert "TOKEN" not in text.replace("pushsvc token", "")
