"""Origins of any form: an origin that is not listed is refused, and its text is never repeated."""

from __future__ import annotations

from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.config.checks import origin as check_origin
from pushsvc.web.cors import Cors, Origins, Reach

EXACT = ["https://page.example", "http://localhost:3000", "https://[::1]:8443"]
PATTERNS = ["https://*.example.com", "http://*.dev.example:8080"]
labels = st.text("abz019-_.*", max_size=8) | st.sampled_from(["example.com", "evil.example", "a", "example.com.evil"])
near = st.builds(
    lambda scheme, name, rest: f"{scheme}{name}{rest}",
    st.sampled_from(["https://", "http://", "HTTPS://", "https:/", "", "null", "https://example.com@", "https://\n"]),
    labels,
    st.sampled_from([
        "", ".example.com", "example.com", ".example.com:443", ".example.com/", ".example.com\n", ".example.com.",
        ".EXAMPLE.com", ".example.com#", ".example.com, https://page.example", "/.example.com", "?.example.com",
        "@.example.com", ":1.example.com", "\\.example.com", ".dev.example:8080", ".dev.example",
    ]),
)  # fmt: skip
origins = near | st.text(max_size=40) | st.sampled_from([*EXACT, *PATTERNS, "null", "*", "https://a.example.com"])


def is_listed(origin: str) -> bool:
    """Return whether an origin is listed, by the parts that a browser sees."""
    if origin in EXACT:
        return True
    try:
        found = urlsplit(origin)
        again = f"{found.scheme}://{found.hostname}{'' if found.port is None else f':{found.port}'}"
    except ValueError:
        return False
    if again != origin or found.hostname is None or "*" in origin:
        return False
    return (found.scheme == "https" and found.port is None and found.hostname.endswith(".example.com")) or (
        found.scheme == "http" and found.port == 8080 and found.hostname.endswith(".dev.example")
    )


@given(origins)
def test_only_listed_origins_are_accepted(origin: str) -> None:
    if origin in Origins([*EXACT, *PATTERNS]):
        assert is_listed(origin)


@given(st.lists(st.sampled_from("ab0"), min_size=1, max_size=3).map(".".join))
def test_every_name_under_a_pattern_is_accepted(name: str) -> None:
    assert f"https://{name}.example.com" in Origins(PATTERNS)


@given(origins, st.text(max_size=40), st.sampled_from(["GET", "HEAD", "POST", "DELETE", "get", "", "GET, HEAD"]))
def test_origin_that_is_not_listed_is_never_repeated(origin: str, requested: str, method: str) -> None:
    cors = Cors(EXACT[:1], [*EXACT[1:2], *PATTERNS], EXACT[2:])
    headers = dict(cors.headers(origin))
    preflight = cors.preflight(origin, requested)
    if not is_listed(origin):
        assert headers == {"Vary": "Origin"}
        assert preflight is None
        assert not cors.may(origin, method)
        return
    if cors.may(origin, method):
        assert method in {"GET", "HEAD"} or (method == "POST" and origin in (EXACT[0], EXACT[2])) or origin == EXACT[2]
    if cors.reach(origin) is not Reach.NOTHING:
        assert headers["Access-Control-Allow-Origin"] == origin
        assert preflight is not None
        assert all(value.isprintable() for value in preflight.headers.values())


@given(origins | st.none() | st.integers() | st.lists(st.text()))
def test_any_setting_is_an_origin_or_refused(value: object) -> None:
    try:
        text = check_origin(value)
    except ValueError:
        return
    if "*" in text:
        assert text.count("*") == 1
        assert text.partition("*")[2].count(".") >= 2, "a pattern would accept a whole top-level domain"
    else:
        assert text in Origins([text])
        assert urlsplit(text).hostname
