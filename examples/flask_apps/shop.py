"""A shop behind Flask-Login: customers see their own orders as they come in, staff sees all.

pip install pushsvc flask-login && flask --app shop run
"""

from flask import Flask, abort, redirect, render_template_string, request
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user

from pushsvc import Push

app = Flask(__name__)
app.config |= {"SECRET_KEY": "change me", "SESSION_COOKIE_SAMESITE": "Lax"}
push = Push(app)
login = LoginManager(app)


class User(UserMixin):
    def __init__(self, name):
        self.id, self.is_staff = name, name == "staff"


login.user_loader(User)


@push.authorize
def may(action, topic, key):
    if not current_user.is_authenticated:
        abort(401)
    return action == "subscribe" and topic == "orders" and (current_user.is_staff or key == current_user.id)


@app.get("/")
def page():
    everything = current_user.is_anonymous or current_user.is_staff
    return render_template_string(PAGE, key=None if everything else current_user.id)


@app.post("/login")
def sign_in():
    login_user(User(request.form["name"]))  # a real shop asks for a password
    return redirect("/")


@app.post("/orders")
@login_required
def order():
    push.publish("orders", {"dish": request.form["dish"]}, key=current_user.id, type="created")
    return "", 204


PAGE = """<!doctype html>
<title>Shop</title>
{% if current_user.is_authenticated %}
<form onsubmit="fetch('/orders', {method: 'POST', body: new FormData(this)}); return false">
  <input name="dish" value="pizza"> <button>Order</button>
</form>
<ul id="orders"></ul>
<script>
  const url = {{ stream_url("orders", key=key, last_event_id="earliest") | tojson }};  // those of before, too
  new EventSource(url).addEventListener("created", message => {
    const order = JSON.parse(message.data);
    const item = document.createElement("li");
    item.textContent = `${order.key}: ${order.dish}`;
    document.getElementById("orders").append(item);
  });
</script>
{% else %}
<form method="post" action="/login"><input name="name" value="ann"> <button>Sign in</button></form>
{% endif %}
"""
