"""URLs of Redis."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from pushsvc.broker.cluster.address import Address, with_files, without_password
from pushsvc.broker.keys import TAGS, slot_of

SENTINELS = {
    "redis+sentinel://a,b:5/m": (["redis://a:26379/", "redis://b:5/"], "redis://h:1/"),
    "redis+sentinel://a/m/3?socket_keepalive=1": (["redis://a:26379/"], "redis://h:1/3?socket_keepalive=1"),
    "redis+sentinel://me:p%40ss@[::1]:7,[::2]/m/": (
        ["redis://[::1]:7/", "redis://[::2]:26379/"],
        "redis://me:p%40ss@h:1/",
    ),
    "rediss+sentinel://:pw@a/m?ssl_ca_certs=/ca&sentinel_password=s%2Fp&sentinel_username=u": (
        ["rediss://a:26379/?password=s%2Fp&username=u&ssl_ca_certs=%2Fca"],
        "rediss://:pw@h:1/?ssl_ca_certs=%2Fca",
    ),
}


@pytest.mark.parametrize("url", SENTINELS)
def test_a_sentinel_url_names_the_sentinels_and_the_master(url: str) -> None:
    sentinels, server = SENTINELS[url]
    address = Address.parse(url)
    assert (address.kind, address.master) == ("sentinel", "m")
    assert [address.sentinel(host) for host in address.hosts] == sentinels
    assert address.server(("h", 1)) == server


def test_a_cluster_url_names_some_nodes() -> None:
    address = Address.parse("REDISS+cluster://me:pw@a:1,b/?ssl_cert_reqs=none")
    assert (address.kind, address.hosts) == ("cluster", (("a", 1), ("b", 6379)))
    assert address.server(("::1", 2)) == "rediss://me:pw@[::1]:2/?ssl_cert_reqs=none"


@pytest.mark.parametrize("url", ["redis://me:a,b@h:1/0", "rediss://h", "unix:///a,b.sock?db=1"])
def test_the_url_of_one_server_is_kept(url: str) -> None:
    assert Address.parse(url) == Address("standalone", url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://a:1,b:2/0", "several hosts need redis+cluster://"),
        ("redis+sentinel://a:1", "ends with the name of the master"),
        ("redis+sentinel://a:1/m/one", "the master, is not a number"),
        ("redis+sentinel://a:x/m", "a host is written host or host:port"),
        ("redis+cluster://a:1,/", "a host is written host or host:port"),
        ("redis+cluster://a:1/2", "a cluster has only the database 0"),
        ("redis+ring://a:1", "the schemes are redis://"),
        ("http+cluster://a:1", "the schemes are redis://"),
        ("redis://:sec?ret@h:1/0", "write these as %2F, %3F and %23"),
        ("redis://:a@sec#ret@h:1/0", "write these as %2F, %3F and %23"),
        ("redis+cluster://:sec/ret@h:1", "write these as %2F, %3F and %23"),
        ("redis://h?bogus=1", "no such parameter as number 1 of the URL; the parameters are "),
        ("redis://h?socket_timeot=1", "did you mean socket_timeout?"),
        ("redis://h?ssl_ca_certs=a", "the parameter ssl_ca_certs needs TLS: use rediss"),
        ("redis://h?parser_class=a", "no such parameter"),
        ("redis+cluster://h?sentinel_username=a", "no such parameter"),
    ],
)
def test_an_invalid_url_is_refused_with_a_reason(url: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Address.parse(url)
    assert sentence in str(error.value)
    assert "sec" not in without_password(url) + str(error.value).replace("socket", "")


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ("{a}b", "a"),
        ("x{a}{b}", "a"),
        ("{}a", "{}a"),
        ("a{b", "a{b"),
        ("p:{7x1}:log:t", "7x1"),
        ("123456789", "123456789"),
    ],
)
def test_the_hash_tag_of_a_key_decides_its_slot(key: str, same: str) -> None:
    assert slot_of(key) == slot_of(same)
    assert slot_of("123456789") == 0x31C3  # from the Redis Cluster specification
    assert len({slot_of(tag) for tag in TAGS}) == len(TAGS)


def test_without_password_hides_every_password() -> None:
    assert without_password("rediss://me:secret@h:1/0?db=1") == "rediss://…@h:1/0"
    assert without_password("unix:///a/b.sock") == "unix:///a/b.sock"
    several = "rediss+sentinel://me:secret@a:1,[::1]:2/m/0?sentinel_password=secret&ssl_ca_certs=ca"
    assert without_password(several) == "rediss+sentinel://…@a:1,[::1]:2/m/0"
    assert "secret" not in repr(Address.parse(several))


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:secret", "redis://host:secret/0", "redis://:secret@host:secret", "redis://a:1,b:secret",
        "redis+sentinel://h:secret/x", "redis+cluster://h:secret,b:secret", "redis://[::1]:secret", "redis:secret",
        "rediss://h:secret?db=1", "redis://h/secret", "redis://h:1/0/secret", "redis+cluster://h/secret",
        "redis+sentinel://h/m/secret", "redis://h?secret", "redis://h?secret=1", "redis://h/0?db=secret",
        "redis://:a?secret@h", "redis://:secret?a@h", "redis://:a#secret@h", "redis://:se[cret]secret@h",
        "redis://:secret\u2100@h:1", "redis://user:1?secret", "redis://user:1#secret@h", "redis://user:1/secret",
        "redis://h?passw0rd=secret", "secret://h", "redis+cluster://:secret\u2100@h:1", "redis://h?password_fil=secret",
        "redis://:a@h?password=secret&password_file=/x",
    ],
)  # fmt: skip
def test_a_password_in_a_wrong_place_is_hidden(url: str) -> None:
    assert "secret" not in without_password(url)
    if "://" in url:
        with pytest.raises(ValueError) as error:
            Address.parse(url)
        assert "secret" not in str(error.value)
        assert "secret" not in "".join(traceback.format_exception(error.value))


FILES: dict[str, Any] = {"username": "u", "password_file": Path("/p")}


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("redis://h:1/0", "redis://h:1/0?username=u&password_file=%2Fp"),
        ("redis://h:1?db=2", "redis://h:1?db=2&username=u&password_file=%2Fp"),
        ("unix:///a.sock", "unix:///a.sock?username=u&password_file=%2Fp"),
        ("redis+cluster://a,b", "redis+cluster://a,b?username=u&password_file=%2Fp"),
        ("redis+sentinel://a/m/1", "redis+sentinel://a/m/1?username=u&password_file=%2Fp"),
    ],
)
def test_settings_complete_the_url(url: str, complete: str) -> None:
    assert with_files(url) == url
    assert with_files(url, **FILES) == complete
    Address.parse(complete)


@pytest.mark.parametrize(
    ("url", "files", "sentence"),
    [
        ("redis://me:secret@h", FILES, "leave one of them out"),
        ("redis://:secret@h", FILES, "leave one of them out"),
        ("redis://me@h", FILES, "leave one of them out"),
        ("redis://h?password=secret", FILES, "leave one of them out"),
        ("redis://h?username=a", FILES, "leave one of them out"),
        ("rediss://h?ssl_ca_certs=a", {"ca_file": Path("/b")}, "leave one of them out"),
        ("redis://h", {"key_file": Path("/k")}, "redis_key_file needs redis_cert_file"),
        ("redis://h?password=secret&password_file=a", {}, "exclude each other"),
    ],
)
def test_what_is_given_twice_is_refused(url: str, files: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Address.parse(with_files(url, **files))
    assert sentence in str(error.value)
    assert "secret" not in str(error.value)


def test_tls_settings_need_a_tls_url() -> None:
    with pytest.raises(ValueError) as error:
        Address.parse(with_files("redis://h", ca_file=Path("/ca")))
    assert "needs TLS" in str(error.value)


def test_ports_are_shown() -> None:
    for url in ("redis://h:6379/0", "redis://[::1]:6379", "redis+cluster://a:1,[::1]:2", "redis://h", "redis://[::1]"):
        assert without_password(url) == url
