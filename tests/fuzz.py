"""Fuzzing: whatever anybody sends, a handler returns, or a webhook answers.

    python tests/fuzz.py                    # for a minute
    python tests/fuzz.py 600                # for ten
    python tests/fuzz.py -runs=1000000      # or any other argument of atheris (libFuzzer)
    python tests/fuzz.py crash-0123…        # once more what failed

Coverage-guided where atheris is installed, else a loop of seeded random bytes.  Every
input is a series of choices, and every answer is judged by tests/oracles.py.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).parent.parent))
try:
    if __name__ != "__main__":
        raise ImportError
    import atheris
except ImportError:
    atheris = None
with atheris.instrument_imports(include=["smsreply"]) if atheris else contextlib.nullcontext():
    import smsreply
try:
    import smsphone
except ImportError:  # smsreply alone is fuzzed, too
    smsphone = None
from oracles import (
    ANSWERS,
    FORMS,
    PIECES,
    SETTINGS,
    SMS,
    TARGETS,
    TOKENS,
    Log,
    as_bytes,
    check_answer,
    check_signed,
    latin,
    sign,
    urls,
)

LOG = Log()

# ---------------------------------------------------------------------------- choices


class Choices:
    """Bytes, read as a series of choices; when they are used up, always the first one."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, below):
        size = 1 if below <= 256 else 2
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big") % below

    def of(self, options):
        return options[self.number(len(options))]

    def text(self):
        if self.number(4):
            return self.of(PIECES)
        size = self.number(64)
        self.at += size
        raw = self.data[self.at - size : self.at]
        return raw.decode("latin-1") if self.number(2) else raw.decode("utf-8", "surrogateescape")

    def edited(self, text):
        at = self.number(len(text) + 1)
        return text[:at] + self.text() + text[at + self.number(4) :]


class Bot:
    """A handler that returns what is chosen, and keeps what it got."""

    def __init__(self):
        self.got, self.choose = [], Choices(b"")

    def __call__(self, message):
        self.got.append(message)
        message.media, message.sid  # noqa: B018
        return reply(self.choose, message)


def reply(choose, message):
    """Return, or raise, one of all the things that a handler may."""
    text = message.body + choose.text()
    if choose.number(4) == 3:
        message.session[choose.text()] = [text, choose.number(9)] if choose.number(4) else {text}
    m = smsreply.MessagingResponse()
    kind = choose.number(16)
    if kind == 0:
        raise choose.of([ValueError, RecursionError, MemoryError, SystemExit, TimeoutError])(text)
    if kind == 1:
        raise type("Cancelled", (BaseException,), {})(text)  # as asyncio's and gevent's
    if kind == 2:
        m.message(text, to=text, action=text).body(text)
        m.comment(text)
        return m
    if kind == 3:
        return m.add_child(choose.text(), text)  # a verb that Twilio may not know: a TypeError
    several = [smsreply.Message(text[:800]), smsreply.Redirect(text[:800]), text]
    raw = [smsreply.RawTwiML("<Response/>"), b"<Response/>", str(m)]
    wrong = [5, {}, object(), {text}, lambda: text, [text, 7]]
    others = [None, (text, None), text * 300, several, *raw, *wrong]
    return text if kind < 8 else choose.of(others)


BOT = Bot()
PUBLIC = "https://public.example/pre"
APPS = [
    smsreply.App(BOT, auth_token=TOKENS),
    smsreply.App({"/sms": BOT, "": BOT}, auth_token=TOKENS),
    smsreply.App(BOT, auth_token=TOKENS, public_url=PUBLIC),
    smsreply.App(BOT, auth_token=TOKENS, cache=smsreply.MemoryCache(16), patience=14),
    smsreply.App(BOT, verify=False),
]
COOKIES = ["", "smsreply=1.1.e30=.x"]  # the last one is what an App has set

# ------------------------------------------------------------------------ entry points


def request(choose):
    """A request, signed, of which then some bytes are changed, as one of four servers has it."""
    app, post, form = choose.of(APPS), choose.number(2) == 0, choose.of(FORMS)
    target = choose.of(TARGETS)
    if not post:
        target += ("&" if "?" in target else "?") + form
    host, scheme = "abc.example", choose.of(["https", "http"])
    digest, text = choose.of(["sha1", "sha256"]), target if target[:1] == "/" else "/"
    pairs = sorted(set(parse_qsl(form, keep_blank_values=True))) if post else []
    origin = PUBLIC if app is APPS[2] else f"{scheme}://{host}"
    signature = sign(choose.of(TOKENS), origin + text + "".join([n + v for n, v in pairs]), digest)
    part = {
        "method": "POST" if post else "GET",
        "target": target,
        "body": form if post else "",
        "HTTP_HOST": host,
        "HTTP_X_TWILIO_SIGNATURE": signature,
        SETTINGS: "algorithm=HMAC_SHA256" if digest == "sha256" else "",
        "HTTP_COOKIE": choose.of(COOKIES),
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": str(len(form)) if post else "",
        "HTTP_TRANSFER_ENCODING": "",
        "HTTP_X_FORWARDED_HOST": "",
    }
    for _ in range(choose.number(5)):
        name = choose.of(list(part))
        part[name] = choose.edited(part[name])
        if name == "body":
            part["CONTENT_LENGTH"] = str(len(as_bytes(part["body"])))
    body = as_bytes(part.pop("body"))
    environ = {name: latin(value) for name, value in part.items() if value}
    environ |= urls(environ.pop("target", ""), environ.pop("method", ""), choose.number(4))
    environ |= {"wsgi.url_scheme": scheme, "wsgi.input": io.BytesIO(body)}
    send(app, environ, body, choose)


def send(app, environ, body=b"", choose=None):
    """Give *environ* to *app*; check, and return, what it answers."""
    BOT.choose, BOT.got, started = choose or Choices(b"\0\0\7"), [], []
    result = app(environ, lambda status, headers, exc_info=None: started.append((status, headers)))
    check_answer(*started[0], b"".join(result), long=b" action=" in result[0])
    if app is not APPS[4]:
        for message in BOT.got:
            check_signed(message, environ, body)
    set_ = [value.partition(";")[0] for name, value in started[0][1] if name == "Set-Cookie"]
    COOKIES[-1:] = set_ or COOKIES[-1:]
    LOG.check()
    return started[0][0], dict(started[0][1]), result[0]


def form(choose):
    """The fast way to read a form, and the slow one, against the standard library's."""
    text = choose.of(FORMS)
    for _ in range(choose.number(6)):
        text = choose.edited(text)
    raw = as_bytes(text)
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        pairs = None
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw) or raw.count(b"&") >= 1000:
        pairs = None
    try:
        fields = smsreply.parse(raw)
        got = list(fields.items()) if isinstance(fields, dict) else fields
    except smsreply.Refused:
        got = None
    assert got == pairs, raw


def validator(choose):
    """What a program asks of RequestValidator: never an exception, never the token."""
    validator = smsreply.RequestValidator(TOKENS)
    uri = choose.edited(choose.edited("https://u:p@abc.example:443/sms?a=b&bodySHA256=x#f"))
    params = choose.of(
        [None, SMS, SMS.encode(), {"a": ["b"], choose.text(): choose.text()}, [("a", "b")]]
    )
    signature = choose.of(
        [sign(TOKENS[0], "x" + choose.text()), choose.text(), None, b"\xff", "x" * 28]
    )
    algorithm = choose.of([None, "HMAC_SHA256", choose.text()])
    assert not validator.validate(uri, params, signature, algorithm), (uri, params, signature)


def explained(choose):
    """What `smsphone.explain` says: in words, whatever it is given."""
    uri = choose.edited(choose.edited("https://u:p@abc.example:443/sms?a=b&bodySHA256=x#f"))
    params = choose.of([None, SMS[:200], {"a": ["b"], choose.text(): choose.text()}, [("a", "b")]])
    signature = choose.of([sign(TOKENS[0], "x" + choose.text()), choose.text(), None, b"\xff"])
    login, host = "Basic " + latin(choose.text()), latin(choose.text())
    headers = {"X-Forwarded-Host": host, "Authorization": login}
    algorithm = choose.of([None, "HMAC_SHA256", choose.text()])
    said = smsphone.explain(TOKENS, uri, params, signature, algorithm, headers)
    assert not said.startswith("this cannot be explained"), said
    LOG.lines += said.split("\n")
    LOG.check()


def phone(choose):
    """What a webhook may answer: Phone reports it, in Twilio's codes, and raises nothing."""
    page = {
        "status": choose.of(["200 OK", "204 No Content", "302 Found", "308 Moved", "503 Busy"]),
        "Content-Type": choose.of(["text/xml", "text/html", "text/plain", "application/json"]),
        "Location": "https://localhost/sms",
        "Set-Cookie": choose.of(
            ["a=b; Path=/; Max-Age=60", "a=b; Expires=Wed, 21 Oct 2099 07:28:00 GMT"]
        ),
        "body": choose.of(ANSWERS),
    }
    for _ in range(choose.number(5)):
        name = choose.of(list(page))
        page[name] = choose.edited(page[name])

    def webhook(environ, start_response):
        headers = [(name, latin(value)) for name, value in page.items() if name[0].isupper()]
        start_response(latin(page["status"]), headers)
        return [as_bytes(page["body"])]

    exchange = smsphone.Phone(webhook, auth_token=TOKENS[0]).text(choose.text(), X=choose.text())
    assert exchange.error is None or exchange.error.code in smsphone.errors.ERRORS
    assert not any(len(message.body) > 1600 for message in exchange.messages)
    LOG.lines += f"{exchange.wire()}\n{exchange.error}\n{exchange!r}".split("\n")
    LOG.check()


# ------------------------------------------------------------------------ command line

ENTRIES = [request] * 12 + [form, form, validator]
ENTRIES += [phone, explained] if smsphone else []
COUNT = 0


def fuzz(data):
    global COUNT
    COUNT += 1
    choose = Choices(data)
    choose.of(ENTRIES)(choose)


def main(arguments):
    log = logging.getLogger("smsreply")
    log.handlers[:], log.propagate = [LOG], False
    log.setLevel(logging.DEBUG)
    smsreply.MAX_TRIES = 50  # of explanations in the log, which here need not be good
    if smsphone:
        sys.modules["smsphone.explain"].MAX_TRIES = 50
    files = [Path(argument) for argument in arguments if Path(argument).is_file()]
    for file in files:
        fuzz(file.read_bytes())
    if files:
        return 0
    runs = [int(argument[6:]) for argument in arguments if argument.startswith("-runs=")]
    seconds = [int(argument) for argument in arguments if argument.isdigit()]
    limit = runs[0] if runs else sys.maxsize
    started = time.monotonic()
    end = started + (seconds[0] if seconds else float("inf") if runs else 60)

    def test(data):
        try:
            fuzz(data)
        except BaseException:
            print(f"after {COUNT} executions, failed with {data!r}", flush=True)
            raise
        if COUNT >= limit or time.monotonic() >= end:
            how = "guided by coverage" if atheris else "at random"
            print(
                f"{COUNT} executions {how} in {time.monotonic() - started:.0f} s, none failed",
                flush=True,
            )
            os._exit(0)  # libFuzzer knows no other way to an end

    if atheris:
        others = [a for a in arguments if not a.isdigit() and not a.startswith("-runs=")]
        atheris.Setup([sys.argv[0], "-max_len=512", "-len_control=0", *others], test)
        atheris.Fuzz()
    source = random.Random(next((a for a in arguments if a.startswith("-seed=")), "-seed=1"))
    while True:
        test(source.randbytes(source.randrange(200)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
