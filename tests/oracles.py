"""Samples of what is sent, and the oracles: what is true of any answer and log line.

They share no code with smsreply.  tests/fuzz.py and tests/test_safe.py use them.
"""

from __future__ import annotations

import base64
import hmac
import io
import logging
import re
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.etree import ElementTree

TOKENS = ["wEll-kept-sEcret-0123456789abcde", "the-0ld-sEcret-0123456789abcdef0"]
SID = "SM0123456789abcdef0123456789abcdef"
# The SMS of Twilio's documentation, as it comes over the wire.
SMS = (
    f"ToCountry=US&ToState=CA&SmsMessageSid={SID}&NumMedia=0&ToCity=SAUSALITO&FromZip=&SmsSid={SID}"
    "&FromState=CA&SmsStatus=received&FromCity=&Body=Hello+%26+%3Cb%3Ecaf%C3%A9%3C%2Fb%3E+%F0%9F%98"
    "%80+it%E2%80%99s+100%25%2B1&FromCountry=US&To=%2B15558675310&ToZip=94965&NumSegments=1"
    f"&MessageSid={SID}&AccountSid=AC0123456789abcdef0123456789abcdef&From=%2B14017122661"
    "&ApiVersion=2010-04-01"
)
FORMS = [
    SMS,
    f"NumMedia=1&Body=&MediaUrl0=https%3A%2F%2Fa.example%2F1&From=%2B1&To=%2B2&MessageSid={SID}",
    "From=whatsapp%3A%2B1&To=whatsapp%3A%2B2&ProfileName=%F0%9F%98%80&Body=%1B%5B31m%0D%0AERROR",
    "From=a&From=b&Body=%00%EF%BF%BE&=&x",
]
TARGETS = ["/sms", "/sms?a=b&c=", "/", "//sms/%7e?x=%41'", "/sms?", "http://h.example/sms?q#f", ""]
# fmt: off
PIECES = ["", "\n", "\r\n", "\x1b[31m", "\0", "#", "?", "&", "=", "%", "%0A", "+", "/", "@", ":", "[", "]"]
PIECES += ["\u2028", "\x85", "é", "\ud800", "😀", "<Response/>", "]]>", "--", ";", "smsreply=", "." * 900]
# fmt: on
ANSWERS = [
    '<?xml version="1.0" encoding="UTF-8"?><Response><Message>a</Message></Response>',
    '<Response><Message to="1" action="/x"><Body>b</Body><Media>m</Media></Message></Response>',
    "<Response><Redirect>/sms?a=b</Redirect></Response>",
    "",
]

URL = "https://abc.example/sms"
FORM = "application/x-www-form-urlencoded"
SETTINGS = "HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
STATUSES = {200, 400, 403, 404, 405, 411, 413, 415, 500, 503}


def as_bytes(text):
    try:
        return text.encode("utf-8", "surrogateescape")  # bytes that are not UTF-8, as they were
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def latin(text):
    """Return *text* as an environ has it: a byte in each character (PEP 3333)."""
    return as_bytes(text).decode("latin-1")


def urls(target, method, server):
    """Return what wsgiref, waitress, gunicorn and uWSGI make of a request's first line."""
    seen = target if server in (0, 3) else target.partition("#")[0]
    path, _, query = seen.partition("?")
    made = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "QUERY_STRING": query}
    made["PATH_INFO"] = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    made |= {"SERVER_NAME": "::1", "SERVER_PORT": "8767", "SERVER_PROTOCOL": "HTTP/1.1"}
    raw = ["", "REQUEST_URI", "RAW_URI", "REQUEST_URI"][server]
    return {**made, raw: target} if raw else made


def signed(body=SMS, *, url=URL, method="POST", token=None, **more):
    """Return the environ of a request that Twilio signed, changed by *more*."""
    pairs = sorted(set(parse_qsl(body, keep_blank_values=True))) if method == "POST" else []
    target = url.removeprefix("https://abc.example")
    environ = urls(target, method, server=0)
    environ |= {"HTTP_HOST": "abc.example", "wsgi.url_scheme": "https", "CONTENT_TYPE": FORM}
    raw = body.encode() if method == "POST" else b""
    environ |= {"CONTENT_LENGTH": str(len(raw)), "wsgi.input": io.BytesIO(raw)}
    signature = sign(token or TOKENS[0], url + "".join([name + value for name, value in pairs]))
    return {**environ, "HTTP_X_TWILIO_SIGNATURE": signature, **more}


def changes(raw):
    """Yield *raw* with each byte replaced, each left out, and one put in at each place."""
    for at in range(len(raw) + 1):
        for byte in (b"#", b"&", b"=", b"%", b"+", b"a", b"0", b" ", b"\n", b"\0", b"\xff"):
            yield raw[:at] + byte + raw[at + 1 :]
            yield raw[:at] + byte + raw[at:]
        yield raw[:at] + raw[at + 1 :]
        yield raw[:at] + bytes([(raw[at : at + 1] or b"x")[0] ^ 32]) + raw[at + 1 :]


class Log(logging.Handler):
    """Keeps what is logged, and says whether a sender could have forged any of it."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def check(self):
        for text in self.lines:
            first, *more = text.split("\n")
            assert all(line.startswith("    ") for line in more), f"a forged line: {text!r}"
            assert not any(map(CONTROL.search, [first, *more])), f"a control character: {text!r}"
            assert not any(token in text for token in TOKENS), f"a token: {text!r}"
        self.lines.clear()


def check_answer(status, headers, body, long=False):
    """Fail unless this is TwiML that Twilio takes, or one line that it texts to nobody."""
    assert int(status[:3]) in STATUSES, status
    assert type(headers) is list and type(body) is bytes
    for name, value in headers:
        assert type(name) is str and type(value) is str
        assert not CONTROL.search(name + value) and (name + value).isascii(), (name, value)
    kinds = dict(headers)
    assert len(kinds) == len(headers) and kinds["Content-Length"] == str(len(body))
    if status != "200 OK":
        assert kinds["Content-Type"] == "text/plain; charset=utf-8"
        assert body.count(b"\n") == (1 if body else 0) and len(body) < 200, body
        return
    assert kinds["Content-Type"] == "text/xml; charset=utf-8" and len(body) <= 64 * 1024
    root = ElementTree.fromstring(body)
    assert root.tag == "Response"
    for verb in root:
        assert verb.tag in ("Message", "Redirect"), verb.tag
        assert long or len("".join(verb.itertext()).encode("utf-16-le")) <= 2 * 1600


def check_signed(message, environ, form, tokens=TOKENS):
    """Fail unless *message* says what a token has signed, and nothing else."""
    post = environ["REQUEST_METHOD"] == "POST"
    query = dict(parse_qsl(message.url.partition("?")[2], keep_blank_values=True))
    pairs = parse_qsl(form.decode(), keep_blank_values=True) if post else []
    assert dict(message) == (dict(pairs) if post else query), "not what was signed"
    assert message.query == query, "a query that was not signed"
    fields = "".join([name + value for name, value in sorted(set(pairs))])
    parts = re.fullmatch(
        r"(https?)://(?:[^/?#]*@)?(\[[^\]]*\]|[^/?#:]*)(:\d*)?(/?)(.*)", message.url, re.DOTALL
    )
    scheme, host, port, slash, rest = parts.groups(default="")
    urls = {message.url}
    for end in (port, "", ":443" if scheme == "https" else ":80"):
        urls |= {
            f"{scheme}://{host}{end}{s}{rest}"
            for s in ([slash, "", "/"] if rest[:1] in "?" else [slash])
        }
    made = [sign(t, url + fields, d) for t in tokens for url in urls for d in ("sha1", "sha256")]
    assert environ["HTTP_X_TWILIO_SIGNATURE"] in made, message


def sign(token, text, digest="sha1"):
    text = text.encode("utf-8", "surrogatepass")
    return base64.b64encode(hmac.digest(token.encode(), text, digest)).decode()
