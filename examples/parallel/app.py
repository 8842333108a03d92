"""Statistics of a large CSV file, computed by several processes, with the progress on the page.

flask --app app run
"""

import contextlib
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from amounts import count
from flask import Flask, Response, jsonify, render_template, request

from pushsvc import Push, jobs

PROCESSES = (2, 1)  # one job after the other, so that their times can be compared

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 500_000_000
push = Push(app)
busy = threading.Lock()
running: dict[str, "jobs.Job[Any]"] = {}


@app.get("/")
def page() -> str:
    return render_template("parallel.html", processes=PROCESSES)


@app.post("/jobs")
def begin() -> tuple[Response, int]:
    """Take a CSV file, and answer with the name of its jobs before they begin."""
    by, value = (request.args.get(name, "") for name in ("by", "value"))
    if not by or not value or by == value:
        return jsonify(problem="by and value must name two columns"), 400
    if not busy.acquire(blocking=False):
        return jsonify(problem="another file is being computed; try again later"), 409
    try:
        path = upload()
        name = token_hex(8)
        threading.Thread(target=work, args=(name, path, by, value)).start()
    except BaseException:
        busy.release()
        raise
    return jsonify(job=name), 202


@app.delete("/jobs/<name>")
def cancel(name: str) -> tuple[str, int]:
    if name not in running:
        return "", 404
    running[name].cancel()
    return "", 204


def upload() -> Path:
    """Return the file that a client sends; nothing is left of one that does not arrive."""
    with tempfile.NamedTemporaryFile(prefix="parallel-", suffix=".csv", delete=False) as file:
        try:
            shutil.copyfileobj(request.stream, file, 1_000_000)
        except BaseException:
            os.unlink(file.name)
            raise
        return Path(file.name)


def work(name: str, path: Path, by: str, value: str) -> None:
    """Run a job on each number of processes; ``push`` publishes how each of them goes on, and how it ends."""
    source = jobs.Csv(path, 8_000_000, {"dtype": {by: "str", value: "str"}})
    wanted = jobs.Statistics([value], by, percents=[50, 95])
    function = partial(count, wanted=wanted, value=value)
    try:
        with app.app_context(), contextlib.suppress(jobs.JobError, jobs.JobFailed, jobs.JobCancelled):
            for processes in PROCESSES:
                running[name] = jobs.Job(
                    source, function, merge=wanted.merge, show=wanted.show, name=f"{name}.{processes}", to=push,
                    pool=jobs.Pool(processes),
                )  # fmt: skip
                running[name].run()
    finally:
        running.pop(name, None)
        path.unlink()
        busy.release()
