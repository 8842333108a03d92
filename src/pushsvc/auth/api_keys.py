"""API keys of producers: named secrets with grants. Only their hashes are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from pushsvc.auth.grants import Grants, InvalidGrants, read_grants
from pushsvc.errors import InvalidSetting, InvalidToken

PREFIX = "pushsvc_"
"""Begins every key, so that scanners of secrets find one in a repository, and none is taken for a token."""

_HASH = "sha256:"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its SHA-256, which is enough: a key has 256 random bits, so nobody can try all of them."""

    name: str
    digest: bytes
    grants: Grants


def hash_of(key: str) -> str:
    """Return what the settings contain instead of a key."""
    return _HASH + sha256(key.encode()).hexdigest()


def read_api_key(name: str, entry: Mapping[str, Any]) -> ApiKey:
    """Return the key of an entry in the settings: ``hash`` and the three lists of grants. Raise InvalidSetting."""
    entry = dict(entry)
    text = entry.pop("hash", None)
    if not isinstance(text, str) or not text.startswith(_HASH) or len(text) != len(hash_of("")):
        raise InvalidSetting(f"keys.{name}.hash: 'sha256:' and 64 hexadecimal digits are expected")
    try:
        digest = bytes.fromhex(text.removeprefix(_HASH))
        grants = replace(read_grants(entry), subject=name)
    except InvalidGrants as error:
        raise InvalidSetting(f"keys.{name}: {error}") from None
    except ValueError:
        raise InvalidSetting(f"keys.{name}.hash: 64 hexadecimal digits are expected after 'sha256:'") from None
    return ApiKey(name, digest, grants)


class ApiKeys:
    """Finds the grants of API keys. It compares with every known key, each in constant time."""

    def __init__(self, keys: tuple[ApiKey, ...] = ()) -> None:
        self._keys = keys

    def grants(self, key: str) -> Grants:
        """Return the grants of a key. Raise InvalidToken."""
        digest = sha256(key.encode("utf-8", "replace")).digest()
        found = [known for known in self._keys if compare_digest(known.digest, digest)]
        if not found:
            raise InvalidToken("the API key is not known here")
        return found[0].grants
