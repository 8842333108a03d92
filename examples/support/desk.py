"""The components of the support desk: they answer what they know, and hold the rest for an agent.

pushsvc worker --app desk
"""

from pushsvc import on

ANSWERS = {
    "open": "We are open from 9 to 18 on weekdays.",
    "return": "You can return everything within 30 days.",
}
PATIENCE = 60  # seconds until a request counts as late


@on("support", type="request", group="desk", replies="support.user.>", start="beginning")
def take(event, ctx):
    text = event["text"].lower()
    found = next((answer for word, answer in ANSWERS.items() if word in text), None)
    if found is not None:
        ctx.reply({"type": "answer", "key": event.key, "by": "desk", "text": found})
        ctx.emit("closed", {"key": "desk", "user": event.key, "seconds": 0})
        return
    ctx.state.setdefault("since", event.arrival)
    ctx.reply({"type": "noted", "key": event.key, "text": "An agent will answer soon."})
    ctx.emit("waiting", {"key": event.key, "text": event["text"], "since": ctx.state["since"], "late": False})
    ctx.call_later(PATIENCE, late, text=event["text"])


@on("support", type="answer", group="desk", replies="support.user.>", start="beginning")
def answer(event, ctx):
    ctx.reply({"type": "answer", "key": event.key, "by": event["by"], "text": event["text"]})
    since = ctx.state.pop("since", None)
    if since is None:
        return  # nobody waited: the agent only added something
    ctx.cancel("late")
    ctx.emit("waiting", {"key": event.key, "type": "deleted"})
    ctx.emit("closed", {"key": event["by"], "user": event.key, "seconds": (event.arrival - since) / 1_000})


@on.timer
def late(ctx, text):
    ctx.emit("waiting", {"key": ctx.key, "text": text, "since": ctx.state["since"], "late": True})
