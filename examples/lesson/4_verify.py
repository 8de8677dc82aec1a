"""Stage 4: who sent this?

Twilio signs each request.  The signature is an HMAC: a hash of the URL and of the form's sorted
names and values, made with your account's auth token.  Only Twilio and you have the token, so
nobody else can make the signature.

Still wrong: behind a proxy or a tunnel, nobody is answered.  Twilio signs the URL that it
requests, ``https://abc.example/sms``, and this program sees ``http://localhost:8767/sms``.
"""
# check: public-url, replies, refuses-unsigned, refuses-forged

import base64
import hmac
import os
from urllib.parse import parse_qsl
from wsgiref.simple_server import make_server
from wsgiref.util import request_uri
from xml.etree import ElementTree

PORT = int(os.environ.get("PORT", "8767"))
TOKEN = os.environ["TWILIO_AUTH_TOKEN"].encode()

orders = []


def read(environ):
    """Return the fields of the form: a dict of Twilio's names and values."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    form = environ["wsgi.input"].read(length).decode()
    return dict(parse_qsl(form, keep_blank_values=True))


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
    if not is_twilios(request_uri(environ), message, signature):
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"this was not signed by Twilio\n"]
    print(f"Incoming message from {message['From']}: {message['Body']}")
    body = twiml(reply(message))
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application).serve_forever()
