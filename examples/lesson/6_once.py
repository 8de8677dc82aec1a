"""Stage 6: once.

Every message has a MessageSid, and a second delivery has the same one.  So keep each answer by
its MessageSid, and give a second delivery the answer of the first.

Still wrong: Twilio waits for 15 seconds.  If a reply takes longer (text it ``slow``), the
customer gets nothing.
"""
# check: outlives-timeout, answers-once, refuses-unsigned

import base64
import hmac
import os
import time
from urllib.parse import parse_qsl, quote
from wsgiref.simple_server import make_server
from xml.etree import ElementTree

PORT = int(os.environ.get("PORT", "8767"))
TOKEN = os.environ["TWILIO_AUTH_TOKEN"].encode()
PUBLIC_URL = os.environ.get("PUBLIC_URL", "")  # https://abc.example
SLOW = float(os.environ.get("SLOW", "25"))  # seconds that a slow reply takes

orders = []
answers = {}  # by MessageSid


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


def twiml(text):
    response = ElementTree.Element("Response")
    ElementTree.SubElement(response, "Message").text = text
    return ElementTree.tostring(response, encoding="utf-8")


def application(environ, start_response):
    message = read(environ)
    signature = environ.get("HTTP_X_TWILIO_SIGNATURE", "")
    if not is_twilios(requested_url(environ), message, signature):
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"this was not signed by Twilio\n"]
    print(f"Incoming message from {message['From']}: {message['Body']}")
    sid = message["MessageSid"]
    if sid not in answers:
        answers[sid] = twiml(reply(message))
    body = answers[sid]
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application).serve_forever()
