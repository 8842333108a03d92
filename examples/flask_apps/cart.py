"""A cart that htmx shows: the server renders it, and every tab of a customer has the same one.

pip install pushsvc && flask --app cart run
"""

from collections import Counter, defaultdict
from uuid import uuid4

from flask import Flask, render_template_string, request, session

from pushsvc import Push

app = Flask(__name__)
app.config |= {"SECRET_KEY": "change me", "SESSION_COOKIE_SAMESITE": "Lax"}
push = Push(app)
carts = defaultdict(Counter)  # a real shop has a database


@push.authorize
def may(action, topic, key):
    return action == "subscribe" and topic == "cart" and key is not None and key == session.get("user")


@app.get("/")
def page():
    user = session.setdefault("user", uuid4().hex)
    return render_template_string(PAGE, user=user, cart=carts[user])


@app.post("/cart")
def add():
    user = session["user"]
    carts[user][request.form["dish"]] += 1
    push.publish("cart", html=render_template_string(CART, cart=carts[user]), key=user, type="cart")
    return "", 204


CART = """<ul>{% for dish, number in cart.items() %}<li>{{ number }} x {{ dish }}</li>{% endfor %}</ul>"""

PAGE = f"""<!doctype html>
<title>Cart</title>
<script src="https://cdn.jsdelivr.net/npm/htmx.org@2.0.4/dist/htmx.min.js"></script>
<script src="https://cdn.jsdelivr.net/npm/htmx-ext-sse@2.2.2/sse.js"></script>
<form hx-post="/cart" hx-swap="none"><input name="dish" value="pizza"> <button>Add</button></form>
<div hx-ext="sse" sse-connect="{{{{ stream_url('cart', key=user, html=True) }}}}" sse-swap="cart">{CART}</div>
"""
