"""Clients generated from /openapi.json by three generators, used with a live server."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.stack import Stack
from support.waiting import DEADLINE, until

BIN = Path(sys.executable).parent
JS = Path(__file__).parent / "js"
VALUES = """
[topics."orders"]
windows = ["1m", "last 3"]
values = ["dish"]
statistics = ["distinct", "top3", "first", "last"]
"""
EVENTS = [{"key": "pizza", "rating": 4, "note": "cold"}, {"id": "a1", "key": "soup", "rating": 5}]


def run(*command: str | Path, folder: Path) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def folder(shared_server: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the live server's document, and with what the Python generators make of it."""
    made = tmp_path_factory.mktemp("generated")
    (made / "openapi.json").write_bytes(shared_server.get("/openapi.json").body)
    client = ("generate", "--path", "openapi.json", "--meta", "none", "--output-path", "generated_client")
    run(BIN / "openapi-python-client", *client, folder=made)
    models = ("--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel")
    run(BIN / "datamodel-codegen", "--input", "openapi.json", *models, "--output", "generated_models.py", folder=made)
    return made


@pytest.fixture
def document(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "openapi.json").read_bytes())
    return described


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a generated module; its name begins with ``generated``."""
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith("generated")]:
        del sys.modules[name]


@pytest.fixture
def node_folder(folder: Path, tmp_path: Path) -> tuple[Path, Callable[..., str]]:
    """A folder of the test with the document and the packages, and how to run Node in it."""
    node, packages = shutil.which("node"), JS / "node_modules"
    if node is None or not packages.is_dir():
        pytest.skip("Node or tests/clients/js/node_modules is not there: make .venv/node.done installs the packages")
    shutil.copy(folder / "openapi.json", tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path, partial(run, node, folder=tmp_path)


def operation_ids(document: dict[str, Any]) -> set[str]:
    return {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }


def call(load: Callable[[str], Any], server: Stack, resource: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of the generated client, such as ``topics.figures``, and return its parsed answer."""
    with load("generated_client").Client(server.url) as client:
        return load(f"generated_client.api.{resource}").sync_detailed(*arguments, client=client, **options).parsed


def test_the_client_of_openapi_python_client_has_every_operation(folder: Path, document: dict[str, Any]) -> None:
    made = {path.stem.replace("_", "") for path in folder.glob("generated_client/api/*/*.py")} - {"init"}
    assert made == {name.lower() for name in operation_ids(document)}


def test_the_client_of_openapi_python_client_works(
    shared_server: Stack, topic: str, load: Callable[[str], Any]
) -> None:
    def ask(resource: str, *arguments: Any, **options: Any) -> Any:
        return call(load, shared_server, resource, *arguments, **options)

    models = load("generated_client.models")
    receipt = ask("events.publish", topic, body=[models.Event.from_dict(event) for event in EVENTS])
    assert (type(receipt), receipt.accepted, receipt.last_offset) == (models.Receipt, 2, 2)
    again = ask("events.publish", topic, body=models.Event(id="a1"), idempotency_key="k")
    assert (again.accepted, again.duplicates) == (0, 1)

    page = ask("events.events_json", topic, where=["rating<6"], limit=1)
    assert [event["note"] for event in page.events] == ["cold"]
    last = ask("events.events_json", topic, where=["rating<6"], limit=1, after=page.next_)
    assert [(event.offset, event.id, event.key) for event in last.events] == [(2, "a1", "soup")]
    whole = ask("events.events", topic)
    assert (whole.events[0].topic, len(whole.events), whole.next_) == (topic, 2, None)
    assert ask("events.events_csv", topic).splitlines()[0] == "$offset,time,type,id,key,rating,note"

    snapshot = ask("statistics.stats_json", topic, at_least=2)
    assert (type(snapshot), snapshot.offset, snapshot.exists) == (models.Snapshot, 2, True)
    rated = {row[0]: row[snapshot.columns.index("sum")] for row in snapshot.data if row[1] == "rating"}
    assert rated == {"pizza": 4, "soup": 5, None: 9}
    records = ask("statistics.stats_json", topic, shape=models.RowShape.RECORDS, top=1, by="sum").data
    assert {record.key for record in records} == {"soup", None}
    every = ask("statistics.stats", topic, window="*")
    assert [frame.window for frame in every.windows] == ["1m", "5m", "15m"]
    assert ask("statistics.stats_csv", topic, key=["pizza"]).startswith("window,scope,key,field,count")

    assert topic in {described.topic for described in ask("topics.topics").topics}
    assert topic in {described.topic for described in ask("topics.topics_json", search=topic).topics}
    assert ask("topics.figures", topic).last_offset == 2
    assert ask("operation.livez").status == "ok"
    assert ask("operation.readyz").status == "ready"
    assert ask("operation.openapi")["openapi"].startswith("3.1.")
    assert "pushsvc_events_accepted_total" in ask("operation.metrics")

    refused = ask("events.events_json", topic, after="nothing")
    assert (type(refused), refused.status, refused.parameter) == (models.Problem, 400, "after")
    invalid = ask("events.publish", topic, body=[models.Event(), models.Event.from_dict({"time": "yesterday"})])
    assert [(fault.line, fault.field) for fault in invalid.errors] == [(2, "time")]
    assert ask("topics.delete_topic", topic) is None
    assert ask("topics.figures", topic).exists is False


def test_the_models_of_datamodel_code_generator_accept_what_the_server_sends(
    shared_server: Stack, topic: str, load: Callable[[str], Any]
) -> None:
    models = load("generated_models")
    base = f"/v1/topics/{topic}"

    def get(model: str, path: str, status: int = 200) -> Any:
        answer = shared_server.get(path)
        assert answer.status == status, answer
        return getattr(models, model).model_validate_json(answer.body)

    for event in EVENTS:
        assert models.Event.model_validate(event).key == event["key"]
    receipt = models.Receipt.model_validate_json(shared_server.post(topic, EVENTS).body)
    assert receipt.accepted == len(EVENTS)
    until(lambda: shared_server.stats(topic)["offset"] == len(EVENTS))
    assert [event.key for event in get("History", f"{base}/events.json").events] == ["pizza", "soup"]
    assert get("Snapshot", f"{base}/stats.json").offset == len(EVENTS)
    records = get("Snapshot", f"{base}/stats.json?shape=records&key=soup&field=rating").data
    assert [record.sum for record in records] == [5]
    assert len(get("Windows", f"{base}/stats.json?window=*").windows) == 3
    assert get("Snapshot", "/v1/topics/nothing/stats").exists is False
    assert topic in {described.topic.root for described in get("Topics", "/v1/topics").topics}
    assert set(get("TopicWithRates", base).rates) == {"1m", "5m", "15m"}
    assert get("Liveness", "/livez").status.value == "ok"
    assert get("Readiness", "/readyz").status.value == "ready"
    assert get("Problem", f"{base}/events.json?limit=0", 400).parameter == "limit"
    assert get("Problem", "/nothing", 404).title == "Not Found"
    invalid = shared_server.post(topic, [{"rating": 1}, {"": 1}])
    assert models.Problem.model_validate_json(invalid.body).errors[0].line == 2
    with shared_server.stream(f"{base}/stats?last_event_id=x") as stream:
        assert models.Reset.model_validate(stream.frame()[1]).reason.value == "trimmed"
        assert models.Frame.model_validate(stream.frame()[1]).offset == len(EVENTS)


def test_statistics_of_values_fit_the_generated_models(stack: Stack, load: Callable[[str], Any]) -> None:
    stack.configure(VALUES)
    stack.start_aggregator()
    stack.start_web()
    events = [{"key": "a", "dish": "pizza", "price": 3}, {"key": "a", "dish": True, "price": 2.5}, {"dish": 7}]
    assert stack.post("orders", events).status == 202
    models = load("generated_models")
    for query in ("at_least=3", "shape=records", "window=last3"):
        answer = stack.get(f"/v1/topics/orders/stats.json?{query}")
        assert models.Snapshot.model_validate_json(answer.body).offset == 3
    rows = call(load, stack, "statistics.stats_json", "orders", field=["dish"])
    tops = {row[0]: row[rows.columns.index("top3")] for row in rows.data}
    assert tops["a"] == [["pizza", 1], [True, 1]]
    shape = load("generated_client.models").RowShape.RECORDS
    records = call(load, stack, "statistics.stats_json", "orders", field=["dish"], shape=shape)
    assert {record.key: (record.distinct, record.first, record.last) for record in records.data}["a"] == (
        2,
        "pizza",
        True,
    )


PROGRAM = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[]; exit(code: number): never };
declare const console: { log(text: string): void };

const [base, topic] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: base });
const path = { topic };

const published = await client.POST("/v1/topics/{topic}/events", {
  params: { path, header: { "Idempotency-Key": "one" } },
  body: [{ key: "pizza", rating: 4 }, { key: "soup", rating: 5 }],
});
if (published.error) throw new Error(published.error.title);
const accepted: number = published.data.accepted;

const query = { where: ["rating>4"] };
const history = await client.GET("/v1/topics/{topic}/events.json", { params: { path, query } });
if (history.error) throw new Error(history.error.detail ?? "");
const events: components["schemas"]["StoredEvent"][] = history.data.events;
const next: string | null = history.data.next;

const window = await client.GET("/v1/topics/{topic}/stats.json", { params: { path, query: { at_least: 2 } } });
const counted = window.data && "windows" in window.data ? 0 : window.data?.offset;

const table = await client.GET("/v1/topics/{topic}/events.csv", { params: { path }, parseAs: "text" });
const csv: string | undefined = table.data;

const refused = await client.GET("/v1/topics/{topic}/events.json", { params: { path, query: { after: "nothing" } } });
const parameter: string | undefined = refused.error?.parameter;

// @ts-expect-error: there is no such path
void (() => client.GET("/v1/nothing"));
// @ts-expect-error: there is no such parameter
void (() => client.GET("/v1/topics/{topic}/events.json", { params: { path, query: { colour: "red" } } }));
// @ts-expect-error: a limit is a number
void (() => client.GET("/v1/topics/{topic}/events.json", { params: { path, query: { limit: "ten" } } }));

console.log(JSON.stringify({ accepted, events, next, counted, csv, parameter }));
"""


def test_the_types_of_openapi_typescript_compile_and_their_client_works(
    shared_server: Stack, topic: str, node_folder: tuple[Path, Callable[..., str]]
) -> None:
    folder, node = node_folder
    (folder / "program.ts").write_text(PROGRAM)
    node("node_modules/openapi-typescript/bin/cli.js", "openapi.json", "--output", "api.ts")
    strict = ("--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--noEmitOnError")
    node("node_modules/typescript/bin/tsc", *strict, "program.ts")
    answers = json.loads(node("program.js", shared_server.url, topic))
    assert [event["key"] for event in answers.pop("events")] == ["soup"]
    assert answers.pop("csv").splitlines()[0] == "$offset,time,type,id,key,rating"
    assert answers == {"accepted": 2, "next": None, "counted": 2, "parameter": "after"}


LINT = """
import { createConfig, lint } from "@redocly/openapi-core";

const config = await createConfig({
  extends: ["recommended-strict"],
  rules: {
    "no-unused-components": "off", // the data of streams
    "no-invalid-parameter-examples": "error",
    "no-invalid-schema-examples": "error",
    "no-required-schema-properties-undefined": "error",
  },
});
for (const { message, location } of await lint({ ref: process.argv[2], config })) {
  console.log(location[0]?.pointer, message);
}
"""


def test_the_document_is_valid_openapi(document: dict[str, Any], node_folder: tuple[Path, Callable[..., str]]) -> None:
    folder, node = node_folder
    (folder / "lint.mjs").write_text(LINT)
    assert node("lint.mjs", "openapi.json") == ""
    document["paths"]["/livez"]["get"]["summary"] = 1
    (folder / "openapi.json").write_text(json.dumps(document))
    assert "livez" in node("lint.mjs", "openapi.json")
