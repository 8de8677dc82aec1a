"""Stage 2: the message is a form.

The body of the request is a form, as a browser sends one: ``From=%2B14017122661&Body=Hello``.
From here on the standard library speaks HTTP for us: wsgiref calls `application` for each
request, as PEP 3333 (WSGI) has it.

Still wrong: whoever writes markup decides what you answer.  Text it
``</Message><Message to="+19005550100">Hi``.
"""
# check: escapes

import os
from urllib.parse import parse_qsl
from wsgiref.simple_server import make_server

PORT = int(os.environ.get("PORT", "8767"))

orders = []


def read(environ):
    """Return the fields of the form: a dict of Twilio's names and values."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    form = environ["wsgi.input"].read(length).decode()
    return dict(parse_qsl(form, keep_blank_values=True))


def reply(message):
    """Take an order: this is the part that is yours."""
    orders.append(message["Body"])
    return f"You ordered: {message['Body']}. This is order {len(orders)}."


def twiml(text):
    return f"<Response><Message>{text}</Message></Response>".encode()


def application(environ, start_response):
    message = read(environ)
    print(f"Incoming message from {message['From']}: {message['Body']}")
    body = twiml(reply(message))
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application).serve_forever()
