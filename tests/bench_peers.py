"""The peers of tests/bench.py: what each of them answers the same message with."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import smsreply

TOKEN, HOST, SIGNATURE = "12345", "abc.example", "X-Twilio-Signature"
ACCOUNT, SID = "AC0123456789abcdef0123456789abcdef", "MM0123456789abcdef0123456789abcdef"
MEDIA = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages/{SID}/Media/ME"
# A text and two pictures, through a Messaging Service with an add-on.
FIELDS = {
    "ToCountry": "US", "MediaContentType0": "image/jpeg", "ToState": "CA", "SmsMessageSid": SID,
    "NumMedia": "2", "ToCity": "SAUSALITO", "FromZip": "94103", "SmsSid": SID, "FromState": "CA",
    "SmsStatus": "received", "FromCity": "", "Body": "Hello & <b>café</b> 😀 it’s 100%+1",
    "FromCountry": "US", "To": "+15558675310", "MediaUrl1": MEDIA + 32 * "b", "ToZip": "94965",
    "MediaContentType1": "image/png", "NumSegments": "2", "MessageSid": SID, "AccountSid": ACCOUNT,
    "MessagingServiceSid": "MG0123456789abcdef0123456789abcdef", "From": "+14017122661",
    "MediaUrl0": MEDIA + 32 * "a", "ApiVersion": "2010-04-01",
    "AddOns": '{"status":"successful","code":null,"results":{}}',
}  # fmt: skip
XML = '<?xml version="1.0" encoding="UTF-8"?><Response><Message>%s</Message></Response>'
XML_TYPE = "text/xml; charset=utf-8"
TWIML = (XML % "You said Hello &amp; &lt;b&gt;café&lt;/b&gt; 😀 it’s 100%+1").encode()


def ours(reply=lambda message: "You said " + message["Body"], **options):
    return smsreply.App(reply, **{"auth_token": TOKEN, **options})


def a_response(message):
    response = smsreply.MessagingResponse()
    response.message("You said " + message["Body"])
    return response


def counting(message):
    message.session["count"] = message.session.get("count", 0) + 1
    return "You said " + message["Body"]


def tutorial(check, signature_of):
    """Return what Twilio's tutorials do with a form, in whatever framework."""
    from twilio.request_validator import RequestValidator
    from twilio.twiml.messaging_response import MessagingResponse

    def answer(request, form):
        if check and not validator.validate(request.url, form, signature_of(request)):
            return None
        response = MessagingResponse()
        response.message("You said " + form["Body"])
        return str(response)

    validator = RequestValidator(TOKEN)
    return answer


def flask_app(check):
    from flask import Flask, Response, request

    def sms():
        xml = answer(request, request.form)
        return Response(xml, mimetype="text/xml") if xml else ("", 403)

    app = Flask("bench")
    answer = tutorial(check, lambda request: request.headers.get(SIGNATURE, ""))
    app.post("/sms")(sms)
    return app


def bottle_app(check):
    from bottle import Bottle, HTTPResponse, request

    def sms():
        xml = answer(request, request.forms.decode())
        return HTTPResponse(xml or "", 200 if xml else 403, Content_Type=XML_TYPE)

    app = Bottle()
    answer = tutorial(check, lambda request: request.get_header(SIGNATURE, ""))
    app.post("/sms")(sms)
    return app


def falcon_app(check):
    from falcon import App

    class Sms:
        def on_post(self, req, resp):
            xml = answer(req, req.get_media())
            resp.status, resp.text = (200, xml) if xml else (403, "")
            resp.content_type = XML_TYPE

    app = App()
    answer = tutorial(check, lambda request: request.get_header(SIGNATURE) or "")
    app.add_route("/sms", Sms())
    return app


def constant(environ, start_response):
    """Read the message, and say the same to everybody: the rest is the server's cost."""
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", XML_TYPE), ("Content-Length", str(len(TWIML)))])
    return [TWIML]


def sqlite_cache():
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return smsreply.SQLiteCache(os.path.join(folder, "messages.sqlite"))


def redis_cache():
    from cachelib import RedisCache

    if not shutil.which("redis-server"):
        raise ImportError("there is no redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(server.kill)
    time.sleep(1)
    return RedisCache("127.0.0.1", port)


async def asgi_constant(scope, receive, send):
    """Answer as `constant` does, by ASGI."""
    more = scope["type"] == "http"
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", XML_TYPE.encode()), (b"content-length", b"%d" % len(TWIML))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": TWIML})


def asgi_flask(check):
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(flask_app(check))


def asgi():
    """Return the application of examples/hosts/asgi.py, with our handler."""
    import importlib.util

    path = Path(__file__).resolve().parent.parent / "examples" / "hosts" / "asgi.py"
    sys.modules["bot"] = type(sys)("bot")
    sys.modules["bot"].application = ours()
    spec = importlib.util.spec_from_file_location("asgi_host", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.application


US, RESPONSE, SESSION = "smsreply", "smsreply, a MessagingResponse", "smsreply, a session"
CACHE, CONSTANT = "smsreply, MemoryCache, new messages", "a constant answer, unchecked"
SQLITE, REDIS = "smsreply, SQLiteCache, new messages", "smsreply, Redis, new messages"
FLASK, FALCON = "Flask + helper", "Falcon + helper, unchecked"
STRING, HELPER = "Express, a string, unchecked", "Express + helper"
PEERS = {
    US: ours,
    "smsreply, unchecked": lambda: ours(verify=False),
    RESPONSE: lambda: ours(a_response),
    SESSION: lambda: ours(counting),
    CACHE: lambda: ours(cache=smsreply.MemoryCache()),
    SQLITE: lambda: ours(cache=sqlite_cache()),
    REDIS: lambda: ours(cache=redis_cache()),
    "smsreply, MemoryCache, one repeated": lambda: ours(cache=smsreply.MemoryCache()),
    CONSTANT: lambda: constant,
}
for name, make in (("Flask", flask_app), ("Bottle", bottle_app), ("Falcon", falcon_app)):
    PEERS[f"{name} + helper"] = partial(make, True)
    PEERS[f"{name} + helper, unchecked"] = partial(make, False)
# The same by ASGI: Flask goes through a2wsgi, which is what its users take.
ASGI_PEERS = {
    CONSTANT: lambda: asgi_constant,
    US: asgi,
    FLASK: partial(asgi_flask, True),
    f"{FLASK}, unchecked": partial(asgi_flask, False),
}
# Express computes an ETag of each answer: that is its default.
EXPRESS = f"""
const express = require("express"), twilio = require("twilio"), app = express();
const form = require("body-parser").urlencoded({{ extended: false }});
const xml = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
if (process.env.BENCH_PEER == "{HELPER}") app.post("/sms", form, twilio.webhook("{TOKEN}"), (req, res) => {{
  const response = new twilio.twiml.MessagingResponse();
  response.message("You said " + req.body.Body);
  res.type("text/xml").send(response.toString());
}});
else app.post("/sms", form, (req, res) => {{
  res.type("text/xml").send('{XML % "You said ' + xml(req.body.Body) + '"}');
}});
app.listen(process.argv[2], "127.0.0.1");
"""


def installed(names, make=lambda name: PEERS[name]()):
    """Return what *make* makes of each name that is installed."""
    made = {}
    for name in names:
        try:
            made[name] = make(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return made
