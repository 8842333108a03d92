"""A report that takes a while, with a progress bar.

pip install pushsvc && flask --app report run
"""

import threading
import time
from uuid import uuid4

from flask import Flask, redirect, render_template_string, url_for

from pushsvc import Push

app = Flask(__name__)
push = Push(app)
STEPS, SECONDS = 50, 0.1


@push.authorize
def may(action, topic, key):
    return action == "subscribe" and topic.startswith("job.") and "*" not in topic and ">" not in topic


@app.get("/")
def page():
    return render_template_string(
        "<!doctype html><form method='post' action='/report'><button>Make the report</button>"
    )


@app.post("/report")
def start():
    job = uuid4().hex  # nobody can guess it: whoever knows it may watch the job
    threading.Thread(target=make_report, args=[job]).start()
    return redirect(url_for("show", job=job))


def make_report(job):
    with app.app_context(), push.progress(f"job.{job}", total=STEPS) as progress:
        for _ in range(STEPS):
            time.sleep(SECONDS)  # the work
            progress.advance()


@app.get("/report/<job>")
def show(job):
    return render_template_string(PAGE, job=job)


PAGE = """<!doctype html>
<title>Report</title>
<progress id="bar" value="0"></progress> <span id="state">waiting</span>
<script>
  const bar = document.getElementById("bar"), state = document.getElementById("state");
  const source = new EventSource({{ stream_url("job." ~ job, resource="latest") | tojson }});
  function show(message) {
    const job = JSON.parse(message.data).events[0];
    if (!job) return;
    bar.max = job.total;
    bar.value = job.done;
    state.textContent = job.state === "running" ? `${Math.ceil(job.remaining ?? 0)} s` : job.state;
    if (job.state !== "running") source.close();
  }
  source.addEventListener("snapshot", show);
  source.addEventListener("update", show);
</script>
"""
