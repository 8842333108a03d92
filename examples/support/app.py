"""The pages of the support desk: a user sees what is meant for this user, an agent sees everybody.

flask --app app run
"""

from flask import Flask, Response, abort, redirect, render_template, request, session

from pushsvc import Push

app = Flask(__name__)
app.config |= {"SECRET_KEY": "change me", "SESSION_COOKIE_SAMESITE": "Lax"}
push = Push(app)


@push.authorize
def may(action: str, topic: str, key: str | None) -> bool:
    """Agents may watch everything. Users have no login to the streams: their page has a token for one topic."""
    return action == "subscribe" and session.get("role") == "agent"


def user() -> str:
    return session.get("user") or abort(401)


@app.post("/login")
def sign_in() -> Response:
    """Take a name on trust; a real desk asks for a password."""
    session["user"] = request.form["name"]
    session["role"] = "agent" if request.form["name"].startswith("agent") else "user"
    return redirect("agent" if session["role"] == "agent" else "/")  # type: ignore[return-value]


@app.get("/")
def page() -> str:
    if "user" not in session:
        return render_template("login.html")
    topic = f"support.user.{user()}"
    return render_template("user.html", user=user(), stream=push.stream_url(topic, token=True), history=history(topic))


def history(topic: str) -> str:
    """Return the URL of what a user was told before, with a token for exactly that."""
    return push.stream_url(topic, token=True, format="json", last=20)


@app.get("/agent")
def agent() -> str:
    if session.get("role") != "agent":
        abort(403)
    return render_template("agent.html", agent=user())


@app.post("/actions")
def act() -> tuple[str, int]:
    push.publish("actions", {"key": user(), "page": request.form["page"]}, type="visit")
    return "", 204


@app.post("/requests")
def ask() -> tuple[str, int]:
    text = request.form["text"]
    push.publish("actions", {"key": user(), "text": text}, type="request")
    event = {"key": user(), "text": text, "reply_to": f"support.user.{user()}"}
    push.publish("support", event, type="request", wait=True, timeout=10)  # the page must know
    return "", 204


@app.post("/answers")
def answer() -> tuple[str, int]:
    if session.get("role") != "agent":
        abort(403)
    to = request.form["to"]
    event = {"key": to, "by": user(), "text": request.form["text"], "reply_to": f"support.user.{to}"}
    push.publish("support", event, type="answer", wait=True, timeout=10)
    return "", 204
