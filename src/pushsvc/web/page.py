"""``/``: the dashboard."""

from flask import Blueprint, Response, make_response, render_template

from pushsvc.web.context import Context


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("page", __name__)

    @resource.get("/")
    def index() -> Response:
        response = make_response(render_template("index.html"))
        response.headers["Cache-Control"] = "no-cache"
        return response

    return resource
