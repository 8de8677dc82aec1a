"""A Flask program of Twilio's helper library, moved to smsreply, at the URLs that it had:

    gunicorn --bind 127.0.0.1:8767 --threads 64 --chdir examples from_flask:app

To change two imports is enough (see helper_library.py).  This goes further, and gains what App does:
each message once, a minute instead of 15 seconds, conversations.

    in a view                           in a handler
    @validate_twilio_request            nothing: App checks the signature first
    request.values.get("Body", "")      message.body
    request.values.get("Anything")      message.get("Anything")
    request.args                        message.query
    int(request.values["NumMedia"])     len(message.media)
    session["count"]                    message.session["count"]
    return str(response)                return response
    return "", 204                      return None
"""

import functools

from flask import Flask, current_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import smsreply

app = Flask(__name__)


@app.route("/")
def home():
    return "Text us!"


def in_app(handler):
    """App calls a handler outside Flask, so what needs current_app (a database, say) needs this."""

    @functools.wraps(handler)
    def handle(message):
        with app.app_context():
            return handler(message)

    return handle


def sms(message):
    count = message.session["count"] = message.session.get("count", 0) + 1
    if message.body == "more":
        return smsreply.Redirect("/sms/more")
    if message.body == "picture":
        picture = smsreply.Message("Here it is.", action="/status")
        picture.media("https://abc.example/owl.png")  # returns the Media, as it always did
        return picture
    return f"Text {count} from {message.from_}"


@in_app
def more(message):
    return f"More from {current_app.name} & co."


@in_app
def status(message):
    current_app.logger.warning("%s is %s", message["MessageSid"], message["MessageStatus"])


# The paths of a mapping begin below the mount: "/" is /sms, "/more" is /sms/more.
# With several workers, share a SQLiteCache.
texts = smsreply.App({"/": sms, "/more": more}, cache=smsreply.MemoryCache())
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/sms": texts, "/status": smsreply.App(status)})
# If there is a ProxyFix, it stays around all: app.wsgi_app = ProxyFix(app.wsgi_app).
