"""flask-sse as its manual shows: ``gunicorn -k gevent site_flask_sse:app``; REDIS_URL names its Redis."""

from __future__ import annotations

import os

from flask import Flask, Response, request
from flask_sse import sse

app = Flask(__name__)
app.config["REDIS_URL"] = os.environ["REDIS_URL"]
app.register_blueprint(sse, url_prefix="/sub")


@app.post("/pub")
def publish() -> Response:
    sse.publish(request.get_json())
    return Response(status=202)
