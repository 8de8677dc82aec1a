"""Stage 3: a text is not markup.

In XML, < and & begin markup.  ElementTree writes them as &lt; and &amp;, so a customer's text
stays a text.  Let a library write XML: who joins strings forgets this some day.

Still wrong: anybody who finds the URL can send messages in anybody's name.  Try it:
``curl localhost:8767/sms -d From=the+boss -d Body=100+pizzas``.
"""
# check: replies, refuses-unsigned, refuses-forged

import os
from urllib.parse import parse_qsl
from wsgiref.simple_server import make_server
from xml.etree import ElementTree

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
    response = ElementTree.Element("Response")
    ElementTree.SubElement(response, "Message").text = text
    return ElementTree.tostring(response, encoding="utf-8")


def application(environ, start_response):
    message = read(environ)
    print(f"Incoming message from {message['From']}: {message['Body']}")
    body = twiml(reply(message))
    start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application).serve_forever()
