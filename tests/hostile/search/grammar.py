"""Grammars of requests within all documented limits, one for each kind."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from hypothesis import strategies as st

from hostile.search.recipe import CURSOR, NUMBER, Recipe, Text
from hostile.search.topics import READ, WRITTEN

BODY = 7_900_000
TARGET = 8_000
JSON = (("Content-Type", "application/json"),)
TIMES = ["2023-01-01T00:00:00Z", "1700000000000", "2099-01-01T00:00:00+14:00"]
COUNTS = st.sampled_from([1, 2, 7, 30, 100])
COLUMNS = ["count", "rate", "sum", "mean", "min", "max", "std", "p50", "p95", "distinct"]
WINDOWS = ["*", "1m", "5m", "15m", "10s", "1h", "24h", "last 1000", "last 100000", "all"]
WORDS = [
    "a",
    "zz",
    "é",
    "İ",
    "ﬃ",
    "\U0001f600",
    '"',
    "=1+1",
    "0.1",
    "-0",
    "1e308",
    "5e-324",
    "9007199254740993",
    "true",
    "null",
    "k1",
    "u1",
    "{",
    "'",
    "\\",
    "\t",
    "__other__",
    "k~~",
    "é" * 50,
    "a" * 150,
]
NAMES = ["user", "note", "n", "f0", "dish", "missing", "key", "é", "f~~"]

words = st.sampled_from(WORDS)
keys = st.sampled_from(["k~~", "k1", "", "~~", "é~~", "__other__"])
sizes = st.sampled_from([1, 3, 10, 30, 100, 1_000, 5_000])
flags = st.booleans()


def seen(*topics: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"/v1/topics/search.{topic}" for topic in topics or READ])


def length(text: Text) -> int:
    """Return how many bytes a text has at most, without making it."""
    if isinstance(text, str):
        return len(text.replace(NUMBER, "9999").encode())
    times = text[-1] if text and isinstance(text[-1], int) else 1
    return times * sum(length(part) for part in text if not isinstance(part, int))


def often(parameter: str, values: st.SearchStrategy[str], most: int) -> st.SearchStrategy[Text]:
    """A repeated parameter, within the length of a target."""
    bounded = st.builds(
        lambda value, count: [f"&{parameter}={quote(value)}", min(count, TARGET // (6 + len(quote(value))))],
        values,
        st.sampled_from([1, 2, 10, 20, 100, 1_000]),
    )
    return bounded.map(lambda text: cast("Text", [text[0], min(cast("int", text[1]), most)]))


def of(parameter: str, *values: str) -> st.SearchStrategy[Text]:
    return st.sampled_from(values).map(lambda value: f"&{parameter}={quote(value)}")


def query(path: st.SearchStrategy[str], *parameters: st.SearchStrategy[Text], most: int = 5) -> st.SearchStrategy[Text]:
    """A target with some of the parameters, each at most once."""
    chosen = st.lists(st.integers(0, len(parameters) - 1), unique=True, max_size=most).flatmap(
        lambda places: st.tuples(*(parameters[place] for place in sorted(places)))
    )
    target = st.builds(lambda begin, found: cast("Text", [begin, "?", *found]), path, chosen)
    return target.filter(lambda text: length(text) < TARGET)


def got(target: st.SearchStrategy[Text], *headers: tuple[str, Text]) -> st.SearchStrategy[Recipe]:
    return target.map(lambda text: Recipe("GET", text, headers))


# -- bodies

numbers = st.sampled_from(
    ["1", "~~", "0.1", "-1e-300", "5e-324", "1.7976931348623157e308", "9223372036854775807", "~~.5"]
)
texts = st.builds(
    lambda word, size: ['"', [word, size], '"'], st.sampled_from(["a", "é", "\\u00e9", "\\n", "😀", '\\"', "~~"]), sizes
)
nested = st.one_of(
    st.builds(
        lambda inner, size: ["[", [f"{inner},", size], f"{inner}]"],
        st.sampled_from(["1", "{}", "[]", '"a"', "null", '{"a":1}', "[[[[[[]]]]]]"]),
        sizes,
    ),
    st.builds(lambda depth: [['{"a":', depth], "1", ["}", depth]], st.integers(1, 7)),
)
values = cast("st.SearchStrategy[Text]", st.one_of(numbers, texts, nested, st.sampled_from(["null", "true"])))
attributes = st.sampled_from(
    [
        "",
        '"key":"k~~",',
        '"key":"k~~","user":"u~~","type":"t~~",',
        '"id":"j~~",',
        '"key":~~,"user":~~,',
        '"time":"2026-01-01T00:00:00.123+05:30",',
        '"time":1700000000000,',
        f'"key":"{"é" * 190}~~","dish":"{"é" * 190}~~",',
    ]
)
events = st.builds(
    lambda head, name, value, size, last: ["{", head, [f'"{name}":', value, ",", size], f'"z":{last}}}'],
    attributes,
    st.sampled_from(["f", "f~~", "é~~", "\\u0061~~"]),
    values,
    st.sampled_from([1, 5, 20, 32, 200, 990]),
    st.sampled_from(["1", "NaN", '"a"', "1e999"]),
)


def within(text: Text, count: int) -> Text:
    """Return a text as many times as the limits of a body allow."""
    return [text, max(1, min(count, 9_999, BODY // (length(text) + 12)))]


counts = st.sampled_from([1, 10, 100, 1_000, 9_999])
cells = st.sampled_from(["1", "0.1", "a", '"a,""b"', "", "~~", "1e-300", "\u00e9", "true", "{", '"\n"', "=1"])
bodies = st.one_of(
    st.builds(
        lambda text, count: (("application/json", ["[", within([text, ","], count), '{"a":1}]'])), events, counts
    ),
    st.builds(lambda text, count: (("application/x-ndjson", [within([text, "\n"], count), "{}"])), events, counts),
    st.builds(
        lambda cell, columns, count: (
            "text/csv",
            [["c~~,", columns], "z\n", within([[f"{cell},", columns], cell, "\n"], count)],
        ),
        cells,
        st.sampled_from([1, 5, 31, 300, 900]),
        counts,
    ),
    st.builds(
        lambda text, count: (
            "application/cloudevents-batch+json",
            [
                "[",
                within(['{"specversion":"1.0","id":"c~~","source":"/a","type":"t","data":', text, "},"], count),
                '{"specversion":"1.0","id":"z","source":"/a","type":"t"}]',
            ],
        ),
        events,
        counts,
    ),
)
publish = st.builds(
    lambda topic, body, skip, repeat: Recipe(
        "POST",
        [f"/v1/topics/write.{topic}/events", "?on_error=skip" if skip else ""],
        (("Content-Type", body[0]), *((("Idempotency-Key", repeat),) if repeat else ())),
        cast("Text", body[1]),
    ),
    st.sampled_from(WRITTEN),
    bodies,
    flags,
    st.sampled_from(["", "", "once", "a" * 200]),
).filter(lambda recipe: length(recipe.body or "") < BODY + 50_000)

# -- what is read

conditions = st.builds(
    lambda name, comparison, value: quote(f"{name}{comparison}{value}"),
    st.sampled_from(NAMES),
    st.sampled_from(["=", "!=", "<", ">=", "~"]),
    words,
)
lists = st.builds(
    lambda name, item: [quote(f"{name} in("), [quote(f"{item},"), 99], quote("z)")],
    st.sampled_from(NAMES),
    st.sampled_from(["u~~", '"~~"', "~~.5", "é" * 10]),
)
long_conditions = st.builds(
    lambda name, text, size: [quote(f"{name}~"), [quote(text), size]],
    st.sampled_from(["note", "user"]),
    st.sampled_from(["é", "a", "ab", "éa"]),
    st.sampled_from([10, 300, 1_300]),
)
where = (
    st.lists(st.one_of(conditions, lists, long_conditions), min_size=1, max_size=20)
    .map(lambda found: cast("Text", [["&where=", one] for one in found]))
    .filter(lambda text: length(text) < TARGET - 500)
)
one_where = st.builds(lambda condition, count: cast("Text", ["&where=", condition, count]), conditions, COUNTS)
history_parameters = (
    where,
    one_where,
    of("type", "message", "t1", "none"),
    of("key", "k1", "none", "é" * 200),
    of("user", "u1", "none", "1" * 150),
    of("limit", "1", "10000", "all"),
    of("last", "1", "10000"),
    of("order", "asc", "desc"),
    of("since", *TIMES),
    of("until", *TIMES),
    of("after", CURSOR),
    of("before", CURSOR),
    of("corrections", "all"),
    of("formulas", "escape"),
)
formats = ["", ".csv", ".ndjson", ".json"]
history = got(
    query(
        st.builds(lambda path, form: f"{path}/events{form}", seen(), st.sampled_from(formats)),
        *history_parameters,
        most=4,
    )
)
rows = (
    of("window", *WINDOWS),
    often("key", keys, 1_000),
    often("field", st.sampled_from(["", "n", "f~~", "user"]), 1_000),
    of("shape", "records"),
    of("top", "1", "10", "1000", "10000"),
    of("by", *COLUMNS),
)
stats = got(
    query(
        st.builds(lambda path, form: f"{path}/stats{form}", seen(), st.sampled_from(["", ".csv"])),
        *rows,
        of("at_least", "1", "20000"),
    )
)
series = got(
    query(
        seen().map(lambda path: f"{path}/stats/series"),
        of("window", *WINDOWS[1:]),
        of("key", "k1", "none", "u1"),
        of("field", "n", "f0", "user", "none"),
        of(
            "stat",
            "count",
            "mean,count",
            "sum,mean,min,max,std,p50,p95,p99",
            "p5,p10,p15,p20,p25,p30,p35,p40,p45,p50,p95",
            "distinct",
        ),
        of("since", *TIMES),
        of("step", "1s", "10s", "1m", "24h"),
        of("fill", "zero", "linear"),
        of("by", "key", "user", "key+user"),
        of("format", "csv"),
    )
)
latest = got(
    query(seen("latest").map(lambda path: f"{path}/latest"), often("key", keys, 100), of("format", "csv", "json"))
)
topics = st.one_of(
    got(
        query(
            st.just("/v1/topics"),
            of("search", "list", "t", "e", "l" * 200, "İ"),
            of("limit", "1", "1000"),
            of("format", "json", "sse"),
            of("changes", "1"),
        )
    ),
    seen().map(lambda path: Recipe("GET", path)),
    st.sampled_from(["/metrics", "/openapi.json", "/", "/docs", "/v1/components", "/readyz"]).map(
        lambda path: Recipe("GET", path)
    ),
)

# -- streams

patterns = st.sampled_from(
    [
        "search.>",
        "list.>",
        "list.*.t~~",
        "list.~~.>",
        "*.*.t~~",
        "unknown~~",
        "*.unknown~~",
        "search.many",
        "a.b.c.d.~~",
        ">",
        "search.index",
    ]
)
subs = st.one_of(
    st.builds(
        lambda pattern, conditions: quote(f"events/{pattern}?") + quote("&".join(f"where={one}" for one in conditions)),
        patterns,
        st.lists(conditions, max_size=3),
    ),
    st.builds(
        lambda topic, rest: quote(f"stats/search.{topic}?{rest}"),
        st.sampled_from(READ),
        st.sampled_from(["window=*", "top=10", "top=1~~&by=sum", "key=k~~", "shape=records&every=1s"]),
    ),
    st.sampled_from(["latest/search.latest", "latest/search.latest?key=k~~", "topics", "topics?changes=1"]).map(quote),
)
plain_stream = query(
    st.just("/v1/stream"),
    often("events", patterns, 1_000),
    often("stats", patterns, 1_000),
    often("window", st.sampled_from(["*", "1m", "24h", "x~~"]), 100),
    often("key", keys, 1_000),
    often("field", keys, 1_000),
    of("every", "100ms", "1s"),
    of("last_event_id", "earliest", "0", CURSOR),
    of("names", "off"),
)
sub_stream = st.builds(
    lambda found, count, resume: cast("Text", ["/v1/stream?", [["&sub=", one, count] for one in found], resume]),
    st.lists(subs, min_size=1, max_size=16),
    st.sampled_from([1, 1, 2, 32]),
    st.sampled_from(["", "&last_event_id=earliest"]),
).filter(lambda text: length(text) < TARGET)
topic_stream = st.one_of(
    query(
        seen().map(lambda path: f"{path}/events"),
        where,
        of("key", "k1"),
        of("type", "t1"),
        of("last_event_id", "earliest", CURSOR),
        of("user", "u1"),
    ),
    query(seen().map(lambda path: f"{path}/stats"), *rows, of("every", "100ms")),
    query(seen("latest").map(lambda path: f"{path}/latest"), often("key", keys, 100)),
)
stream = st.builds(
    lambda target, topic: Recipe("GET", target, (("Accept", "text/event-stream"),), None, f"search.{topic}"),
    st.one_of(plain_stream, sub_stream, topic_stream),
    st.sampled_from(READ),
)

# -- corrections, alerts, credentials

patches = st.builds(
    lambda name, value, size: ["{", [f'"{name}":', value, ",", size], '"n":~~}'],
    st.sampled_from(["f", "f~~", "key", "note"]),
    values,
    COUNTS,
)
found_event = st.builds(
    lambda path, place: [path, "/events/", place],
    seen(),
    st.sampled_from(["$1", "$777", "$20000", "i5", "i19999", "none"]),
)
corrections = st.one_of(
    st.builds(
        lambda target, body: Recipe("PATCH", target, (("Content-Type", "application/merge-patch+json"),), body),
        found_event,
        patches,
    ),
    st.builds(lambda target, rest: Recipe("DELETE", [target, rest]), found_event, st.sampled_from(["", "?erase=true"])),
    got(found_event),
)
terms = st.sampled_from(
    [
        "mean(n, 5m) < 3",
        'count(5m, key="k1") = 0',
        "p95(n, 1m) > 1",
        "not count(5m) > 1",
        "event.n > 1",
        'event.note ~ "a"',
        "mean(n, 24h) > 1",
        "mean(n, last 100000) > 1",
    ]
)
alerts = st.one_of(
    st.builds(
        lambda name, topic, first, joint, second, count, rest: Recipe(
            "PUT",
            f"/v1/alerts/{name}",
            JSON,
            [
                f'{{"topic":"search.{topic}","when":',
                '"',
                [first.replace('"', '\\"'), f" {joint} ", count],
                second.replace('"', '\\"'),
                f'"{rest}}}',
            ],
        ),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([*READ, "unknown"]),
        terms,
        st.sampled_from(["and", "or"]),
        terms,
        st.sampled_from([1, 5, 30]),
        st.sampled_from(["", ',"by":"key"', ',"for":"1s"', ',"by":"key","for":"1s","until":"count(1m) = 0"']),
    ),
    st.builds(
        lambda left, depth: Recipe(
            "PUT",
            "/v1/alerts/d",
            JSON,
            ['{"topic":"search.plain","when":"', [left, depth], "1 > 0", [")", depth], '"}'],
        ),
        st.sampled_from(["(", "not (", "-(", "1 + ("]),
        st.sampled_from([5, 20, 100, 300]),
    ),
    st.sampled_from(["/v1/alerts", "/v1/alerts/a", "/v1/alerts?topic=search.plain"]).map(
        lambda path: Recipe("GET", path)
    ),
    st.sampled_from(["a", "b"]).map(lambda name: Recipe("DELETE", f"/v1/alerts/{name}")),
)
grants = st.builds(
    lambda pattern, count, limited: [f'{{"topics":"{pattern}","keys":[', ['"k~~",', count], '"z"]},', limited],
    st.sampled_from(["search.>", "search.many", "list.>", "*.*.~~", ">"]),
    st.sampled_from([0, 10, 500]),
    st.sampled_from([1, 10, 100]),
).filter(lambda text: length(text) < 15_000)
claims = st.builds(
    lambda user, granted: cast("Text", [f'{{"sub":"{user}","pushsvc":{{"subscribe":[', granted, '"search.latest"]}}']),
    st.sampled_from(["u", "v"]),
    grants,
)
tokens = st.builds(
    lambda target, text: Recipe("GET", target, (("claims", text),), None, "search.plain"),
    st.one_of(
        plain_stream,
        sub_stream,
        topic_stream,
        topics.map(lambda recipe: recipe.target),
        history.map(lambda recipe: recipe.target),
        stats.map(lambda recipe: recipe.target),
    ),
    claims,
)
fields = st.one_of(
    st.builds(
        lambda item, size: ("Accept", cast("Text", [item, size])),
        st.sampled_from(["text/csv;q=0.~~,", "*/*,", "a/b;c=d;e=f,", ",", ";q=", "text/*;q=1.5,"]),
        sizes,
    ),
    st.builds(
        lambda item, size: ("If-None-Match", cast("Text", [item, size])),
        st.sampled_from(['"a~~",', "W/", "*,", '"']),
        sizes,
    ),
    st.builds(
        lambda item, size: ("Cookie", cast("Text", [item, size])),
        st.sampled_from(["a~~=b; ", "=;", '"', "__Host-pushsvc=a;"]),
        sizes,
    ),
    st.builds(
        lambda item, size: ("Last-Event-ID", cast("Text", [item, size])),
        st.sampled_from(["A", CURSOR, "s.", "s.aaaaaaAAAA", "."]),
        sizes,
    ),
    st.builds(
        lambda item, size: ("Authorization", cast("Text", ["Bearer ", item, size])),
        st.sampled_from(["a", "eyJ", ".", "a.b."]),
        sizes,
    ),
    st.builds(
        lambda item, size: ("X-Forwarded-For", cast("Text", [item, size])),
        st.sampled_from(["1.1.1.1,", "::1,", ",", "a"]),
        sizes,
    ),
    st.builds(
        lambda item, size: ("Accept-Language", cast("Text", [item, size])), st.sampled_from(["de,", "a;q=0.1,"]), sizes
    ),
).filter(lambda field: length(field[1]) < 20_000)
headers = st.builds(
    lambda target, found: Recipe("GET", target, tuple({name: (name, text) for name, text in found}.values())),
    st.sampled_from(
        [
            "/v1/topics/search.plain/events?limit=1",
            "/v1/topics/search.plain/stats",
            "/v1/stream?events=search.plain",
            "/v1/topics/search.latest/latest?key=k1",
            "/livez",
            "/",
        ]
    ),
    st.lists(fields, min_size=1, max_size=3),
)

KINDS: dict[str, st.SearchStrategy[Recipe]] = {
    "publish": publish,
    "history": history,
    "stats": stats,
    "series": series,
    "latest": latest,
    "topics": topics,
    "stream": stream,
    "corrections": corrections,
    "alerts": alerts,
    "headers": headers,
    "tokens": tokens,
}
AUTHORIZED = {"tokens"}
"""Kinds whose server asks for credentials."""
