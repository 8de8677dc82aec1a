"""Stage 5: the URL that Twilio requested.

A proxy or a tunnel takes ``https://abc.example/sms`` and asks this program for
``http://localhost:8767/sms``.  What is behind the host stays the same; what is before it, the
program has to be told.  (A proxy also adds headers that say so; but anybody can send those.)

Still wrong: if your answer is late or lost, Twilio may deliver the message once more, and then
the customer has ordered two pizzas.
"""
# check: answers-once, refuses-unsigned

import base64
import hmac
import os
from urllib.parse import parse_qsl, quote
from wsgiref.simple_server import make_server
from xml.etree import ElementTree

PORT = int(os.environ.get("PORT", "8767"))
TOKEN = os.environ["TWILIO_AUTH_TOKEN"].encode()
PUBLIC_URL = os.environ.get("PUBLIC_URL", "")  # https://abc.example

orders = []


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
    body = twiml(reply(message))
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application).serve_forever()
