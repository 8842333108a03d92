from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pushsvc.cli.main import program
from pushsvc.config import Settings, load
from pushsvc.errors import InvalidSetting, StartupError
from pushsvc.settings import Ack, TopicSettings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "other.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = load({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.redis, settings.prefix) == ("127.0.0.1", 8000, None, "pushsvc:")
    assert [window.name for window in settings.topics.settings_of("any").windows] == ["1m", "5m", "15m"]


def test_options_override_the_file_and_the_file_overrides_defaults() -> None:
    file = write('port = 9000\nworkers = 3\nallow_host = ["a.example"]\ninsecure = true\n')
    settings = load({"port": 7000, "host": None, "allow_host": (), "insecure": None}, file)
    assert (settings.port, settings.workers, settings.host) == (7000, 3, "127.0.0.1")
    assert settings.allow_host == ("a.example",)
    assert settings.insecure


def test_the_file_in_the_working_directory_is_the_default() -> None:
    write("drain = 9\n", "pushsvc.toml")
    assert load({}).drain == 9


def test_settings_and_data_of_another_user_are_used_only_if_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    file = write("drain = 9\n", "pushsvc.toml")
    os.chown(file, 12_345, -1)
    with pytest.raises(StartupError, match=r"pushsvc\.toml .* another user \(uid 12345\); use --config pushsvc\.toml"):
        load({})
    assert load({}, file).drain == 9
    file.unlink()
    data = tmp_path / "pushsvc-data"
    data.mkdir()
    os.chown(data, 12_345, -1)
    with pytest.raises(StartupError, match=r"another user .*; use --data-dir pushsvc-data"):
        load({"data_dir": None})
    assert load({"data_dir": data}).data_dir == data
    load({"data_dir": None, "redis": "redis://h"})
    data.rmdir()
    data.symlink_to(tmp_path)
    os.lchown(data, 12_345, -1)
    with pytest.raises(StartupError, match="another user"):
        load({"data_dir": None})


ORIGINS = {
    "*": "would let every page",
    "null": "is the origin of files",
    "https://page.example/": "write https://page.example$",
    "HTTPS://Page.example:443": "write https://page.example$",
    "http://page.example:80": "write http://page.example$",
    "page.example": "it has a scheme, a host",
    "https://page.example/app": "it has a scheme, a host",
    "https://": "it has a scheme, a host",
    "https://*.com": "would let every site under that name",
    "https://*": "is not a pattern of origins",
    "https://a.*.example.com": "is not a pattern of origins",
    "https://*.*.example.com": "is not a pattern of origins",
    "https://x*.example.com": "is not a pattern of origins",
    "https://*.example.com/": "is not a pattern of origins",
    "https://*.example.com:443": "is not a pattern of origins",
    "https://*.Example.com": "is not a pattern of origins",
    "https://*.0.0.1": "is not a pattern of origins",
}


@pytest.mark.parametrize("text", ORIGINS)
def test_a_text_that_is_no_origin_is_refused_with_a_reason(text: str) -> None:
    for name in ("allow_origin", "allow_read_origin", "allow_write_origin"):
        with pytest.raises(InvalidSetting, match=ORIGINS[text]):
            load({}, write(f'{name} = ["{text}"]\n'))
        option = f"--{name.replace('_', '-')}"
        done = CliRunner().invoke(program, ["web", option, text])
        assert done.exit_code == 2
        assert f"Invalid value for '{option}'" in done.output


@pytest.mark.parametrize(
    "text", ["https://a.example", "http://a:8080", "http://[::1]:5173", "chrome-extension://abc", "http://a:443"]
)
def test_origins_are_kept_as_browsers_send_them(text: str) -> None:
    assert load({}, write(f'allow_origin = ["{text}"]\n')).allow_origin == (text,)


@pytest.mark.parametrize("text", ["https://*.example.com", "http://*.push.example.com:8443"])
def test_patterns_of_origins_are_kept(text: str) -> None:
    assert load({}, write(f'allow_read_origin = ["{text}"]\n')).allow_read_origin == (text,)


NETWORKS = {"10.1.2.3/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "2001:db8::/32": "2001:db8::/32"}


@pytest.mark.parametrize("text", NETWORKS)
def test_a_trusted_proxy_is_a_network_or_an_address(text: str) -> None:
    assert load({}, write(f'trusted_proxy = ["{text}"]\n')).trusted_proxy == (NETWORKS[text],)


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.0/33", "10.0.0", "fe80::1%eth0/64", "0.0.0.0/0", "::/0"])
def test_a_text_that_is_no_network_of_proxies_is_refused_with_a_reason(text: str) -> None:
    reason = "would trust the headers of everybody" if text.endswith("/0") else "is not a network"
    with pytest.raises(InvalidSetting, match=reason):
        load({}, write(f'trusted_proxy = ["{text}"]\n'))
    done = CliRunner().invoke(program, ["web", "--trusted-proxy", text])
    assert done.exit_code == 2
    assert "Invalid value for '--trusted-proxy'" in done.output


def test_a_limit_of_subjects_and_addresses_may_be_none() -> None:
    limits = load({}, write("[limits]\nrequests_per_second = 0\nstreams_per_address = 0\n")).limits
    assert (limits.requests_per_second, limits.streams_per_address) == (0, 0)
    with pytest.raises(InvalidSetting, match="whole number from 1"):
        load({}, write("[limits]\nmemory_per_address = 0\n"))


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = write('data_dir = "data"\n', "etc/p.toml")
    assert load({}, file).data_dir == Path("etc/data")


def test_the_first_matching_pattern_of_the_file_applies() -> None:
    file = write(
        """
        [topics.flights]
        windows = ["10s", "1h"]
        clock = "event"
        jump = true
        [topics."a.*"]
        cadence_ms = 0
        idle_cadence_ms = 5000
        max_keys = 5
        max_fields = 2
        retention = 10
        [topics.">"]
        cadence_ms = 250
        """
    )
    topics = load({}, file).topics
    flights = topics.settings_of("flights")
    assert [window.length for window in flights.windows] == [10_000, 3_600_000]
    assert (flights.clock, flights.jump, flights.cadence) == ("event", True, 100)
    assert topics.settings_of("a.b") == TopicSettings(
        cadence=0, idle_cadence=5000, max_keys=5, max_fields=2, retention=10
    )
    assert topics.settings_of("b").cadence == 250


@pytest.mark.parametrize(
    ("age", "size", "expected"),
    [("0", "0", (0, 0)), ("90", "1500", (90_000, 1_500)), ("'24h'", "'100MB'", (86_400_000, 100_000_000)),
     ("'30m'", "'7KB'", (1_800_000, 7_000)), ("'5s'", "'1TB'", (5_000, 10**12))],
)  # fmt: skip
def test_retention_has_units(age: str, size: str, expected: tuple[int, int]) -> None:
    file = write(f"[topics.a]\nretention_age = {age}\nretention_bytes = {size}\n")
    found = load({}, file)
    settings = found.topics.settings_of("a")
    assert (settings.retention_age, settings.retention_bytes) == expected
    assert Settings.decode(found.encode()).topics.settings_of("a") == settings


@pytest.mark.parametrize(("text", "expected"), [("'7d'", 604_800_000), ("'1h'", 3_600_000), ("0", 0)])
def test_topics_expire(text: str, expected: int) -> None:
    found = load({}, write(f"[topics.'user.*']\nexpire_after = {text}\n"))
    settings = found.topics.settings_of("user.1")
    assert settings.expire_after == expected
    assert found.topics.settings_of("b").expire_after == 0
    assert Settings.decode(found.encode()).topics.settings_of("user.1") == settings


def test_topics_of_jobs_keep_newest_events_unless_the_file_says_otherwise() -> None:
    text = """
    [topics."job.import"]
    retention = 5
    [topics."job.counted.*"]
    windows = ["1m"]
    latest = false
    [topics."board"]
    latest = true
    latest_deletes = ["left"]
    """
    rules = load({}, write(text)).topics
    jobs = [rules.settings_of(name) for name in ("job.1", "job.a.b", "job.import")]
    assert [(one.latest, one.windows) for one in jobs] == [(True, ())] * 3
    assert jobs[2].retention == 5
    counted, board, other = map(rules.settings_of, ("job.counted.1", "board", "jobs"))
    assert (counted.latest, len(counted.windows)) == (False, 1)
    assert (board.latest, board.latest_deletes, len(board.windows)) == (True, ("left",), 3)
    assert not other.latest


def test_statistics_of_values_need_their_fields() -> None:
    text = "statistics = ['distinct', 'p90', 'top', 'top100', 'last']\nvalues = ['user', 'dish']\nmax_values = 5"
    settings = load({}, write("[topics.a]\n" + text)).topics.settings_of("a")
    assert (settings.values, settings.max_values, settings.percents) == (("user", "dish"), 5, (90,))
    assert settings.value_statistics == ("distinct", "top", "top100", "last")
    every = load({}, write(f"[topics.a]\n{text}\nexact = true\nwindows = ['1m', 'last 10']")).topics.settings_of("a")
    assert (every.values, every.exact, every.largest_count_window) == (("user", "dish"), True, 10)
    assert settings.columns[9:] == ("distinct", "p90", "top", "top100", "last", "approximate")
    assert settings.rankable[7:] == ("distinct", "p90")


def test_a_topic_can_have_parts() -> None:
    settings = load({}, write("[topics.hot]\nparts = 4\n[topics.'a.*']\nparts = 1\n"))
    assert (settings.topics.settings_of("hot").parts, settings.topics.settings_of("a.b").parts) == (4, 1)
    assert Settings.decode(settings.encode()).topics.settings_of("hot").parts == 4


def test_ack_is_parsed() -> None:
    assert load({}).ack == Ack()
    file = write('ack = "replicas:2"\n')
    assert load({}, file).ack == Ack(replicas=2)
    assert load({"ack": Ack(fsync=True)}, file).ack == Ack(fsync=True)
    assert Settings.decode(load({}, file).encode()).ack == Ack(replicas=2)
    with pytest.raises(InvalidSetting, match="ack: 'disk' must be memory, fsync or replicas:N"):
        load({}, write('ack = "disk"\n'))


def test_limits() -> None:
    limits = load({}, write("[limits]\nbatch = 5\n")).limits
    assert limits.batch == 5
    assert limits.body == 8_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = ", "other.toml:1: Invalid value (at end of document)"),
        ("prot = 1", "other.toml:1: prot: there is no such setting; did you mean port?"),
        ("port = '1'", "other.toml:1: port: must be a whole number from 0 to 65535"),
        ("port = true", "other.toml:1: port: must be a whole number"),
        ("port = 70000", "other.toml:1: port: must be a whole number"),
        ("workers = 0", "other.toml:1: workers: must be a whole number from 1"),
        ("insecure = 1", "other.toml:1: insecure: must be true or false"),
        ("redis = 7", "other.toml:1: redis: must be text"),
        ("allow_host = 'a'", "other.toml:1: allow_host: must be a list of texts"),
        ("topics = 1", "other.toml:1: topics: must have a table per topic"),
        ("[topics.a]\nparts = 0", "other.toml:2: topics.a.parts: must be a whole number from 1 to 16"),
        ("[topics.a]\nparts = 17", "other.toml:2: topics.a.parts: must be a whole number from 1 to 16"),
        ("[topics.'a.*']\nparts = 2", "other.toml:2: topics.\"a.*\".parts: only a single topic"),
        ("[topics.a]\nparts = 2\nexact = true", "other.toml:2: topics.a.parts: a topic with exact windows"),
        ("[topics.a]\nparts = 2\nwindows = ['last 5']", "other.toml:2: topics.a.parts: a topic with windows of"),
        ("[topics.a]\nparts = 2\nvalues = ['v']\nstatistics = ['last']", "other.toml:2: topics.a.parts: a topic with"),
        ("[topics]\na = 1", "other.toml:2: topics.a: must be a table"),
        ("[topics.'a b']", 'other.toml:1: topics."a b": '),
        ("[topics.'a.*']\nwindws = ['1m']", 'other.toml:2: topics."a.*".windws: there is no such setting'),
        ("[topics.a]\nwindows = ['7x']", "other.toml:2: topics.a.windows: '7x' is not a window"),
        ("[topics.a]\nwindows = '1m'", "other.toml:2: topics.a.windows: must be a list of texts"),
        ("[topics.a]\nparts = 2\nwindows = []", "other.toml:2: topics.a.parts: a topic without windows has no"),
        ("[topics.a]\nwindows = ['1m', '1m']", "other.toml:2: topics.a.windows: must have no window twice"),
        ("[topics.a]\nwindows = ['last 9', 'last9']", "other.toml:2: topics.a.windows: must have no window twice"),
        ("[topics.a]\nwindows = ['last 1']", "other.toml:2: topics.a.windows: window 'last 1' is not between last 2"),
        ("[topics.a]\nexact = 1", "other.toml:2: topics.a.exact: must be true or false"),
        ("[topics.a]\nmax_events = 2000000",
         "other.toml:2: topics.a.max_events: must be a whole number from 1 to 1000000"),
        ("[topics.a]\nkey = ['a', 'a']", "other.toml:2: topics.a.key: must have at least one grouping, and none twice"),
        ("[topics.a]\nkey = 'a+'", "other.toml:2: topics.a.key: 'a+' must be the name of a field"),
        ("[topics.a]\nkey = 7", "other.toml:2: topics.a.key: must be a list of texts"),
        ("[topics.a]\nindex = ['user', 'user']", "other.toml:2: topics.a.index: must have at most 4 fields"),
        ("[topics.a]\nindex = ['time']", "other.toml:2: topics.a.index: 'time' must be the name of a field"),
        ("[topics.a]\nindex = ['limit']", "other.toml:2: topics.a.index: 'limit' is a parameter of history"),
        ("[topics.a]\nstatistics = ['p50', 'p100']",
         "other.toml:2: topics.a.statistics: 'p100' is not an optional statistic"),
        ("[topics.a]\nstatistics = ['top0']\nvalues = ['v']", "other.toml:2: topics.a.statistics: 'top0' is not"),
        ("[topics.a]\nstatistics = ['top101']\nvalues = ['v']", "other.toml:2: topics.a.statistics: 'top101' is not"),
        ("[topics.a]\nstatistics = ['p50', 'distinct']", "other.toml:2: topics.a.statistics: 'distinct' needs fields"),
        ("[topics.a]\nvalues = ['user']", "other.toml:2: topics.a.values: no statistic uses them"),
        ("[topics.a]\nvalues = 'user'", "other.toml:2: topics.a.values: must be a list of texts"),
        ("[topics.a]\nvalues = ['a', 'a']", "other.toml:2: topics.a.values: must have at most 8 fields"),
        ("[topics.a]\nvalues = ['time']", "other.toml:2: topics.a.values: 'time' must be the name of a field"),
        ("[topics.a]\nvalues = ['$offset']", "other.toml:2: topics.a.values: '$offset' must be the name of a field"),
        ("[topics.a]\nclock = 'sun'", 'other.toml:2: topics.a.clock: must be "wall" or "event"'),
        ("[topics.a]\ncadence_ms = 0.5", "other.toml:2: topics.a.cadence_ms: must be a whole number"),
        ("[topics.a]\nretention_age = '7w'",
         "other.toml:2: topics.a.retention_age: must be a number of seconds, or text such"),
        ("[topics.a]\nretention_age = -1", "other.toml:2: topics.a.retention_age: must be a number of seconds"),
        ("[topics.a]\nretention_age = 1.5", "other.toml:2: topics.a.retention_age: must be a number of seconds"),
        ("[topics.a]\nretention_age = ''", "other.toml:2: topics.a.retention_age: must be a number of seconds"),
        ("[topics.a]\nexpire_after = '59m'", 'other.toml:2: topics.a.expire_after: must be at least "1h", or 0'),
        ("[topics.a]\nexpire_after = '7w'", "other.toml:2: topics.a.expire_after: must be a number of seconds"),
        ("[topics.a]\nwindows = ['24h']\nexpire_after = '1d'",
         "other.toml:3: topics.a.expire_after: must be longer than the longest window"),
        ("[topics.a]\nretention_bytes = true", "other.toml:2: topics.a.retention_bytes: must be a number of bytes"),
        ("[topics.a]\nretention_bytes = '2 GB'", "other.toml:2: topics.a.retention_bytes: must be a number of bytes"),
        ("[topics.a]\nretention_bytes = '1MiB'", "other.toml:2: topics.a.retention_bytes: must be a number of bytes"),
        ("[topics.a]\nretention_bytes = '9999TB'", "other.toml:2: topics.a.retention_bytes: '9999TB' is too large"),
        ("[topics.a]\nlatest = 1", "other.toml:2: topics.a.latest: must be true or false"),
        ("[topics.a]\nlatest_deletes = 'gone'", "other.toml:2: topics.a.latest_deletes: must be a list of texts"),
        (f"[topics.a]\nlatest_deletes = {['x'] * 21}", "other.toml:2: topics.a.latest_deletes: must have at most 20"),
        ("[topics.a]\nlatest = true\nmax_keys = 100001",
         "other.toml:3: topics.a.max_keys: with latest = true it must be at most 100000"),
        ("[limits]\nbodi = 1", "other.toml:2: limits.bodi: there is no such setting; did you mean body?"),
        ("[limits]\nbody = 0", "other.toml:2: limits.body: must be a whole number from 1"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_line_and_the_key(text: str, message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load({}, write(text))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"port = 1\nhost == 'a'\n", "other.toml:2:7: Invalid value"),
        (b"port = 1\r\n\r\nport = 2\r\n", "other.toml:3:9: Cannot overwrite a value"),
        (b"port = 1\nhost = [\n  'a',\n\n", "other.toml:2: Invalid value (at end of document)"),
        (b"port = 1\nhost = \"\"\"\n[topics.a]\n", "other.toml:2: Unterminated string (at end of document)"),
        (b"port = 1\n# gr\xfcn\n", "other.toml:2: byte 0xfc is not UTF-8"),
        (b"port = " + b"1" * 5_000, "other.toml: Exceeds the limit"),
        (b"host = " + b"[" * 5_000, "other.toml: "),
        (b"# topics\n[topics.b]\nwindows = [ # 'x'\n  '1m',\n  'x'\n]\n", "other.toml:3: topics.b.windows: 'x' is not"),
        (b"[topics.a]\nretention = 5\n\n[topics.b]\nretention = 'x'\n", "other.toml:5: topics.b.retention: must be"),
        (b"topics.a.retention = 5\ntopics.b = {clock = 'sun'}\n", "other.toml:2: topics.b.clock: must be"),
        (b"[topics]\n[topics.\"a\\nb\"]\n", 'other.toml:2: topics."a\\nb": '),
        (b'port = 1\n"a \\u00e4.b" = 2\n', 'other.toml:2: "a ä.b": there is no such setting'),
    ],
)  # fmt: skip
def test_an_error_names_its_line_wherever_it_is(data: bytes, message: str) -> None:
    path = Path("other.toml")
    path.write_bytes(data)
    with pytest.raises(InvalidSetting) as caught:
        load({}, path)
    assert str(caught.value).startswith(message)


def test_a_named_file_must_exist() -> None:
    with pytest.raises(StartupError, match=r"cannot read none\.toml: No such file"):
        load({}, Path("none.toml"))


def test_settings_are_encoded_for_a_child() -> None:
    settings = load(
        {"redis": "redis://:secret@h/0"},
        write("data_dir = 'x'\nallow_origin = ['http://o']\n[topics.'a.>']\nwindows = ['90s']\n[limits]\nkey = 9\n"),
    )
    decoded = Settings.decode(settings.encode())
    assert decoded.topics.settings_of("a.b") == settings.topics.settings_of("a.b") != TopicSettings()
    assert replace(decoded, topics=settings.topics) == settings


def test_count_windows_and_exact_windows() -> None:
    file = write("[topics.a]\nwindows = ['1m', 'last   1000', 'last50']\nexact = true\nmax_events = 9\n")
    settings = load({}, file).topics.settings_of("a")
    assert [(window.name, window.pane, window.events) for window in settings.windows] == [
        ("1m", 1, 0), ("last 1000", 0, 1_000), ("last 50", 0, 50)
    ]  # fmt: skip
    assert (settings.longest_window, settings.largest_count_window, settings.max_events) == (60_000, 1_000, 9)
    assert Settings.decode(load({}, file).encode()).topics.settings_of("a") == settings
    assert [settings.window(name) and settings.window(name).name for name in ("last 1000", "last1000", "last  50")] == [
        "last 1000", "last 1000", "last 50"
    ]  # fmt: skip
    assert [settings.window(name) for name in ("last 51", "1 m", "last", "last 50 ")] == [None] * 4
    assert [window.pane for window in TopicSettings(exact=True).windows] == [1, 1, 1]
