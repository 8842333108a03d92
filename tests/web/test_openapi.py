"""The document at /openapi.json describes exactly what the application does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pushsvc import __version__
from pushsvc.aggregate.aggregate import Aggregate
from pushsvc.broker.broker import Broker
from pushsvc.errors import OutcomeUnknown, Unavailable
from pushsvc.event import Event
from pushsvc.event.columns import Columns
from pushsvc.settings import TopicSettings
from pushsvc.stats.window import Window
from pushsvc.web.app import create_app
from support.owner import Owner
from support.waiting import until

METHODS = ("get", "post", "put", "patch", "delete")
FREE = ("/", "/docs")
"""A link to a page may have parameters of other sites."""

EVENT_STREAM = "text/event-stream"
"""Streams and /readyz need the live connection to Redis, so a running server is tested."""

PARAMETER_VALUES = {
    "format": "json", "window": "5m", "shape": "records", "top": "3", "by": "mean", "at_least": "1",
    "heartbeat": "event", "names": "off", "since": "2026-01-01T00:00:00Z", "until": "1700000000000",
    "step": "1m", "fill": "last", "where": "rating<3", "limit": "5", "on_error": "skip",
}  # fmt: skip


@pytest.fixture
def client(broker):
    client = create_app(broker).test_client()
    for topic in ("feedback", "job.42"):
        assert client.post(f"/v1/topics/{topic}/events", json=[{"key": "pizza", "rating": 4}]).status_code == 202
    Owner(broker, ["feedback"]).step()
    assert client.put("/v1/alerts/low", json={"topic": "feedback", "when": "mean(rating, 5m) < 3"}).status_code == 201
    return client


@pytest.fixture
def without_redis(tmp_path):
    return create_app(Broker(f"unix://{tmp_path}/nothing.sock")).test_client()


@pytest.fixture
def document(client):
    answer = client.get("/openapi.json")
    assert answer.content_type == "application/json"
    return answer.json


def operations(document: dict[str, Any]):
    """Yield path, method, operation and its parameters (those of the path included)."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                parameters = [*item.get("parameters", ()), *operation.get("parameters", ())]
                yield path, method, operation, [resolve(document, parameter) for parameter in parameters]


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Follow a ``$ref`` within the document."""
    while "$ref" in value:
        target: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        value = target
    return value


def references(value: Any):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def url(path: str) -> str:
    return path.replace("{name}", "$1" if "/events/" in path else "low").replace(
        "{topic}", "job.42" if "/latest" in path else "feedback"
    )


def documented_paths(rule: str) -> list[str]:
    """Return the paths of a rule of Flask's in the notation of OpenAPI, one for each suffix."""
    found = re.search(r"<any\((.*)\):suffix>", rule)
    rules = [rule.replace(found[0], suffix) for suffix in found[1].split(", ")] if found else [rule]
    return [re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", each) for each in rules]


def has_suffix(path: str) -> bool:
    return path.startswith("/v1/") and path.endswith((".json", ".ndjson", ".csv"))


def query_names(parameters) -> set[str]:
    return {parameter["name"] for parameter in parameters if parameter["in"] == "query"}


def test_every_temporary_problem_is_documented(document):
    text = document["components"]["responses"]["Unavailable"]["description"]
    protocol = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    kinds = (*Unavailable.__subclasses__(), *OutcomeUnknown.__subclasses__())
    # An application with the extension has a problem of its own, if a test has imported it.
    slugs = {kind.slug for kind in kinds if not kind.__module__.startswith("pushsvc.extension")} | {"full"}
    assert {slug for slug in slugs if f"`{slug}`" in text} == slugs
    assert {slug for slug in slugs if f"| 503 | `{slug}` |" in protocol} == slugs


def test_every_route_is_documented_and_every_documented_route_exists(client, document):
    routes = set()
    for rule in client.application.url_map.iter_rules():
        if rule.endpoint not in ("static", "pages.viewer"):  # the files of the pages
            methods = {method.lower() for method in rule.methods - {"HEAD", "OPTIONS"}}
            routes |= {(path, method) for path in documented_paths(rule.rule) for method in methods}
    assert {(path, method) for path, method, _, _ in operations(document)} == routes


def test_every_reference_resolves_and_every_component_is_used(document):
    used = set()
    for value in references(document):
        resolve(document, value)
        used.add(value["$ref"])
    for _, _, operation, _ in operations(document):
        used |= {f"#/components/securitySchemes/{name}" for one in operation.get("security", ()) for name in one}
    shared = document["components"]
    everything = {f"#/components/{kind}/{name}" for kind in shared for name in shared[kind]}
    of_streams = {f"#/components/schemas/{name}" for name in ("Frame", "LatestUpdate", "Reset", "TopicChanges")}
    assert everything - used <= {*of_streams, "#/components/schemas/CloudEvent"}


def test_the_document_describes_this_version(document):
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__
    names = [operation["operationId"] for _, _, operation, _ in operations(document)]
    assert len(names) == len(set(names))


def test_exactly_the_documented_query_parameters_are_accepted(client, document):
    """A call with an unknown parameter names all parameters that it accepts."""
    for path, method, _, parameters in operations(document):
        if path in FREE:
            assert not query_names(parameters)
            continue
        answer = client.open(f"{url(path)}?$unknown=1", method=method.upper())
        assert (answer.status_code, answer.json["parameter"]) == (400, "$unknown"), (method, path)
        listed = answer.json["detail"].partition("supported are ")[2]
        known = set() if listed == "none" else set(listed.split(", "))
        # A format that repeats the suffix is accepted, but generated clients need no parameter for it.
        assert query_names(parameters) == known - ({"format"} if has_suffix(path) else set()), (method, path)


def test_every_documented_parameter_value_is_accepted(client, document):
    for path, method, _, parameters in operations(document):
        for name in query_names(parameters):
            query = {name: PARAMETER_VALUES.get(name, "x")}
            answer = client.open(url(path), method=method.upper(), query_string=query)
            detail = (answer.json or {}).get("detail") or ""
            assert "not supported here" not in detail, (method, path, name, detail)


def test_choices_and_bounds_are_as_documented(client, document):
    for path, method, _, parameters in operations(document):
        for parameter in parameters:
            schema, name = resolve(document, parameter["schema"]), parameter["name"]
            if parameter["in"] != "query":
                continue
            if "enum" in schema:
                answer = client.open(url(path), method=method.upper(), query_string={name: "$none"})
                if name == "formulas":
                    answer = client.get(url(path), query_string={name: "$none", "format": "csv"})
                if name in ("heartbeat", "names"):
                    answer = client.get(url(path), query_string={name: "$none", "format": "sse"})
                assert answer.status_code == 400, (path, name)
                listed = set(answer.json["detail"].rpartition("is none of ")[2].split(", "))
                assert listed == set(schema["enum"]), (path, name)
            elif schema.get("type") == "integer":
                for value, good in bounds(schema):
                    status = client.get(url(path), query_string={name: value}).status_code
                    assert (status == 200) is good, (path, name, value)


def bounds(schema):
    yield schema["minimum"], True
    yield schema["minimum"] - 1, False
    yield schema["maximum"] + 1, False


BODIES = {
    "application/json": b'{"rating":1}',
    "application/x-ndjson": b'{"rating":1}\n{"rating":2}\n',
    "text/csv": b"rating\n1\n",
    "application/cloudevents+json": b'{"specversion":"1.0","id":"a","source":"s","type":"t"}',
    "application/cloudevents-batch+json": b'[{"specversion":"1.0","id":"b","source":"s","type":"t"}]',
}


def test_every_request_example_is_accepted(client, document):
    content = document["paths"]["/v1/topics/{topic}/events"]["post"]["requestBody"]["content"]
    for media_type, described in content.items():
        example = described["example"]
        body = example if isinstance(example, str) else json.dumps(example)
        answer = client.post("/v1/topics/example/events", data=body, content_type=media_type)
        assert answer.status_code == 202, (media_type, answer.text)


def test_cloudevents_have_no_schema_in_the_request_but_examples_of_the_named_one(document):
    """openapi-python-client cannot generate a call with several JSON bodies if one of them is an array."""
    content = document["paths"]["/v1/topics/{topic}/events"]["post"]["requestBody"]["content"]
    described = {name for name in content if "schema" in content[name]}
    assert {name for name in described if name.endswith(("/json", "+json"))} == {"application/json"}
    single = content["application/cloudevents+json"]["example"]
    for example in [single, *content["application/cloudevents-batch+json"]["example"]]:
        assert not faults(document, {"$ref": "#/components/schemas/CloudEvent"}, example)


def test_no_parameter_of_one_format_has_a_default(document):
    """Generated clients send defaults, and a parameter of streams is refused for a snapshot, and the reverse."""
    for path, method, operation, parameters in operations(document):
        if len(operation["responses"].get("200", {}).get("content", ())) > 1:
            options = {p["name"]: p["schema"].get("default") for p in parameters if "default" in p["schema"]}
            assert options.keys() <= {"shape", "by"}, (method, path)


def test_exactly_the_documented_headers_are_answered(client, document):
    """Of the headers that depend on the call."""
    told = {"ETag", "Vary", "Link", "Pushsvc-Trimmed"}
    assert client.post("/v1/topics/feedback/events", json={"rating": 5}).status_code == 202
    for path, method, operation, _ in operations(document):
        if method == "get" and path not in ("/readyz", "/v1/stream"):
            answer = client.get(
                url(path), query_string={"limit": 1} if "/events" in path and "{name}" not in path else {}
            )
            documented = set(operation["responses"]["200"].get("headers", ())) - {"Pushsvc-Trimmed"}
            assert documented == told & set(answer.headers.keys()), path
            again = client.get(url(path), headers={"If-None-Match": answer.headers.get("ETag", '"x"')})
            assert (again.status_code == 304) is ("304" in operation["responses"]) is ("ETag" in documented), path


def test_exactly_the_documented_request_media_types_are_accepted(client, document):
    target = "/v1/topics/feedback/events"
    documented = document["paths"]["/v1/topics/{topic}/events"]["post"]["requestBody"]["content"]
    assert set(documented) == set(BODIES)
    for media_type, body in BODIES.items():
        answer = client.post(target, data=body, content_type=media_type)
        assert answer.status_code == 202, (media_type, answer.text)
    refused = client.post(target, data=b"<a/>", content_type="application/xml")
    assert refused.status_code == 415
    assert all(media_type in refused.json["detail"] for media_type in BODIES)


def test_every_documented_response_media_type_is_available(client, document):
    for path, method, operation, _ in operations(document):
        if method != "get" or path == "/readyz":
            continue
        content = operation["responses"]["200"]["content"]
        for media_type in content.keys() - {EVENT_STREAM}:
            answer = client.get(url(path), headers={"Accept": media_type})
            assert (answer.status_code, answer.mimetype) == (200, media_type), path
        nothing = client.get(url(path), headers={"Accept": "image/png"})
        assert not (nothing.status_code == 200 and "Accept" in nothing.headers.get("Vary", "")), path
        assert (nothing.status_code == 406) is ("406" in operation["responses"]), path
        if nothing.status_code == 406:
            assert all(media_type in nothing.json["detail"] for media_type in content), path


def test_every_documented_stream_is_a_stream(shared_server, topic, document):
    ready = shared_server.get("/readyz")
    described = document["paths"]["/readyz"]["get"]["responses"]["200"]["content"]["application/json"]
    assert not faults(document, described["schema"], ready.json())
    for path, method, operation, _ in operations(document):
        if method == "get" and EVENT_STREAM in operation["responses"]["200"].get("content", ()):
            query = f"?events={topic}" if path == "/v1/stream" else ""
            name = f"job.{topic}" if "/latest" in path else topic
            with shared_server.stream(path.replace("{topic}", name) + query) as stream:
                assert stream.response.headers["Content-Type"].startswith(EVENT_STREAM), path
                assert stream.read().startswith(b"retry: 2000\n: "), path


def test_frames_and_resets_have_the_documented_members(shared_server, topic, document):
    shared_server.post(topic, [{"key": "pizza", "rating": 4}])
    until(lambda: shared_server.stats(topic)["offset"] == 1)
    schemas = document["components"]["schemas"]
    path = f"/v1/topics/{topic}/stats"
    with shared_server.stream(path) as rows, shared_server.stream(path + "?shape=records&last_event_id=x") as records:
        frames = [rows.frame(), records.frame(), records.frame()]
        shared_server.post(topic, [{"key": "soup", "rating": 2}])
        frames += [rows.frame(), records.frame()]
    assert [name for name, _ in frames] == ["snapshot", "reset", "snapshot", "update", "update"]
    for name, data in frames:
        described = schemas["Reset" if name == "reset" else "Frame"] | {"additionalProperties": False}
        assert not faults(document, described, data), (name, data)


def test_streams_of_newest_events_have_the_documented_members(shared_server, topic, document):
    name, schemas = f"job.{topic}", document["components"]["schemas"]
    shared_server.post(name, [{"key": "pizza", "rating": 4}, {"key": "soup"}])
    with shared_server.stream(f"/v1/topics/{name}/latest?last_event_id=x") as stream:
        frames = [stream.frame(), stream.frame()]
        shared_server.post(name, [{"key": "soup", "type": "delete"}, {"key": "pizza", "rating": 5}])
        frames.append(stream.frame())
    assert [name for name, _ in frames] == ["reset", "snapshot", "update"]
    for (_, data), described in zip(frames, ("Reset", "Latest", "LatestUpdate"), strict=True):
        assert not faults(document, schemas[described], data), data


def test_frames_of_exact_and_count_windows_have_the_documented_members(document):
    windows = tuple(map(Window.parse, ("1m", "last 3")))
    aggregate = Aggregate(TopicSettings(windows=windows, exact=True, max_events=1), 0)
    aggregate.open("feedback", 0)
    described = document["components"]["schemas"]["Frame"] | {"additionalProperties": False}
    frames = [aggregate.snapshot("feedback", "last 3")]
    events = [Event(time=time, key="pizza", data={"rating": 4}) for time in (1, 2)]
    aggregate.apply("feedback", 2, 2, Columns.from_events(events))
    frames += aggregate.flush(2)
    written = [json.loads(frame.to_json(2)) for frame in frames]
    assert [(frame["from"], frame.get("truncated")) for frame in written] == [
        (None, None), ("1970-01-01T00:00:00.002Z", True), ("1970-01-01T00:00:00.001Z", None)
    ]  # fmt: skip
    for frame in written:
        assert not faults(document, described, frame)


def test_answers_have_the_documented_members(client, without_redis, document):
    answers = [
        ("/v1/topics/{topic}/events", "post", client.post("/v1/topics/feedback/events", json={"rating": 1})),
        ("/v1/topics/{topic}/events", "post",
         client.post("/v1/topics/feedback/events?on_error=skip", json=[{"rating": 1}, {"": 2}])),
        ("/v1/topics/{topic}/events", "get", client.get("/v1/topics/feedback/events")),
        ("/v1/topics/{topic}/stats", "get", client.get("/v1/topics/feedback/stats")),
        ("/v1/topics/{topic}/stats", "get", client.get("/v1/topics/feedback/stats?window=*")),
        ("/v1/topics/{topic}/stats/series", "get", client.get("/v1/topics/feedback/stats/series?field=rating")),
        ("/v1/topics/{topic}/stats/series", "get", client.get("/v1/topics/unknown/stats/series")),
        ("/v1/topics/{topic}/latest", "get", client.get("/v1/topics/job.42/latest")),
        ("/v1/topics/{topic}/latest", "get", client.get("/v1/topics/feedback/latest")),
        ("/v1/topics", "get", client.get("/v1/topics")),
        ("/v1/topics/{topic}", "get", client.get("/v1/topics/feedback")),
        ("/v1/topics/{topic}", "get", client.get("/v1/topics/unknown")),
        ("/v1/alerts", "get", client.get("/v1/alerts")),
        ("/v1/alerts/{name}", "get", client.get("/v1/alerts/low")),
        ("/v1/alerts/{name}", "get", client.get("/v1/alerts/none")),
        ("/v1/alerts/{name}", "put", client.put("/v1/alerts/low", json={"topic": "feedback", "when": "x"})),
        ("/v1/components", "get", client.get("/v1/components")),
        ("/v1/components", "get", client.get("/v1/components?topic=*")),
        ("/livez", "get", client.get("/livez")),
        ("/readyz", "get", without_redis.get("/readyz")),
        ("/v1/topics", "get", without_redis.get("/v1/topics")),
        ("/v1/topics/{topic}/events", "post", client.post("/v1/topics/feedback/events", json={"": 1})),
        ("/v1/topics/{topic}/events", "get", client.get("/v1/topics/feedback/events?limit=x")),
        ("/v1/topics/{topic}/stats", "get", client.get("/v1/topics/a b/stats")),
    ]  # fmt: skip
    for path, method, answer in answers:
        response = resolve(document, document["paths"][path][method]["responses"][str(answer.status_code)])
        problems = faults(document, response["content"][answer.content_type]["schema"], answer.json)
        assert not problems, (path, answer.status_code, answer.json, problems)


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
         "null": type(None)}  # fmt: skip


def faults(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """Check the few keywords that the answers' schemas use: type, const, enum, oneOf, members and items."""
    schema = resolve(document, schema)
    if "oneOf" in schema:
        tried = [faults(document, option, value) for option in schema["oneOf"]]
        return [] if any(not found for found in tried) else min(tried, key=len)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return [f"{value!r} is not {kinds}"]
    if "const" in schema and value != schema["const"]:
        return [f"{value!r} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value!r} is none of {schema['enum']}"]
    found = []
    if isinstance(value, list) and "items" in schema:
        for inner in value:
            found += faults(document, schema["items"], inner)
    if isinstance(value, dict):
        members = schema.get("properties", {})
        found += [f"{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, inner in value.items():
            if name in members:
                found += faults(document, members[name], inner)
            elif schema.get("additionalProperties", True) is False:
                found.append(f"{name} is not documented")
    return found
