"""The phone against webhooks that this project did not write, each as its makers document it.

They need node with npm's packages, or the helper library and Flask:

    npm install --prefix node express body-parser twilio
    SMSREPLY_NODE_MODULES=node/node_modules pytest tests/test_webhooks.py
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PYTHON, ROOT, TOKEN, free_port, running

from smsphone import Phone, explain
from smsreply import App

QUEST = "I'm busy questing right now!"
NUMBER = "+14017122661"

# The lesson's: TwiML written by hand, and not a word about signatures.
EXPRESS = """
const express = require('express');
const bodyParser = require('body-parser');
const app = express();

app.use(bodyParser.urlencoded({ extended: false }));

app.post('/sms', (req, res) => {
  const { From, Body } = req.body;
  console.log(`Incoming message from ${From}: ${Body}`);
  res.type('text/xml');
  res.send(`<Response><Message>I'm busy questing right now!</Message></Response>`);
});

app.listen(process.env.PORT, '127.0.0.1');
"""

# The helper library's middleware, with its validation on, behind a public URL and not.
MIDDLEWARE = """
const express = require('express');
const twilio = require('twilio');
const app = express();
const options = process.env.PUBLIC_URL ? { url: process.env.PUBLIC_URL } : {};

app.use(express.urlencoded({ extended: false }));

app.all('/sms', twilio.webhook(options), (req, res) => {
  const twiml = new twilio.twiml.MessagingResponse();
  twiml.message(`${req.method} ${(req.body || {}).Body || req.query.Body}`);
  res.type('text/xml').send(twiml.toString());
});

app.listen(process.env.PORT, '127.0.0.1');
"""

# The lesson's again, in Python.  Flask sends it as text/html.
FLASK = """
from flask import Flask, request
from twilio.twiml.messaging_response import MessagingResponse

app = Flask(__name__)

@app.route("/sms", methods=["GET", "POST"])
def sms_reply():
    print(f"Incoming message from {request.values['From']}: {request.values['Body']}")
    response = MessagingResponse()
    response.message("I'm busy questing right now!")
    return str(response)
"""

# The decorator of Twilio's tutorial on securing a Flask app, and a conversation with the
# cookies of its tutorial on those.
SECURED = """
import os
from functools import wraps
from flask import Flask, abort, request, session
from twilio.request_validator import RequestValidator
from twilio.twiml.messaging_response import MessagingResponse

app = Flask(__name__)
app.secret_key = "secret"

def validate_twilio_request(f):
    @wraps(f)
    def decorated_function(*args, **kwargs):
        validator = RequestValidator(os.environ["TWILIO_AUTH_TOKEN"])
        signature = request.headers.get("X-TWILIO-SIGNATURE", "")
        if validator.validate(request.url, request.form, signature):
            return f(*args, **kwargs)
        return abort(403)
    return decorated_function

@app.route("/sms", methods=["POST"])
@validate_twilio_request
def incoming_message():
    session["counter"] = session.get("counter", 0) + 1
    response = MessagingResponse()
    message = response.message(f"{session['counter']}: {request.form['Body']}!")
    message.media("/cat.png")
    return str(response), {"Content-Type": "text/xml"}
"""


def node_path():
    return os.environ.get("SMSREPLY_NODE_MODULES") or os.environ.get("NODE_PATH", "")


@contextlib.contextmanager
def node(folder, source, *packages, **env):
    """Run a program in node; skip where there is no node, or a package of its is missing."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    for package in packages:
        if not any((Path(path) / package).is_dir() for path in node_path().split(os.pathsep)):
            pytest.skip(f"npm's package {package} is not in SMSREPLY_NODE_MODULES")
    (folder / "server.js").write_text(source)
    port = free_port()
    # Absolute: node runs in the program's folder.
    path = os.pathsep.join(str(Path(path).absolute()) for path in node_path().split(os.pathsep))
    env = {"PORT": str(port), "NODE_PATH": path, "NODE_ENV": "production", **env}
    with running("node", "server.js", port=port, cwd=folder, env=env) as process:
        yield f"http://127.0.0.1:{port}/sms", process


@contextlib.contextmanager
def flask(folder, source, **env):
    for package in ("flask", "twilio"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    (folder / "server.py").write_text(source)
    port = free_port()
    command = (PYTHON, "-m", "flask", "--app", "server", "run", "--port", port)
    with running(*command, port=port, cwd=folder, env=env) as process:
        yield f"http://127.0.0.1:{port}/sms", process


def printed(process):
    """End the program that serves; return what it has printed."""
    process.terminate()
    return process.communicate(timeout=10)[0]


def bodies(exchange):
    return exchange.error or [message.body for message in exchange.messages]


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("run", "source"), [(node, EXPRESS), (flask, FLASK)], ids=["Express", "Flask"]
)
def test_the_lessons_program_prints_the_message_and_answers_it(run, source, token, tmp_path):
    packages = ("express", "body-parser") if run is node else ()
    with run(tmp_path, source, *packages) as (url, process):
        phone = Phone(url, number=NUMBER, auth_token=token)
        assert bodies(phone.text("café & <b> 😀 100%+1")) == [QUEST]
        assert bodies(phone.text("again")) == [QUEST]
        lines = [line for line in printed(process).splitlines() if "Incoming" in line]
    assert lines == [
        f"Incoming message from {NUMBER}: café & <b> 😀 100%+1",
        f"Incoming message from {NUMBER}: again",
    ]


def test_the_lessons_flask_program_answers_a_get_too(tmp_path):
    with flask(tmp_path, FLASK) as (url, _):
        assert bodies(Phone(url, method="GET").text("hello")) == [QUEST]


def test_the_lessons_express_program_has_no_get_and_the_phone_says_so(tmp_path):
    with node(tmp_path, EXPRESS, "express", "body-parser") as (url, _):
        error = Phone(url, method="GET").text("hello").error
    assert (error.code, error.detail) == (11217, "status 404")


BODIES = ["hello", "", "a&b=c+d%20 'x' \"y\" ~*", "café 😀\nit’s"]
SHOP = "https://abc.example/shop/sms?a=1"


@pytest.mark.parametrize("public_url", [None, SHOP])
def test_the_node_librarys_middleware_accepts_the_phone_and_refuses_a_forgery(public_url, tmp_path):
    env = {"TWILIO_AUTH_TOKEN": TOKEN, **({"PUBLIC_URL": public_url} if public_url else {})}
    with node(tmp_path, MIDDLEWARE, "express", "twilio", **env) as (url, _):
        webhook = url + "?a=1" if public_url else url
        phone = Phone(webhook, auth_token=TOKEN, public_url=public_url)
        for body in BODIES:
            assert bodies(
                phone.text(body, media=["https://a.example/1.png"] if not body else ())
            ) == [f"POST {body or 'undefined'}"]
        if not public_url:  # its url option is for one URL, and so never a GET's
            get = Phone(url, auth_token=TOKEN, method="GET")
            assert [bodies(get.text(body)) for body in BODIES[::2]] == [
                [f"GET {body}"] for body in BODIES[::2]
            ]
        exchange = phone.text("hello")
        params = {**exchange.params, "Body": "forged"}
        signature = exchange.requests[0].signature
        assert_refused(phone.deliver(params, signature=signature), 403)
        assert_refused(phone.deliver(params, signature="forged"), 403)
        assert_refused(Phone(webhook, auth_token="other", public_url=public_url).text("hello"), 403)
        assert_refused(Phone(webhook, auth_token="", public_url=public_url).text("hello"), 400)
        assert bodies(phone.deliver(exchange.params, signature=signature)) == ["POST hello"]


def assert_refused(exchange, status):
    assert (exchange.error and exchange.error.code, exchange.messages) == (11217, [])
    assert exchange.answers[-1].status == status


def test_the_tutorials_decorator_accepts_the_phone_and_its_session_is_kept(tmp_path):
    with flask(tmp_path, SECURED, TWILIO_AUTH_TOKEN=TOKEN) as (url, _):
        phone = Phone(url, auth_token=TOKEN)
        exchanges = [phone.text(body) for body in BODIES]
        assert [bodies(one) for one in exchanges] == [
            [f"{n}: {body}!"] for n, body in enumerate(BODIES, 1)
        ]
        assert exchanges[0].messages[0].media == (url.replace("/sms", "/cat.png"),)
        assert_refused(phone.deliver(exchanges[0].params, signature="forged"), 403)
        assert_refused(Phone(url, auth_token="other").text("hello"), 403)


def test_a_flask_app_is_a_wsgi_callable_and_needs_no_server(tmp_path, monkeypatch):
    pytest.importorskip("flask")
    pytest.importorskip("twilio")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "secured_by_the_tutorial.py").write_text(SECURED)
    app = importlib.import_module("secured_by_the_tutorial").app
    phone = Phone(app)
    assert [bodies(phone.text("hello")) for _ in range(2)] == [["1: hello!"], ["2: hello!"]]
    assert bodies(phone.text("hello", From="+15559990000")) == ["1: hello!"]
    assert_refused(Phone(app, auth_token="other").text("hello"), 403)


def test_a_flask_view_can_leave_all_of_it_to_an_app():
    flask = pytest.importorskip("flask")
    site, answering = flask.Flask("site"), App(lambda message: message.body, auth_token=TOKEN)

    @site.post("/shop/sms")
    def sms():
        return flask.Response.from_app(answering, flask.request.environ)

    phone = Phone(site, auth_token=TOKEN, public_url="https://localhost/shop/sms")
    assert [message.body for message in phone.text("hello").messages] == ["hello"]
    assert phone.deliver(phone.text("hello").params, signature="").error.code == 11217


def test_a_flask_view_that_refuses_is_told_the_cure_by_the_proxys_headers():
    flask = pytest.importorskip("flask")
    site, said = flask.Flask("site"), []

    @site.post("/sms")
    def sms():
        request = flask.request
        signature = request.headers.get("X-Twilio-Signature", "")
        said.append(explain(TOKEN, request.url, request.form, signature, headers=request.headers))
        return "", 403

    def behind_a_proxy(environ, start_response):
        environ.update(HTTP_HOST="10.0.0.7", HTTP_X_FORWARDED_HOST="localhost")
        environ.update({"wsgi.url_scheme": "http", "HTTP_X_FORWARDED_PROTO": "https"})
        return site(environ, start_response)

    Phone(behind_a_proxy, auth_token=TOKEN).text("hello")
    assert said[0].startswith(
        'signed for https://localhost/sms: pass public_url="https://localhost"'
    )


# A Flask program that does all that the phone obeys, by the helper library's means.
ORDERS = """
import os
from flask import Flask, abort, redirect, request
from twilio.request_validator import (
    SIGNATURE_HEADER, SIGNATURE_SETTINGS_HEADER, RequestValidator, get_signature_algorithm
)
from twilio.twiml.messaging_response import MessagingResponse

app = Flask(__name__)
told = []

@app.before_request
def verify():
    algorithm = get_signature_algorithm(request.headers.get(SIGNATURE_SETTINGS_HEADER))
    signature = request.headers.get(SIGNATURE_HEADER, "")
    for secret in os.environ["SECRETS"].split():
        if RequestValidator(secret).validate(request.url, request.form, signature, algorithm):
            return
    abort(403)

@app.post("/sms")
def sms():
    body, response = request.form["Body"], MessagingResponse()
    if body == "crash":
        raise KeyError("order")
    if body == "moved":
        return redirect("/again", 307)
    if body == "status":
        response.message("sent", status_callback="/status")
    if body == "action":
        response.message("first", action="/action", status_callback="/status")
    if body == "eleven":
        for number in range(11):
            response.message(str(number))
    if body == "who":
        response.message(f"{request.form.get('ExternalUserId')} {request.form.get('WaId')}")
    return str(response), {"Content-Type": "text/xml"}

@app.post("/again")
def again():
    response = MessagingResponse()
    response.message("moved")
    return str(response)

@app.post("/status")
def status():
    told.append(request.form["MessageStatus"])
    return "", 204

@app.post("/action")
def action():
    response = MessagingResponse()
    response.message(f"second, after {request.form['MessageStatus']}")
    return str(response)

@app.post("/fallback")
def fallback():
    response = MessagingResponse()
    response.message(f"sorry: {request.form['ErrorCode']} at {request.form['ErrorUrl']}")
    return str(response)
"""


@pytest.fixture(params=["in this process", "over a socket"])
def orders(request, tmp_path, monkeypatch):
    """Return a function that makes a phone for the Flask program, here or over a socket."""
    pytest.importorskip("flask")
    pytest.importorskip("twilio")
    monkeypatch.setenv("SECRETS", f"{TOKEN} shared-one shared-two")
    if request.param == "over a socket":
        with flask(tmp_path, ORDERS, SECRETS=f"{TOKEN} shared-one shared-two") as (url, _):
            yield lambda **more: Phone(
                url, **{"auth_token": TOKEN, "fallback": url.replace("sms", "fallback"), **more}
            )
        return
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "orders_in_flask.py").write_text(ORDERS)
    app = importlib.import_module("orders_in_flask").app
    fallback = "https://localhost/fallback"
    yield lambda **more: Phone(app, **{"auth_token": TOKEN, "fallback": fallback, **more})


def kinds(exchange):
    return [request.kind for request in exchange.requests]


def test_a_flask_program_is_told_and_obeyed_as_twilio_would(orders):
    phone = orders()
    exchange = phone.text("moved")
    assert (exchange.reply, kinds(exchange)) == ("moved", ["message", "redirect"])
    exchange = phone.text("status")
    assert (exchange.reply, kinds(exchange)) == ("sent", ["message", "status", "status"])
    exchange = phone.text("action")
    assert bodies(exchange) == ["first", "second, after sent"]
    assert kinds(exchange) == ["message", "action", "status"]
    exchange = phone.text("eleven")
    assert (exchange.error.code, len(exchange.messages)) == (14109, 10)


def test_a_flask_program_that_fails_has_its_fallback_and_its_error(orders):
    phone = orders()
    exchange = phone.text("crash")
    assert exchange.reply == f"sorry: 11217 at {phone.url}"
    assert (kinds(exchange), exchange.answers[0].status) == (["message", "fallback"], 500)
    assert [error.code for error in exchange.errors] == [11217]
    if phone.url.startswith("https://localhost"):
        assert "the webhook logged: Exception on /sms [POST]: KeyError: 'order'" in repr(exchange)


def test_the_helper_librarys_validator_accepts_a_shared_key(orders):
    settings = "key=SK0123,algorithm=HMAC_SHA256"
    for secret in ("shared-one", "shared-two"):
        phone = orders(auth_token=secret, signature_settings=settings)
        assert phone.text("moved").reply == "moved"
    refused = orders(auth_token="unknown", signature_settings=settings, fallback=None)
    assert_refused(refused.text("moved"), 403)


def test_a_flask_program_hears_who_a_whatsapp_user_is(orders):
    named = orders(number="whatsapp:US.1349").text("who")
    assert (named.reply, named.messages[0].to) == ("US.1349 None", "whatsapp:US.1349")
    assert orders(number="whatsapp:+14017122661").text("who").reply.endswith(" 14017122661")


def test_a_flask_program_is_replayed_what_was_saved(orders, tmp_path):
    phone, file = orders(), tmp_path / "saved.jsonl"
    phone.text("moved").save(file)
    phone.text("status").save(file, mask=True)
    first, masked = phone.replay(file)
    assert first.reply == "moved"
    assert (masked.messages, masked.error) == ([], None)  # its Body is masked, and it is signed


DJANGO = """
from django.conf import settings

settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
import logging
import django
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from twilio.request_validator import RequestValidator
from smsphone import Phone

@csrf_exempt
def sms(request):
    signature = request.headers.get("X-Twilio-Signature", "")
    url = request.build_absolute_uri()
    if not RequestValidator("12345").validate(url, request.POST, signature):
        return HttpResponse("no", status=403)
    if request.POST["Body"] == "crash":
        raise KeyError("order")
    return HttpResponse(f"<Response><Message>{request.POST['From']}</Message></Response>")

urlpatterns = [path("sms", sms)]
django.setup()
logging.basicConfig()
phone = Phone(get_wsgi_application(), auth_token="12345")
print(phone.text("hello").reply)
print(phone.text("crash"))
print(Phone(get_wsgi_application(), auth_token="other").text("hello").error.detail)
"""


def test_a_django_project_is_a_wsgi_callable_and_needs_no_server(tmp_path):
    for package in ("django", "twilio"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    (tmp_path / "site_of_one_file.py").write_text(DJANGO)
    done = subprocess.run(
        [PYTHON, "site_of_one_file.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reply, story, refused = done.stdout.splitlines()
    assert (reply, refused) == ("+15005550001", "status 403")
    assert "the webhook logged: Internal Server Error: /sms: KeyError: 'order'" in story
