"""The pages: dashboard and API; ``/openapi.json``, the API for programs; and ``/client.js``, the JavaScript client."""

from importlib.resources import files

from flask import Blueprint, Response, render_template, request, send_from_directory

from pushsvc.web.context import Context
from pushsvc.web.parameters import Parameters

_VIEWER = ("swagger-ui.css", "swagger-ui-bundle.js")
"""Files of Swagger UI. The others of its package are for logins and for a page of its own."""


def blueprint(context: Context) -> Blueprint:
    resource = Blueprint("pages", __name__)

    @resource.get("/")
    def dashboard() -> Response:
        return Response(render_template("index.html"), headers={"Cache-Control": "no-cache"})

    @resource.get("/docs")
    def docs() -> Response:
        return _revalidated(Response(render_template("docs.html")))

    def viewer(name: str) -> Response:
        return send_from_directory(str(files("flask_swagger_ui") / "dist"), name)

    for name in _VIEWER:
        resource.add_url_rule(f"/docs/{name}", view_func=viewer, defaults={"name": name})

    @resource.get("/openapi.json")
    def openapi() -> Response:
        Parameters(request.args, ())
        text = files(__package__).joinpath("openapi.json").read_bytes()
        return _revalidated(Response(text, content_type="application/json"))

    @resource.get("/client.js")
    def client() -> Response:
        Parameters(request.args, ("v",))  # pages may name a version to get by their caches
        text = files(__package__).joinpath("static/client.js").read_bytes()
        return _revalidated(Response(text, content_type="text/javascript; charset=utf-8"))

    return resource


def _revalidated(response: Response) -> Response:
    """Return a response that a cache may keep and asks for again with its ETag."""
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
