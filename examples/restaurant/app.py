"""Feedback on the dishes of a restaurant: cleaned with pandas, counted by pushsvc, and pushed to every open page.

flask --app app run
"""

import json
from pathlib import Path

import pandas as pd
from flask import Flask, Response, jsonify, render_template, request

from pushsvc import Push
from pushsvc.clean import Rules, clean

RULES = Rules.read(Path(__file__).with_name("rules.toml"))
COLUMNS = ["visited", "dish", "rating", "bill", "comment"]

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 5_000_000
push = Push(app)


@app.get("/")
def page() -> str:
    return render_template("restaurant.html")


@app.post("/feedback")
def feedback() -> Response:
    """Take the form of one guest."""
    return publish(pd.DataFrame([{name: request.form.get(name, "") for name in COLUMNS}]))


@app.post("/reviews")
def reviews() -> Response:
    """Take a CSV file of many."""
    try:
        table = pd.read_csv(request.stream, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, UnicodeDecodeError) as error:
        return refuse(f"not a CSV file: {error}")
    if missing := [name for name in COLUMNS if name not in table.columns]:
        return refuse(f"the file lacks the columns {', '.join(missing)}")
    return publish(table[COLUMNS])


def publish(table: pd.DataFrame) -> Response:
    """Clean a table, publish what is left, and answer with what each rule did."""
    cleaned = clean(table, RULES)
    records = json.loads(cleaned.table.to_json(orient="records", date_format="iso", force_ascii=False))
    for record in records:
        event = {name: value for name, value in record.items() if value not in (None, "")}
        push.publish("feedback", {"key": event.pop("dish"), **event})
    return jsonify(published=len(records), rules=[entry.public() for entry in cleaned.report])


def refuse(reason: str) -> Response:
    """Answer that the client did something wrong."""
    answer = jsonify(problem=reason)
    answer.status_code = 400
    return answer
