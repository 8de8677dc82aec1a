"""Stage 7: longer than 15 seconds.

A thread of its own makes the reply.  If that takes over 10 seconds, the answer is a <Redirect>:
Twilio asks that URL, and waits for 15 seconds more.  So it goes, round after round.

Still wrong: no other process knows these answers, nothing is ever forgotten, a reply that failed
fails for good, what is read has no limit, and Twilio cannot read an answer with U+0001 in it.
"""
# check: repeats, escapes, control-characters, refuses-unsigned, refuses-forged, public-url, answers-once, outlives-timeout

import base64
import hmac
import os
import threading
import time
from concurrent import futures
from socketserver import ThreadingMixIn
from urllib.parse import parse_qsl, quote
from wsgiref.simple_server import WSGIServer, make_server
from xml.etree import ElementTree

PORT = int(os.environ.get("PORT", "8767"))
TOKEN = os.environ["TWILIO_AUTH_TOKEN"].encode()
PUBLIC_URL = os.environ.get("PUBLIC_URL", "")  # https://abc.example
PATIENCE = float(os.environ.get("PATIENCE", "10"))  # seconds: Twilio waits for 15
SLOW = float(os.environ.get("SLOW", "25"))  # seconds that a slow reply takes

orders = []
runs, lock, pool = {}, threading.Lock(), futures.ThreadPoolExecutor(32)


def read(environ):
    """Return the fields of the form: a dict of Twilio's names and values."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    form = environ["wsgi.input"].read(length).decode()
    return dict(parse_qsl(form, keep_blank_values=True))


def requested_url(environ):
    """Return the URL that Twilio requested."""
    origin = PUBLIC_URL or f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"
    query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
    # WSGI has decoded the path, a byte in each character.  Twilio signs it encoded.
    return origin + quote(environ["PATH_INFO"], encoding="latin-1") + query


def is_twilios(url, message, signature):
    """Return whether Twilio signed a request for *url* with these fields."""
    string = url + "".join(name + message[name] for name in sorted(message))
    right = base64.b64encode(hmac.digest(TOKEN, string.encode(), "sha1"))
    # == would stop at the first byte that differs, and its time would tell how many were right.
    return hmac.compare_digest(right, signature.encode())


def reply(message):
    """Take an order: this is the part that is yours."""
    time.sleep(SLOW if message["Body"] == "slow" else 0)
    orders.append(message["Body"])
    return f"You ordered: {message['Body']}. This is order {len(orders)}."


def twiml(verb, text):
    response = ElementTree.Element("Response")
    ElementTree.SubElement(response, verb).text = text
    return ElementTree.tostring(response, encoding="utf-8")


def application(environ, start_response):
    message = read(environ)
    signature = environ.get("HTTP_X_TWILIO_SIGNATURE", "")
    if not is_twilios(requested_url(environ), message, signature):
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"this was not signed by Twilio\n"]
    print(f"Incoming message from {message['From']}: {message['Body']}")
    with lock:  # two deliveries may come at the same time
        sid = message["MessageSid"]
        run = runs[sid] = runs.get(sid) or pool.submit(reply, message)
    futures.wait([run], PATIENCE)
    body = twiml("Message", run.result()) if run.done() else twiml("Redirect", "/sms")
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: one who waits must not hold up the others."""


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application, Server).serve_forever()
