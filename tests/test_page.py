"""The phone's page: closed to everybody but its own browser, and what it shows of a webhook.

The tests without a browser use its server by HTTP.  Those in a browser are at the end.
"""

from __future__ import annotations

import base64
import contextlib
import contextvars
import http.client
import json
import logging
import os
import re
import runpy
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from wsgiref.validate import validator

import pytest
from conftest import MESSAGE, PYTHON, ROOT, SID, TOKEN, call, free_port, make_environ, running
from texter import Texter, over_http, sign

import smsphone
import smsreply
from smsphone import page as page_module
from smsphone.ledger import Ledger, indented, wire_text

JSON = "application/json"
SLOW = bool(os.environ.get("SMSREPLY_SLOW"))
FILES = ("/", "/page.css", "/page.js")


@contextlib.contextmanager
def listening(server):
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def picture():
    def chunk(kind, data):
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return size + kind + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    )


def reply(message):
    words = message.body.partition(" ")[0]
    if words in ANSWERS:
        return ANSWERS[words](message)
    return f"You said {message.body}"


def with_media(text, url):
    one = smsreply.Message(text)
    one.append(smsreply.Media(url))
    return one


def counted(message):
    message.session["count"] = message.session.get("count", 0) + 1
    return str(message.session["count"])


def slow(message):
    time.sleep(float(message.body.split()[1]))
    return "At last."


def logs(message):
    logging.getLogger("bot").warning("a line of %s", message.from_)
    return "Logged."


def logs_late(message):
    done = threading.Event()
    LATE.append(done)

    def work():
        done.wait(10)
        logging.getLogger("bot").warning("a late line")

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), daemon=True).start()
    return "Not yet."


def logs_elsewhere(message):
    thread = threading.Thread(target=logging.getLogger("bot").warning, args=("nobody's line",))
    thread.start()
    thread.join()
    return "Elsewhere."


def fails(message):
    raise LookupError("there is no such thing")


LATE = []
ANSWERS = {
    "picture": lambda message: with_media("Here it is.", "/picture.png"),
    "outside": lambda message: with_media("From elsewhere.", "https://pictures.example/cat.jpg"),
    "redirect": lambda message: [smsreply.Message("One moment."), smsreply.Redirect("/next")],
    "status": lambda message: smsreply.Message("On its way.", status_callback="/status"),
    "error": lambda message: smsreply.RawTwiML("<Response><Mesage>typo</Mesage></Response>"),
    "count": counted,
    "slow": slow,
    "log": logs,
    "late": logs_late,
    "elsewhere": logs_elsewhere,
    "fail": fails,
}
PATHS = {"/sms": reply, "/next": lambda message: "And the rest.", "/status": lambda message: None}


def webhook(token=TOKEN, **named):
    app = smsreply.App(PATHS, auth_token=token, verify=bool(token), **named)

    def application(environ, start_response):
        if environ["PATH_INFO"] != "/picture.png":
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "image/png")])
        return [picture()]

    application.application = app  # what the page looks at, as at what reloads a file
    return application


@contextlib.contextmanager
def watched(application, **named):
    """Serve *application*, watched, and yield its port and the page beside it."""
    watch = page_module.watch(application)
    try:
        with listening(smsreply.development_server(watch, "127.0.0.1", 0)) as port:
            page = page_module.PhonePage(
                f"http://localhost:{port}/sms", ledger=watch.ledger, **named
            )
            page.port = port
            yield page
    finally:
        watch.close()


@pytest.fixture
def page():
    return page_module.PhonePage("http://localhost:1/sms")


@pytest.fixture
def connected(monkeypatch):
    """A page whose webhook is beside it, and takes the token that the environment has."""
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    with watched(webhook()) as page:
        yield page


def ask(page, path="/state", wanted=None, method="POST", **more):
    """Return the status, headers and body of the page's answer to a browser of its own."""
    body = wanted if isinstance(wanted, bytes) else json.dumps(wanted or {}).encode()
    given = {"PATH_INFO": path, "SERVER_PORT": "8768", "HTTP_HOST": "localhost:8768", **more}
    given = {"CONTENT_TYPE": JSON, "CONTENT_LENGTH": str(len(body)), **given}
    return call(page, make_environ(body if method == "POST" else b"", method, **given))


def stream_status(page, **more):
    """Return the status of the page's stream, which has no end."""
    environ = make_environ(b"", "GET", PATH_INFO="/events", SERVER_PORT="8768")
    statuses = []
    stream = page(
        {**environ, "HTTP_HOST": "localhost:8768", **more},
        lambda status, headers: statuses.append(status),
    )
    if hasattr(stream, "close"):
        stream.close()
    return statuses[0]


def told(page, path="/state", wanted=None):
    status, _, body = ask(page, path, wanted)
    assert status == "200 OK", body
    return json.loads(body)


def until(found, what="it"):
    """Wait until *found* returns something, and return that."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come")


def exchange(page, number, ready=lambda row: row["done"]):
    """Return all that the page has of an exchange, once it is done."""

    def look():
        status, _, body = ask(page, "/exchange", {"number": number})
        row = json.loads(body) if status == "200 OK" else None
        return row if row and ready(row) else None

    return until(look, f"exchange {number}")


def sent(page, body="hi", **more):
    number = told(page, "/text", {"body": body, **more})["number"]
    return exchange(page, number, lambda row: row["done"] and row["hops"][0]["checked"])


def again(page, number, what="", **more):
    return exchange(page, told(page, "/again", {"number": number, "what": what, **more})["number"])


def newest(page, ready=lambda row: row["done"]):
    return exchange(page, max(page.ledger.rows), ready)


def bodies(row):
    return [message["body"] for message in row["messages"]]


# Closed.


@pytest.mark.parametrize("path", FILES)
def test_each_file_forbids_what_the_page_does_not_need(page, path):
    status, headers, body = ask(page, path, method="GET")
    assert (status, headers["Content-Length"]) == ("200 OK", str(len(body)))
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: https: http://localhost:* http://127.0.0.1:*; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_nothing_is_fetched_from_elsewhere_nor_made_from_markup(page):
    html, css, js = (ask(page, path, method="GET")[2].decode() for path in FILES)
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', html) == ["page.css", "page.js"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", html)
    assert "url(" not in css and "@import" not in css
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|import\(|setInterval", js
    )


@pytest.mark.parametrize("host", ["localhost:8768", "127.0.0.1:8768"])
def test_the_page_answers_by_its_own_names(page, host):
    for origin in ("http://localhost:8768", "http://127.0.0.1:8768", None):
        assert ask(page, HTTP_HOST=host, HTTP_ORIGIN=origin)[0] == "200 OK"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("evil.example", id="rebinding"),
        pytest.param("evil.example:8768", id="rebinding, same port"),
        pytest.param("localhost", id="no port"),
        pytest.param("localhost:8767", id="the webhook's port"),
        pytest.param("localhost:8768.evil.example", id="a prefix"),
        pytest.param("evil.example,localhost:8768", id="two headers"),
        pytest.param("[::1]:8768", id="an address where it does not listen"),
        pytest.param("", id="blank"),
        pytest.param(None, id="none"),
    ],
)
@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/events", "GET"), ("/state", "POST"), ("/no", "PUT")]
)
def test_another_host_gets_nothing(page, host, path, method):
    status, headers, body = ask(page, path, method=method, HTTP_HOST=host)
    assert status == "403 Forbidden"
    assert body == b"the phone is at http://localhost:8768/ only\n"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost:8768",
        "http://localhost:8767",
        "http://localhost",
        "http://localhost:8768.evil.example",
        "null",
        "",
    ],
)
def test_another_origin_gets_nothing(page, origin):
    status, _, body = ask(page, "/text", {"body": "hi"}, HTTP_ORIGIN=origin)
    assert (status, body) == ("403 Forbidden", b"only the phone's own page can use the phone\n")
    assert stream_status(page, HTTP_ORIGIN=origin) == "403 Forbidden"
    assert not page.ledger.rows


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_a_picture_or_a_script_of_another_page_does_not_open_the_stream(page, site):
    assert stream_status(page, HTTP_SEC_FETCH_SITE=site) == "403 Forbidden"
    assert stream_status(page, HTTP_SEC_FETCH_SITE="same-origin") == "200 OK"


def test_at_port_80_a_browser_leaves_the_port_out(page):
    at_80 = {"SERVER_PORT": "80", "HTTP_HOST": "localhost", "HTTP_ORIGIN": "http://localhost"}
    assert ask(page, **at_80)[0] == "200 OK"


@pytest.mark.parametrize(
    "kind",
    [
        smsreply.FORM_TYPE,
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/jsonp",
        "",
        None,
    ],
)
def test_what_a_form_can_send_is_refused(page, kind):
    status, _, body = ask(page, "/text", {"body": "hi"}, CONTENT_TYPE=kind)
    assert (status, body) == ("415 Unsupported Media Type", b"the phone reads application/json\n")


def test_json_may_name_its_charset(page):
    assert ask(page, CONTENT_TYPE="Application/JSON; charset=utf-8")[0] == "200 OK"


@pytest.mark.parametrize(("more", "status"), [(0, "200 OK"), (1, "413 Content Too Large")])
def test_a_body_is_at_most_64_kib(page, more, status):
    body = b'{"x": "' + b"y" * (64 * 1024 - 9 + more) + b'"}'
    assert len(body) == 64 * 1024 + more
    assert ask(page, wanted=body)[0] == status


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/", "POST", "GET"),
        ("/events", "POST", "GET"),
        ("/text", "GET", "POST"),
        ("/text", "OPTIONS", "POST"),
        ("/", "HEAD", "GET"),
    ],
)
def test_each_path_has_one_method(page, path, method, allowed):
    status, headers, body = ask(page, path, method=method)
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", allowed)
    assert body == (b"" if method == "HEAD" else f"only {allowed} is answered here\n".encode())
    assert not [name for name in headers if name.startswith("Access-Control")]


def test_there_is_no_other_path(page):
    assert ask(page, "/favicon.ico", method="GET")[0] == "404 Not Found"
    assert ask(page, "//")[0] == "404 Not Found"


NO_URL = "is no URL like https://abc.example/cat.png"


@pytest.mark.parametrize(
    ("path", "wanted", "line"),
    [
        ("/text", b"", "the body is not JSON"),
        ("/text", b"\xff", "the body is not JSON"),
        pytest.param("/text", b"[" * 60_000, "the body is not JSON", id="deep"),
        ("/text", b"[]", "the body is not a JSON object"),
        ("/text", {"body": 1}, "body is not a text"),
        ("/text", {"media": "cat"}, f"'cat' {NO_URL}"),
        ("/text", {"media": "https://x/1.png javascript:1"}, f"'javascript:1' {NO_URL}"),
        ("/sender", {"number": " "}, "a number is needed, like +15005550001"),
        ("/sender", {"number": "1\r\nX: y"}, "a number is needed, like +15005550001"),
        ("/settings", {}, "a number, and GET or POST, are needed"),
    ],
)
def test_what_the_page_would_not_send_is_refused_in_one_line(page, path, wanted, line):
    status, _, body = ask(page, path, wanted)
    assert (status, body.decode()) == ("400 Bad Request", line + "\n")
    assert not page.ledger.rows


@pytest.mark.parametrize("number", [7, "1", None, [], {}])
def test_an_exchange_that_is_not_there_is_not_found(page, number):
    for path in ("/exchange", "/again"):
        status, _, body = ask(page, path, {"number": number})
        assert (status, body) == ("404 Not Found", b"this exchange is no longer kept\n")


def test_a_message_is_not_changed_into_what_is_none(connected):
    number = sent(connected)["number"]
    for more in ({"params": {"Body": None}}, {"params": []}, {"what": "explode"}):
        assert ask(connected, "/again", {"number": number, "what": "edited", **more})[0][0] == "4"


def test_the_server_listens_on_loopback_and_knows_its_port():
    with listening(page_module.serve("http://localhost:1/sms", None, 0)) as port:
        for host, status in ((f"localhost:{port}", b"200"), ("evil.example", b"403")):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert client.makefile("rb").readline().split()[1] == status


def test_nothing_on_the_page_has_less_contrast_than_4_5_to_1(page):
    css = ask(page, "/page.css", method="GET")[2].decode()

    def light(colour):
        digits = colour[1:] if len(colour) == 7 else "".join([c * 2 for c in colour[1:]])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(map(float.__mul__, linear, (0.2126, 0.7152, 0.0722)))

    for block in re.findall(r":root \{(.*?)\}", css, re.S):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", block))
        grounds = [colours[name] for name in ("paper", "card", "code", "tint", "theirs", "track")]
        pairs = [(colours[ink], ground) for ink in ("ink", "soft") for ground in grounds]
        pairs += [(colours["accent"], ground) for ground in grounds[:4]]
        pairs += [(colours[one], colours["code"]) for one in ("name", "value", "accent")]
        pairs += [(colours["bad"], colours[one]) for one in ("bad-tint", "card", "paper")]
        pairs += [(colours["on-accent"], colours["accent"]), (colours["name"], colours["card"])]
        for one, other in pairs:
            low, high = sorted((light(one), light(other)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)


# The token, the settings, the log.


def all_that_is_told(page):
    row = sent(page, "hello")
    texts = [ask(page, path, method="GET")[2] for path in FILES]
    texts += [ask(page)[2], json.dumps(row).encode(), ask(page, "/clear")[2]]
    return b"".join(texts) + next(iter_events(page))[0].encode()


def iter_events(page, since=""):
    """Yield the data of each event that the page's stream has, and its id."""
    query = {"QUERY_STRING": f"since={since}"} if since else {}
    environ = make_environ(b"", "GET", PATH_INFO="/events", SERVER_PORT="8768", **query)
    environ["HTTP_HOST"] = "localhost:8768"
    stream = page(environ, lambda status, headers: None)
    for piece in stream:
        event = re.fullmatch("id: (.*)\ndata: (.*)\n\n", piece.decode())
        if event:
            yield event[2], event[1]


def settings_of(page, **changed):
    return {**told(page)["settings"], **changed}


def test_the_token_is_never_served(connected, monkeypatch):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token-of-the-environment")
    assert b"token-of" not in all_that_is_told(connected)
    state = told(connected, "/settings", settings_of(connected, token="token-of-the-page"))
    assert state["token"] == "this page"
    assert b"token-of" not in all_that_is_told(connected)


def test_a_token_can_be_set_and_kept_and_left_out(connected):
    def first_status(**changed):
        told(connected, "/settings", settings_of(connected, **changed))
        return sent(connected)["hops"][0]["status"]

    assert told(connected)["token"] == "TWILIO_AUTH_TOKEN"
    assert first_status() == 200
    assert first_status(token="another") == 403
    assert first_status(token="") == 403
    assert first_status(token=TOKEN) == 200
    assert first_status(unsigned=True) == 403
    assert (told(connected)["token"], told(connected)["unsigned"]) == ("", True)
    assert first_status() == 200
    assert told(connected)["token"] == "this page"  # the last one that was given


def test_a_shared_keys_settings_are_sent_and_its_secret_signs(connected):
    settings = "key=SK0123,algorithm=HMAC_SHA256"
    told(connected, "/settings", settings_of(connected, signature_settings=settings))
    row = sent(connected)
    assert row["hops"][0]["settings"] == settings
    assert len(base64.b64decode(row["hops"][0]["signature"])) == 32
    assert bodies(row) == ["You said hi"]
    for wrong in ("key=SK0123,algorithm=MD5", "a\r\nb: c"):
        changed = settings_of(connected, signature_settings=wrong)
        assert ask(connected, "/settings", changed)[0] == "400 Bad Request"


def test_another_number_method_and_url_are_used(connected):
    told(connected, "/settings", settings_of(connected, to="+2", method="GET"))
    row = sent(connected, **{"from": "whatsapp:+1"})
    assert (row["params"]["From"], row["params"]["To"]) == ("whatsapp:+1", "whatsapp:+2")
    assert row["hops"][0]["method"] == "GET"
    assert bodies(row) == ["You said hi"]


@pytest.mark.parametrize(
    ("channel", "sender"),
    [
        ("", "[+]15005550001"),
        ("whatsapp", "whatsapp:[+]15005550001"),
        ("rcs", "rcs:[+]15005550001"),
        ("hidden", "whatsapp:US[.][0-9]+"),
    ],
)
def test_a_channel_is_chosen(connected, channel, sender):
    found = told(connected, "/sender", {"number": "+15005550001", "channel": channel})["from"]
    assert re.fullmatch(sender, found)
    row = sent(connected, **{"from": found})
    assert row["from"] == found
    assert ("WaId" in row["params"]) == (channel == "whatsapp")


def test_a_person_without_a_number_is_the_same_person(connected):
    number = {"number": "+15005550001"}
    shown = sent(
        connected, **{"from": told(connected, "/sender", {**number, "channel": "whatsapp"})["from"]}
    )
    hidden = told(connected, "/sender", {**number, "channel": "hidden"})["from"]
    assert hidden == "whatsapp:" + shown["params"]["ExternalUserId"]


@pytest.mark.parametrize("name", ["webhook", "public_url"])
@pytest.mark.parametrize(
    "url", ["ftp://x/", "x", "http://x/ y", "http://x/\r\nY: z", "http://x/\ud800"]
)
def test_a_bad_url_is_shown_and_changes_nothing(page, name, url):
    before = told(page)
    status, _, body = ask(page, "/settings", settings_of(page, **{name: url}))
    assert status == "400 Bad Request"
    assert url.split()[0].encode("utf-8", "replace")[:6] in body
    assert told(page) == before


def test_to_clear_forgets_the_cookies_and_can_be_undone(connected):
    def count():
        return bodies(sent(connected, "count"))

    assert [count(), count()] == [["1"], ["2"]]
    told(connected, "/clear")
    assert list(connected.ledger.rows) == []
    told(connected, "/undo")
    assert list(connected.ledger.rows) == [1, 2]
    assert count() == ["3"]
    told(connected, "/clear")
    assert count() == ["1"]
    told(connected, "/undo")
    assert list(connected.ledger.rows) == [1, 2, 3, 4]


def test_a_picture_at_the_public_url_is_shown_from_the_webhook_itself(connected):
    told(connected, "/settings", settings_of(connected, public_url="https://abc.example"))
    with watched(webhook(token=None)) as other:
        told(
            other,
            "/settings",
            settings_of(other, public_url="https://abc.example"),
        )
        [message] = sent(other, "picture")["messages"]
    here = f"http://localhost:{other.port}/picture.png"
    assert message["media"] == [{"url": "https://abc.example/picture.png", "here": here}]


def test_half_a_character_is_sent_as_twilio_would_never_send_it_but_is_no_failure(page):
    row = exchange(page, told(page, "/text", {"body": "half of it: \ud83d"})["number"])
    assert row["errors"][0]["code"] == 11202


def test_no_text_of_anybodys_is_logged(page, caplog, capfd, monkeypatch):
    def fails(phone, *arguments, **named):
        raise RuntimeError("a secret")

    caplog.set_level(0)
    exchange(page, told(page, "/text", {"body": "a secret"})["number"])
    ask(page, "/text", {"body": "a secret"}, HTTP_ORIGIN="a secret")
    monkeypatch.setattr(page_module, "message_params", fails)
    status, _, body = ask(page, "/text", {"body": "a secret"})
    assert (status, body) == ("500 Internal Server Error", b"the phone failed\n")
    assert caplog.messages == ["the phone's page failed: RuntimeError"]
    assert "secret" not in caplog.text + "".join(capfd.readouterr())


# What an exchange shows, step by step.


def test_an_exchange_shows_what_was_asked_signed_and_answered(connected):
    row = sent(connected, "Fish & chips")
    [hop] = row["hops"]
    assert (row["title"], row["from"], bodies(row)) == (
        "Fish & chips", "+15005550001", ["You said Fish & chips"]
    )  # fmt: skip
    assert dict(hop["fields"])["Body"] == "Fish & chips"
    assert "Body=Fish+%26+chips" in hop["wire"]
    [url], *pairs = hop["signed"]
    assert url == f"http://localhost:{connected.port}/sms"
    assert pairs == sorted(pairs) and ["Body", "Fish & chips"] in pairs
    assert hop["checked"] == ["good", "genuine: your program checked it"]
    assert (hop["status"], hop["type"]) == (200, "text/xml; charset=utf-8")
    assert "\n  <Message>You said Fish &amp; chips</Message>\n" in hop["twiml"]
    assert "HTTP/1.0 200 OK" in hop["answer"]


def test_redirects_and_callbacks_are_beneath_their_message(connected):
    row = sent(connected, "redirect")
    assert [hop["kind"] for hop in row["hops"]] == ["message", "redirect"]
    assert bodies(row) == ["One moment.", "And the rest."]
    row = sent(connected, "status")
    assert [(hop["kind"], hop["said"]) for hop in row["hops"]] == [
        ("message", ""),
        ("status", "sent"),
        ("status", "delivered"),
    ]


def test_retries_are_beneath_their_message(connected):
    url = f"http://localhost:{connected.port}/sms#rc=2&rp=all"
    told(connected, "/settings", settings_of(connected, webhook=url))
    row = sent(connected, "fail")
    assert [hop["kind"] for hop in row["hops"]] == ["message", "retry", "retry"]
    assert all(hop["watched"] and hop["failed"] for hop in row["hops"])


def test_an_error_is_told_with_its_cure(connected):
    row = sent(connected, "error")
    assert row["errors"][0]["code"] == 12200
    assert "<Mesage> is in <Response>" in row["trouble"]
    assert re.search("What helps: use Twilio's verbs and attributes[^.]*[.]$", row["trouble"])


def test_of_a_failed_handler_the_error_and_the_place_are_told(connected):
    row = sent(connected, "fail")
    failed = row["hops"][0]["failed"]
    assert re.fullmatch(
        r"LookupError: there is no such thing \(test_page.py, line [0-9]+\)", failed
    )
    assert row["trouble"] == f"Your program failed: {failed}. Step 5 has its log."
    [line] = row["hops"][0]["lines"]
    assert line["level"] == "ERROR" and "raise LookupError" in line["trace"]


def test_a_server_that_is_not_there_is_an_error_of_twilios(page):
    row = exchange(page, told(page, "/text", {"body": "hi"})["number"])
    assert (row["errors"][0]["code"], row["hops"][0]["status"]) == (11202, 0)


def test_a_slow_message_stays_where_it_was_sent(connected):
    first = told(connected, "/text", {"body": "slow 0.3"})["number"]
    second = sent(connected)["number"]
    assert second > first
    assert not told(connected, "/exchange", {"number": first})["done"]
    assert bodies(exchange(connected, first)) == ["At last."]


def test_what_is_not_text_on_the_wire_is_escaped():
    assert wire_text(b"a\r\n\xff\x00b\xc3\xa9\n") == "a\n\\xff\\x00bé\n"


def test_what_is_deeper_than_twiml_is_not_shown_element_by_element():
    assert indented(b"<a>" * 5000 + b"</a>" * 5000) == ""
    assert indented(b"<a><b><c>x</c></b></a>").count("\n") == 4


# All that the development server got.


def test_twilio_through_a_tunnel_is_a_row_with_its_verdict():
    with watched(webhook(public_url="https://abc.example")) as page:
        Texter(page.port).text("From afar")
        row = newest(page)
        [hop] = row["hops"]
    assert (row["title"], bodies(row)) == ("From afar", ["You said From afar"])
    assert hop["checked"] == ["good", "genuine: your program checked it"]
    assert hop["signed"][0] == ["https://abc.example/sms"]
    assert hop["watched"] and hop["status"] == 200


def test_a_request_that_is_not_genuine_is_told_with_the_reason():
    with watched(webhook(public_url="https://abc.example")) as page:
        Texter(page.port, token="another").text("Hi")
        row = newest(
            page, lambda row: row["done"] and "looking" not in row["hops"][0]["checked"][1]
        )
    assert row["hops"][0]["checked"][0] == "wrong"
    assert row["hops"][0]["checked"][1].startswith("refused: ")
    assert row["trouble"].startswith("Refused: ") and row["errors"][0]["code"] == 11217


def test_the_reason_names_what_was_signed_instead():
    with watched(webhook(public_url="https://abc.example")) as page:
        Texter(page.port, public="http://abc.example").text("Hi")
        row = newest(page, lambda row: row["done"] and "signed for" in row["trouble"])
    assert "signed for http://abc.example/sms" in row["trouble"]


def test_a_url_whose_path_a_router_stripped_is_genuine():
    public = "https://abc.example/hook"
    with watched(smsreply.App(reply, auth_token=TOKEN, public_url=public)) as page:
        signature = sign(TOKEN, public, "Body=Hi&From=x")
        headers = {"X-Twilio-Signature": signature}
        assert over_http(page.port, "POST", "/", headers, b"Body=Hi&From=x")[0] == 200
        assert newest(page)["hops"][0]["checked"][0] == "good"


def test_an_unsigned_request_is_told_from_a_forged_one():
    with watched(webhook()) as page:
        Texter(page.port, token="").text("Hi")
        row = newest(page, lambda row: "looking" not in row["hops"][0]["checked"][1])
    assert "X-Twilio-Signature is missing" in row["hops"][0]["checked"][1]


def test_where_there_is_no_token_nobody_can_tell():
    with watched(webhook(token=None)) as page:
        Texter(page.port).text("Hi")
        row = newest(page)
    checked = ["", "there is no auth token, so nobody can tell who sent this"]
    assert row["hops"][0]["checked"] == checked
    assert bodies(row) == ["You said Hi"]


def test_each_account_is_judged_by_its_own_token():
    other = "AC" + "f" * 32
    app = smsreply.App(reply, auth_token={MESSAGE["AccountSid"]: TOKEN, other: "another"})
    with watched(app) as page:
        url = f"http://127.0.0.1:{page.port}"
        Texter(page.port, public=url).text("Hi")
        assert newest(page)["hops"][0]["checked"][0] == "good"
        Texter(page.port, public=url).text("Hi", AccountSid=other)
        assert newest(page)["hops"][0]["checked"][0] == "wrong"
        Texter(page.port, public=url).text("Hi", AccountSid="AC" + "0" * 32)
        assert "no auth token for 'AC000" in newest(page)["hops"][0]["checked"][1]


def test_an_application_that_is_no_app_is_judged_by_the_environment(monkeypatch):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)

    def application(environ, start_response):
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/xml")])
        return [b"<Response><Message>Yes</Message></Response>"]

    with watched(application) as page:
        texter = Texter(page.port, public=f"http://127.0.0.1:{page.port}")
        texter.text("Hi")
        assert newest(page)["hops"][0]["checked"][0] == "good"
        Texter(page.port, token="wrong").text("Hi")
        row = newest(page, lambda row: row["hops"][0]["checked"][1].count(":") > 1)
    assert row["hops"][0]["checked"][1].startswith("not genuine, and answered all the same: ")


def test_twilios_redirects_and_retries_are_beneath_their_message():
    with watched(webhook(public_url="https://abc.example")) as page:
        texter = Texter(page.port)
        texter.send(texter.text("redirect").fields)
        row = newest(page)
    kinds = [hop["kind"] for hop in row["hops"]]
    assert kinds == ["message", "redirect", "retry", "redirect"]
    assert bodies(row)[:2] == ["One moment.", "And the rest."]


def test_a_status_callback_of_twilios_is_a_row():
    with watched(webhook(public_url="https://abc.example")) as page:
        fields = {"MessageSid": SID, "MessageStatus": "delivered", "From": "+1", "To": "+2"}
        Texter(page.port, target="/status").send(fields)
        row = newest(page)
    assert (row["title"], row["hops"][0]["kind"]) == ("status: delivered", "status")


def test_curl_and_a_browser_are_rows_too(connected):
    over_http(connected.port, "GET", "/favicon.ico", {"User-Agent": "Mozilla/5.0 (X11)"})
    row = newest(connected)
    assert (row["title"], row["source"]) == ("GET /favicon.ico", "Mozilla/5.0")
    assert (row["hops"][0]["status"], row["errors"]) == (404, [])


@pytest.mark.parametrize(
    ("agent", "host", "source"),
    [
        ("TwilioProxy/1.1", "abc.example", "Twilio"),
        ("TwilioProxy/1.1", "localhost:8767", "the terminal"),
        ("curl/8.1.2", "localhost:8767", "curl/8.1.2"),
    ],
)
def test_a_row_says_where_it_is_from(connected, agent, host, source):
    over_http(
        connected.port, "POST", "/sms", {"User-Agent": agent, "Host": host}, b"From=%2B1&Body=x"
    )
    assert newest(connected)["source"] == source


def test_a_request_that_is_not_read_says_so(connected):
    over_http(connected.port, "POST", "/nowhere", {}, b"Body=hello")
    [hop] = newest(connected)["hops"]
    assert (hop["unread"], hop["status"]) == (10, 404)
    assert hop["checked"] == ["", "your program did not read the body, so nobody can tell"]


def test_a_row_is_there_while_the_handler_still_runs(connected):
    texter = Texter(connected.port, public=f"http://127.0.0.1:{connected.port}")
    thread = threading.Thread(target=texter.text, args=("slow 0.3",))
    thread.start()
    until(lambda: connected.ledger.rows)
    row = newest(connected, lambda row: row["hops"])
    assert row["title"] == "slow 0.3" and not row["hops"][0]["done"]
    thread.join()
    assert newest(connected)["hops"][0]["done"]


def test_what_a_program_logs_is_its_own_rows(connected):
    one, other = sent(connected, "log"), sent(connected, "log", **{"from": "+2"})
    for row, number in ((one, "+15005550001"), (other, "+2")):
        [line] = row["hops"][0]["lines"]
        assert (line["logger"], line["text"]) == ("bot", f"a line of {number}")


def test_with_a_cache_the_lines_are_the_rows_too():
    with watched(webhook(public_url="https://abc.example", cache=smsreply.MemoryCache())) as page:
        Texter(page.port).text("log")
        row = newest(page)
    assert [line["text"] for line in row["hops"][0]["lines"]] == ["a line of +14017122661"]


def test_a_late_line_comes_to_the_row_that_it_belongs_to(connected):
    number = sent(connected, "late")["number"]
    sent(connected)
    LATE.pop().set()
    row = exchange(connected, number, lambda row: row["hops"][0]["lines"])
    assert row["hops"][0]["lines"][0]["text"] == "a late line"


def test_a_line_of_a_thread_of_its_own_goes_to_the_server(connected):
    row = sent(connected, "elsewhere")
    assert row["hops"][0]["lines"] == []
    event = json.loads(next(iter_events(connected))[0])
    assert [line["text"] for line in event["server"]] == ["nobody's line"]


def test_looking_on_changes_nothing_that_logging_prints(capfd):
    # Where nobody set up logging, a warning goes to stderr as it is.
    code = (
        "import logging; from smsphone import page; page.watch(lambda e, s: []);"
        "logging.getLogger('bot').warning('bare'); logging.warning('with a format')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, cwd=ROOT)
    assert capfd.readouterr().err == "bare\nWARNING:root:with a format\n"


def answers(application):
    """Return what a server gets of *application*, bare and watched, by PEP 3333's own check."""
    watch = page_module.watch(application)
    got = []
    try:
        for one in (application, watch):
            environ, found, written = make_environ({"Body": "x", "From": "+1"}), [], []

            def start_response(status, headers, exc_info=None, found=found, written=written):
                found.extend([status, dict(headers)])
                return written.append

            result = validator(one)(environ, start_response)
            written.extend(result)
            result.close()
            got.append((*found, b"".join(written)))
    finally:
        watch.close()
    return got


@pytest.mark.parametrize("way", ["list", "write", "iterable"])
def test_an_answer_goes_through_as_it_is(way):
    closed = []

    class Closing:
        def __init__(self, pieces):
            self.pieces = iter(pieces)

        def __iter__(self):
            return self.pieces

        def close(self):
            closed.append(True)

    def application(environ, start_response):
        environ["wsgi.input"].read(5)
        write = start_response("201 Created", [("Content-Type", "text/plain"), ("X-Own", "1")])
        if way == "list":
            return [b"one", b"two"]
        if way == "write":
            write(b"one")
            return [b"two"]
        return Closing([b"one", b"two"])

    bare, seen = answers(application)
    assert bare == seen == ("201 Created", {"Content-Type": "text/plain", "X-Own": "1"}, b"onetwo")
    assert closed == ([True, True] if way == "iterable" else [])


def test_what_is_logged_while_the_answer_comes_is_its_rows():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/xml")])
        yield b"<Response"
        logging.getLogger("bot").warning("half of it")
        yield b" />"

    with watched(application) as page:
        over_http(page.port, "POST", "/sms", {}, b"")
        [hop] = newest(page)["hops"]
    assert [line["text"] for line in hop["lines"]] == ["half of it"]
    assert hop["answer"].endswith("<Response />")


def raise_at_once(environ, start_response):
    raise LookupError("no answer")


def raise_before_the_first_piece(environ, start_response):
    if environ:
        raise LookupError("no answer")
    yield b""


def raise_midway(environ, start_response):
    start_response("500 No", [("Content-Type", "text/xml")])
    yield b"<Response"
    raise LookupError("no answer")


@pytest.mark.parametrize("application", [raise_at_once, raise_before_the_first_piece, raise_midway])
def test_an_application_that_raises_still_raises_and_is_a_row(application):
    watch = page_module.watch(application)
    try:
        with pytest.raises(LookupError):
            call(watch, make_environ({"Body": "x"}))
        page = page_module.PhonePage("http://localhost:1/sms", ledger=watch.ledger)
        [hop] = newest(page)["hops"]
    finally:
        watch.close()
    assert hop["status"] == 500
    assert hop["failed"].startswith("LookupError: no answer (test_page.py, line ")


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (None, "TypeError: 'NoneType' object is not iterable"),
        (["<Response />"], "TypeError: a piece of the answer is not bytes, but str"),
        (b"<Response />", "TypeError: a piece of the answer is not bytes, but int"),
    ],
)
def test_an_application_that_returns_what_is_no_answer_is_a_row(result, failed):
    def application(environ, start_response):
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/xml")])
        return result

    watch = page_module.watch(application)
    try:
        with pytest.raises(TypeError):
            call(watch, make_environ({"Body": "x"}), validate=False)
    finally:
        watch.close()
    [row] = watch.ledger.rows.values()
    assert row.done and row.hops[0].failure().startswith(failed)


def test_of_a_long_answer_64_kb_are_kept():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/xml")])
        return iter([b"x" * 50_000] * 4)

    watch = page_module.watch(application)
    try:
        assert len(call(watch, make_environ({"Body": "x"}))[2]) == 200_000
    finally:
        watch.close()
    [row] = watch.ledger.rows.values()
    assert len(row.hops[0].answer.body) < 66_000


# Done again.


@pytest.mark.parametrize("signature", ["", "broken", "unsigned"])
def test_half_an_emoji_is_sent_as_a_question_mark(connected, signature):
    number = sent(connected, "a\ud83d", **{"from": "b\ude00"})["number"]
    assert connected.ledger.rows[number].exchange.params["From"] == "b?"
    params = {"Body": "a\ud83d", "\ude00": ""}
    row = again(connected, number, "edited", params=params, signature=signature)
    assert row["params"] == {"Body": "a?", "?": ""}


def test_what_came_from_outside_is_delivered_again_byte_for_byte():
    with watched(webhook(public_url="https://abc.example")) as page:
        Texter(page.port).text("Once")
        first = newest(page)
        second = again(page, first["number"])
    one, other = first["hops"][0], second["hops"][0]
    assert (other["wire"].split("\n\n")[1], other["signature"]) == (
        one["wire"].split("\n\n")[1], one["signature"]
    )  # fmt: skip
    assert other["watched"] and other["checked"][0] == "good"
    assert bodies(second) == ["You said Once"]
    assert (second["again"], second["how"]) == (first["number"], "delivered again")
    assert second["copies"]["curl"].splitlines()[0] == first["copies"]["curl"].splitlines()[0]


def test_what_the_page_sent_is_delivered_again_with_its_messagesid(connected):
    first = sent(connected)
    second = again(connected, first["number"])
    assert second["params"] == first["params"]
    assert second["hops"][0]["signature"] == first["hops"][0]["signature"]


def test_any_parameter_can_be_changed_and_the_signature_broken(connected):
    first = sent(connected)
    params = {**first["params"], "Body": "ho", "ProfileName": "Ada"}
    number = first["number"]
    changed = again(connected, number, "edited", params=params)
    assert (changed["params"]["ProfileName"], bodies(changed)) == ("Ada", ["You said ho"])
    by_get = again(connected, number, "edited", params=params, method="GET")
    assert (by_get["hops"][0]["method"], bodies(by_get)) == ("GET", ["You said ho"])
    broken = again(connected, number, "edited", params=params, signature="broken")
    assert broken["hops"][0]["status"] == 403
    unsigned = again(connected, number, "edited", params=params, signature="unsigned")
    assert "X-Twilio-Signature" not in unsigned["hops"][0]["wire"]


@pytest.mark.parametrize("what", ["body", "broken", "unsigned", "url"])
def test_a_good_webhook_refuses_each_forgery(connected, what):
    row = again(connected, sent(connected)["number"], what)
    assert row["hops"][0]["status"] == 403
    assert row["finding"] == ["good", "It refuses with 403, as a good webhook does."]
    assert row["how"].startswith("what if ")


@pytest.mark.parametrize("what", ["body", "broken", "unsigned", "url"])
def test_a_webhook_that_checks_nothing_is_found_out(monkeypatch, what):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    with watched(webhook(token=None)) as page:
        row = again(page, sent(page)["number"], what)
    assert row["finding"][0] == "bad"
    assert row["finding"][1].startswith("It answered 200. A good webhook refuses with 403")
    assert f"(lesson, stage {5 if what == 'url' else 4})" in row["finding"][1]


def test_where_nothing_is_signed_a_forgery_shows_nothing():
    with watched(webhook(token=None)) as page:
        row = again(page, sent(page)["number"], "body")
    assert row["finding"] == [
        "open", "It answered 200; but nothing was signed before, as there is no token."
    ]  # fmt: skip


def test_a_webhook_that_refuses_everything_shows_nothing(connected):
    told(connected, "/settings", settings_of(connected, token="another"))
    row = again(connected, sent(connected)["number"], "body")
    assert row["finding"] == [
        "open", "It refuses with 403; but it refused the right one too, with 403."
    ]  # fmt: skip


def test_what_comes_twice_is_to_be_answered_alike(connected):
    row = again(connected, sent(connected)["number"], "twice")
    assert row["finding"][0] == "good"
    row = again(connected, sent(connected, "count")["number"], "twice")
    assert row["finding"] == [
        "bad", "Another answer than the first time: its work was done twice (lesson, stage 6)."
    ]  # fmt: skip


def test_a_body_that_comes_slowly_is_waited_for(connected, monkeypatch):
    monkeypatch.setattr("smsphone.what_if.WrittenPhone.PAUSE", 0.05)
    first = sent(connected)
    row = again(connected, first["number"], "slowly")
    assert row["finding"] == ["good", "It waited for all of the body, as a good webhook does."]
    assert row["hops"][0]["seconds"] > first["hops"][0]["seconds"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("body", ['it\'s $HOME & "you"', "%41\n@file \\n"])
def test_a_copy_for_curl_sends_the_same(connected, body):
    row = sent(connected, body)
    answer = subprocess.run(
        ["bash", "-c", row["copies"]["curl"].replace("curl ", "curl -s ", 1)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert answer.stdout.decode() == row["hops"][0]["answer"].split("\n\n", 1)[1]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_copy_for_curl_sends_what_came_raw_as_it_came():
    with watched(webhook(token=None)) as page:
        over_http(page.port, "POST", "/sms", {}, b'Body=it\'s "$HOME" `x`&From=x')
        row = newest(page)
        command = ["bash", "-c", row["copies"]["curl"]]
        answer = subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert bodies(row) == ['You said it\'s "$HOME" `x`']
    assert answer.stdout.decode() == row["hops"][0]["answer"].split("\n\n", 1)[1]


@pytest.mark.parametrize("body", ['it\'s "you"\\ and {me}', "error", "redirect", "😀\n"])
def test_a_copy_as_a_test_passes(connected, body, monkeypatch, tmp_path):
    first = sent(connected, body)
    params = {**first["params"], "class": "1", "body": "2", "ButtonText": "3", "a b": "4"}
    row = again(connected, first["number"], "edited", params=params)
    assert "ButtonText='3'" in row["copies"]["test"]
    bot = types.ModuleType("bot")
    bot.reply = reply if body != "redirect" else lambda message: ["One moment.", "And the rest."]
    monkeypatch.setitem(sys.modules, "bot", bot)
    file = tmp_path / "copied.py"
    file.write_text(row["copies"]["test"], encoding="utf-8")
    names = runpy.run_path(str(file))
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    test()


def test_a_saved_message_is_replayed(connected, tmp_path):
    row = sent(connected, "Saved & sound")
    file = tmp_path / "message.jsonl"
    file.write_text(row["copies"]["saved"], encoding="utf-8")
    phone = smsphone.Phone(smsreply.App(reply, auth_token=TOKEN), auth_token=TOKEN)
    [replayed] = phone.replay(file)
    assert replayed.reply == "You said Saved & sound"


# Live.


def test_each_page_that_is_open_gets_each_exchange(connected):
    streams = [iter_events(connected), iter_events(connected)]
    for stream in streams:
        assert json.loads(next(stream)[0])["rows"] == []
    over_http(connected.port, "GET", "/hello", {})
    for stream in streams:
        event = json.loads(next(stream)[0])
        assert not event["reset"] and [row["title"] for row in event["rows"]] == ["GET /hello"]
        stream.close()


def test_a_page_that_was_away_gets_what_it_missed(connected):
    stream = iter_events(connected)
    _, seen = next(stream)
    stream.close()
    number = sent(connected)["number"]
    event = json.loads(next(iter_events(connected, seen))[0])
    assert not event["reset"] and [row["number"] for row in event["rows"]] == [number]
    told(connected, "/clear")
    event = json.loads(next(iter_events(connected, seen))[0])
    assert event["reset"] and event["rows"] == []


@pytest.mark.parametrize("since", ["x", "1.2.3", "abc.-1", "." * 2000, "é"])
def test_a_page_that_says_nonsense_begins_anew(page, since):
    assert json.loads(next(iter_events(page, since))[0])["reset"]


def test_the_stream_comes_as_it_happens_by_http():
    with listening(page_module.serve("http://localhost:1/sms", None, 0)) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/events", headers={"Host": f"localhost:{port}"})
        answer = client.getresponse()
        assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        while not answer.readline().startswith(b"data: "):
            pass
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Host": f"localhost:{port}", "Content-Type": JSON}
        other.request("POST", "/text", json.dumps({"body": "live"}), headers)
        assert other.getresponse().status == 200
        while b"live" not in answer.readline():
            pass
        client.close()
        other.close()


def test_only_so_many_pages_are_open_at_once(page):
    streams = [iter_events(page) for _ in range(page.STREAMS)]
    for stream in streams:
        next(stream)
    assert stream_status(page) == "503 Service Unavailable"
    for stream in streams:
        stream.close()
    next(iter_events(page))


def test_the_oldest_are_dropped_and_it_says_so(page, monkeypatch):
    assert Ledger.LIMIT == 1000
    monkeypatch.setattr(Ledger, "LIMIT", 3)
    for number in range(5):
        exchange(page, told(page, "/text", {"body": f"number {number}"})["number"])
    event = json.loads(next(iter_events(page))[0])
    assert [row["number"] for row in event["rows"]] == [3, 4, 5]
    assert (event["first"], event["dropped"]) == (3, 2)


def test_many_bytes_are_dropped_before_many_exchanges(page, monkeypatch):
    monkeypatch.setattr(Ledger, "BYTES", 2000)
    for _ in range(5):
        exchange(page, told(page, "/text", {"body": "x" * 900})["number"])
    assert 1 <= len(page.ledger.rows) <= 3


def test_smsreply_serve_shows_what_it_gets_beside_it(bot, tmp_path):
    bot("def reply(message):\n    return 1 / 0 if message.body == 'fail' else 'yes'\n")
    port, beside = free_port(), free_port()
    command = [PYTHON, ROOT / "smsreply.py", "serve", "bot:reply"]
    command += ["--port", port, "--phone-port", beside]
    env = {"TWILIO_AUTH_TOKEN": TOKEN}
    with running(*command, port=port, env=env, cwd=tmp_path) as process:
        until(lambda: "Phone at" in process.stdout.readline(), "the phone")
        texter = Texter(port, public=f"http://127.0.0.1:{port}")
        assert texter.text("Hi").reply == "yes"
        # The file is loaded anew, and the verdict is that of the App that is made of it.
        bot("def reply(message):\n    return 1 / 0 if message.body == 'fail' else 'no'\n")
        assert texter.text("fail").status == 500
        client = http.client.HTTPConnection("127.0.0.1", beside, timeout=20)
        headers = {"Host": f"localhost:{beside}", "Content-Type": JSON}
        client.request("POST", "/exchange", json.dumps({"number": 2}), headers)
        row = json.loads(client.getresponse().read())
        client.close()
    assert row["hops"][0]["checked"][0] == "good"
    assert row["hops"][0]["failed"] == "ZeroDivisionError: division by zero (bot.py, line 2)"


# In a real browser.

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium(profile, width=1400, height=844):
    """Return Chromium, by selenium; skip the test if either is not there."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("Chromium, or its chromedriver, is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    resize(chrome, width, height)
    return chrome


def resize(browser, width, height=844):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.width = width


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chrome = chromium(tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.quit()


widths = pytest.mark.parametrize("user", [1400, 360], indirect=True, ids=["desktop", "telephone"])
ENTER, CONTROL, TAB = "\ue007", "\ue009", "\ue004"


class User:
    """Somebody who sees the page in a browser, and uses it by the keyboard alone."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url
        self.complaints()  # what came before
        browser.get(url)  # a new port has a storage of its own
        self.until("#signing:not(:empty)")

    def complaints(self):
        """Return what the browser's console has, which Firefox does not tell."""
        log = self.browser.get_log("browser") if self.browser.name == "chrome" else []
        return [entry for entry in log if entry["level"] != "DEBUG"]

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def until(self, selector, text=""):
        """Wait for an element, with *text* in it, and return it."""
        from selenium.webdriver.support.ui import WebDriverWait

        def found(_):
            shown = [one for one in self.all(selector) if text in one.get_property("textContent")]
            return shown[0] if shown else None

        return WebDriverWait(self.browser, 15, 0.03).until(found, f"{selector} with {text!r}")

    def view(self, name):
        """Turn to the phone, or to the exchanges, where there is room for one of them."""
        for one in self.all(f"#views [value={name}]"):
            if one.is_displayed():
                one.send_keys(ENTER)

    def text(self, text, number):
        """Type *text* and Enter, and return exchange *number*, open, once it is answered."""
        self.view("phone")
        self.until("#body").send_keys(text, ENTER)
        self.until(f"#exchange-{number} > summary .status:not(.waits)")
        return self.open(number)

    def open(self, number):
        self.view("exchanges")
        if not self.all(f"#exchange-{number}[open]"):
            self.until(f"#exchange-{number} > summary").send_keys(ENTER)
        self.until(f"#exchange-{number} .step")
        return self.until(f"#exchange-{number}")

    def step(self, number, step, hop=0):
        """Open a step of an exchange, and return it."""
        selector = f"#exchange-{number} .hop:nth-child({hop + 1}) .step:nth-of-type({step})"
        found = self.until(selector)
        if not found.get_property("open"):
            self.until(f"{selector} > summary").send_keys(ENTER)
        return self.until(f"{selector}[open]")

    def line(self, number, step, hop=0):
        return self.until(
            f"#exchange-{number} .hop:nth-child({hop + 1}) .step:nth-of-type({step}) .line"
        ).get_property("textContent")

    def press(self, name, within="body"):
        buttons = [
            one
            for one in self.all(f"{within} button")
            if name in one.accessible_name and one.is_displayed()
        ]
        buttons[0].send_keys(ENTER)

    def bubbles(self):
        self.view("phone")
        return [one.text for one in self.all("#conversation .bubble")]

    def row(self, number):
        return self.until(f"#exchange-{number} > summary").get_property("textContent")


@pytest.fixture
def user(browser, connected, request):
    resize(browser, getattr(request, "param", 1400))
    with listening(smsreply.development_server(connected, "127.0.0.1", 0)) as port:
        user = User(browser, f"http://localhost:{port}/")
        user.page = connected
        yield user
        overflow = "return document.documentElement.scrollWidth - innerWidth"
        assert user.complaints() == []
        assert browser.execute_script(overflow) <= 0
        browser.get("about:blank")


@widths
def test_a_message_is_typed_and_its_result_comes_first(user):
    row = user.text("Hello <b>you</b>", 1)
    assert user.bubbles() == ["Hello <b>you</b>", "You said Hello <b>you</b>"]
    user.view("exchanges")
    assert re.search(
        r"200.*Hello <b>you</b>.*You said Hello <b>you</b>.*[0-9] ms", user.row(1), re.S
    )
    top = row.find_element("css selector", "summary").rect["y"]
    assert top < 250  # in the first screen, also of a telephone
    assert user.line(1, 1).startswith("POST http://localhost:")
    assert "Body Hello <b>you</b> · From +15005550001" in user.line(1, 1)
    assert user.line(1, 2) == "genuine: your program checked it"
    assert user.line(1, 3).startswith("200 OK · text/xml; charset=utf-8 · ")
    assert user.line(1, 4) == "You said Hello <b>you</b>"
    assert user.line(1, 5) == "nothing"


def test_each_step_says_what_one_sees_and_where_the_lesson_has_it(user):
    user.text("hi", 1)
    for number, stage in ((1, "stages 1 and 2"), (2, "stages 4"), (3, "stage 3"), (4, "stages 6")):
        assert f"Lesson, {stage}" in user.step(1, number).text
    fields = user.step(1, 1).find_elements("css selector", ".content > table th")
    assert [one.text for one in fields[:2]] == ["Body", "From"]
    assert not [one for one in fields if "City" in one.text]
    signed = user.until("#exchange-1 [aria-label='The string that was signed']").text.split("\n")
    assert signed[0].startswith("http://localhost:") and "Bodyhi" in signed
    signature = user.until("#exchange-1 [aria-label='The signature']").text
    assert base64.b64encode(base64.b64decode(signature)).decode() == signature
    twiml = user.until("#exchange-1 [aria-label='The TwiML, indented']").text
    assert twiml == "<Response>\n  <Message>You said hi</Message>\n</Response>"


@widths
def test_the_phone_and_the_exchanges_stand_side_by_side_or_take_turns(user):
    user.text("hi", 1)
    for name in ("phone", "panel"):
        user.view({"phone": "phone", "panel": "exchanges"}[name])
        seen = [one.is_displayed() for one in user.all("#phone, #panel")]
        assert seen == [user.browser.width > 500 or name == one for one in ("phone", "panel")]


def test_a_request_of_another_program_is_a_row_live_in_each_page(user):
    first = user.browser.current_window_handle
    user.browser.switch_to.new_window("window")
    try:
        user.browser.get(user.url)
        user.until("#signing:not(:empty)")
        over_http(user.page.port, "POST", "/sms", {"User-Agent": "curl/8"}, b"From=%2B7&Body=There")
        assert "from curl/8" in user.until("#exchange-1 > summary", "X-Twilio-Signature").text
    finally:
        user.browser.close()
        user.browser.switch_to.window(first)
    assert "X-Twilio-Signature is missing" in user.until("#exchange-1 > summary", "There").text
    user.open(1)
    assert user.line(1, 2).startswith("refused: the header X-Twilio-Signature is missing")
    assert user.until("#exchange-1 .step:nth-of-type(1) b").text == "A program asked"


def test_of_a_failed_handler_the_traceback_is_shown(user):
    user.text("fail", 1)
    assert "Your program failed: LookupError: there is no such thing" in user.row(1)
    assert user.line(1, 5).startswith("LookupError: there is no such thing (test_page.py, line ")
    assert "raise LookupError" in user.step(1, 5).text


@widths
def test_an_error_is_shown_with_its_cure(user):
    user.text("error", 1)
    assert "What helps: use Twilio's verbs and attributes" in user.row(1)
    assert "nothing. Error 12200: the answer is XML, but not TwiML" in user.line(1, 4)
    user.view("phone")
    assert user.until("#conversation .note").text == "Error 12200: the answer is XML, but not TwiML"
    user.press("Error 12200", "#conversation")
    user.until("#exchange-1 > summary:focus")


@widths
def test_a_redirect_is_followed_step_by_step(user):
    user.text("redirect", 1)
    assert user.line(1, 4).startswith("redirect: POST http://localhost:")
    assert user.line(1, 4, hop=1) == "One moment.  ·  And the rest."
    assert user.bubbles() == ["redirect", "One moment.", "And the rest."]
    assert len(user.all("#exchange-1 + .more li")) == 2


def test_a_picture_of_this_machine_is_shown_and_another_on_a_click(user):
    user.text("picture", 1)
    user.view("phone")
    image = user.until("#conversation img")
    user.browser.execute_async_script("arguments[0].decode().then(arguments[1])", image)
    assert image.get_property("naturalWidth") == 8
    user.text("outside", 3)  # exchange 2 is the browser's own, for the picture
    assert "GET /picture.png" in user.row(2)
    user.view("phone")
    link = user.until("#talk-3 a")
    assert link.get_attribute("href") == link.text == "https://pictures.example/cat.jpg"
    assert link.get_attribute("rel") == "noreferrer noopener"
    assert len(user.all("#conversation img")) == 1
    user.press("Show it", "#talk-3")
    user.until("#talk-3", "This picture cannot be loaded")  # there is no such host
    user.complaints()


def test_a_picture_is_sent_by_its_url_and_what_is_none_is_refused(user):
    user.press("Attach a picture")
    user.until("#media").send_keys("a cat")
    user.until("#body").send_keys("look", ENTER)
    user.until("#trouble", "'a' is no URL like https://abc.example/cat.png")
    user.complaints()  # which has the 400
    assert user.until("#body").get_property("value") == "look"
    user.until("#media").clear()
    user.until("#media").send_keys("https://pictures.example/mine.png")
    user.text("", 1)
    assert "MediaUrl0" in user.step(1, 1).text
    assert user.bubbles()[0].startswith("look\nPicture: https://pictures.example/mine.png")
    assert not user.until("#media").is_displayed()


@widths
def test_what_if_shows_what_a_good_webhook_does(user):
    user.text("hi", 1)
    user.press("no signature", "#exchange-1")
    assert "It refuses with 403, as a good webhook does." in user.until(
        "#exchange-2[open] > summary", "refuses"
    ).get_property("textContent")
    assert "like exchange 1" in user.row(2)
    user.view("phone")
    assert "It refuses with 403" in user.until("#talk-2", "refuses").text


def test_a_message_is_delivered_again_and_changed(user):
    user.text("hi", 1)
    user.press("Deliver again", "#exchange-1")
    user.until("#exchange-2[open]", "You said hi")
    assert "delivered again, like exchange 1" in user.row(2)
    user.press("Change", "#exchange-2")
    body = user.until("#edit[open] [aria-label='Value of Body']")
    body.clear()
    body.send_keys("changed")
    user.press("Send", "#edit")
    user.until("#exchange-3[open]", "You said changed")
    assert user.bubbles()[-2:] == ["changed", "You said changed"]


def test_what_is_saved_is_a_file_and_what_is_copied_is_said(user, tmp_path):
    path = {"behavior": "allow", "downloadPath": str(tmp_path)}
    user.browser.execute_cdp_cmd("Browser.setDownloadBehavior", path)
    user.text("hi", 1)
    user.press("Save for replay", "#exchange-1")
    file = until(lambda: list(tmp_path.glob("*.jsonl")), "the file")[0]
    assert until(file.read_text) and json.loads(file.read_text())["method"] == "POST"
    user.press("Copy as curl", "#exchange-1")
    assert "curl" in user.until("#toast", "curl").text


def test_each_number_has_its_own_conversation(user):
    user.text("one", 1)
    user.view("phone")
    number = user.until("#number")
    number.send_keys(CONTROL + "a")
    number.send_keys("+15005550009", TAB)
    user.until("#people [aria-pressed=true]", "+15005550009")
    user.text("two", 2)
    assert user.bubbles() == ["two", "You said two"]
    user.press("+15005550001", "#people")
    assert user.bubbles() == ["one", "You said one"]
    assert number.get_property("value") == "+15005550001"


def test_what_is_slow_stays_where_it_was_sent(user):
    for text in ("slow 0.7", "quick"):
        user.view("phone")
        user.until("#body").send_keys(text, ENTER)
        user.until("#conversation", text)
    user.until("#talk-2", "You said quick")
    assert user.bubbles()[1] == ""  # it waits
    user.until("#talk-1", "At last.")
    assert user.bubbles() == ["slow 0.7", "At last.", "quick", "You said quick"]


def test_a_screen_reader_hears_a_message_once(user):
    user.browser.execute_script(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('#news')"
        ".textContent)).observe(document.querySelector('#news'), { childList: true });"
    )
    user.text("redirect", 1)
    user.text("hi", 2)
    heard = until(lambda: [x for x in [user.browser.execute_script("return said")] if len(x) > 1])[
        0
    ]
    assert [one.strip() for one in heard] == [
        "+15005550001 redirect: One moment.  ·  And the rest.",
        "+15005550001 hi: You said hi",
    ]
    assert not user.all("#conversation[aria-live], #conversation[role=log]")


def test_a_draft_and_the_conversation_outlive_a_reload(user):
    user.text("hi", 1)
    user.view("phone")
    user.until("#body").send_keys("not yet")
    user.browser.refresh()
    user.until("#talk-1")
    assert user.until("#body").get_property("value") == "not yet"
    assert user.bubbles() == ["hi", "You said hi"]


def test_to_clear_can_be_undone(user):
    user.text("hi", 1)
    user.press("Clear")
    user.until("#welcome:not([hidden])")
    assert not user.all(".row, .talk")
    assert user.browser.switch_to.active_element.text == "Undo"
    user.press("Undo")
    user.until("#exchange-1")
    assert user.bubbles() == ["hi", "You said hi"]


def test_the_list_is_filtered(user):
    for number, text in enumerate(("apples", "error", "pears"), 1):
        user.text(text, number)

    def seen():
        return [one.get_attribute("id") for one in user.all(".row") if one.is_displayed()]

    user.until("#filter").send_keys("APPLES")
    assert seen() == ["exchange-1"]
    user.until("#filter").send_keys("x")
    assert seen() == [] and user.until("#none").is_displayed()
    user.until("#filter").clear()
    user.until("#filter").send_keys(" \b")
    user.until("#only-errors").send_keys(" ")
    assert seen() == ["exchange-2"]


@widths
def test_fifty_messages_and_a_long_word_break_nothing(user):
    word = "W" * 2000
    for text in [word, "\u0645\u0631\u062d\u0628\u0627", *["more"] * 48]:
        told(user.page, "/text", {"body": text})
    user.until("#exchange-50 > summary", "You said more")
    until(lambda: not user.all(".typing"))
    user.view("phone")
    conversation = user.until("#conversation")
    assert len(user.all(".talk")) == 50
    assert conversation.get_property("scrollWidth") <= conversation.get_property("clientWidth")
    user.press("exchange 1", "#talk-1")
    row = user.until("#exchange-1[open]")
    top = "return arguments[0].getBoundingClientRect().top"
    until(lambda: 0 <= user.browser.execute_script(top, row) < 844, "the row in sight")
    user.view("phone")
    direction = "return getComputedStyle(arguments[0]).direction"
    arabic = user.until("#talk-2 .mine .bubble")
    assert user.browser.execute_script(direction, arabic) == "rtl"
    user.open(1)
    panel = user.until("#panel")
    assert panel.get_property("scrollWidth") <= panel.get_property("clientWidth")


@pytest.mark.parametrize("user", [320, 720, 960], indirect=True)
def test_nothing_is_cut_off_at_any_width(user):
    user.text("hi", 1)
    for number in range(1, 6):
        user.step(1, number)
    for selector in ("#panel", "#phone", "html"):
        one = user.until(selector)
        assert one.get_property("scrollWidth") <= one.get_property("clientWidth"), selector


def test_a_phone_without_a_token_says_so(user):
    user.press("Settings")
    user.until("#settings [name=unsigned]").send_keys(" ")
    user.press("Save", "#settings")
    user.until("#signing", "no token: unsigned")
    user.text("hi", 1)
    assert "Error 11217" in user.row(1)
    assert user.until("#exchange-1 .step:nth-of-type(2) b").text == "Nobody signed"


def test_a_server_that_ends_is_noticed(browser, connected):
    with listening(smsreply.development_server(connected, "127.0.0.1", 0)) as port:
        user = User(browser, f"http://localhost:{port}/")
        assert not user.until("#offline").is_displayed()
        browser.execute_script("events.onerror()")
        assert "The server does not answer" in user.until("#offline:not([hidden])").text


@widths
def test_whatever_can_be_used_has_a_name_and_is_large_enough(user):
    kinds = ":is(button, input, textarea, select, summary, a, [tabindex])"

    def check(within):
        shown, small = user.browser.execute_script(
            f"const all = [...document.querySelectorAll('{within} {kinds}')];"
            "const shown = all.filter((one) => one.checkVisibility());"
            "return [shown, shown.map((one) => one.closest('.check') ?? one)"
            ".filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 24)]"
        )
        assert [one.accessible_name for one in small] == []
        told = "return arguments[0].map((one) => one.ariaLabel || one.textContent.trim())"
        pairs = zip(shown, user.browser.execute_script(told, shown))
        names = [name or one.accessible_name for one, name in pairs]
        assert all(name.strip() for name in names)
        return set(names)

    user.text("outside", 1)
    for number in range(1, 6):
        user.step(1, number)
    exchanges = check("#panel")
    assert {"Filter the exchanges", "Clear", "Deliver again", "The signature"} <= exchanges
    user.press("Change", "#exchange-1")
    user.until("#edit[open]")
    assert "Value of Body" in check("#edit")
    user.press("Cancel", "#edit")
    user.view("phone")
    assert {"Text message", "Send", "Conversation", "Settings"} <= check("#phone")
    user.press("Settings")
    assert "Auth token, or a SharedKey’s secret" in check("#settings")


@pytest.mark.skipif(not SLOW, reason="takes long: set SMSREPLY_SLOW=1")
def test_firefox_does_the_same(connected):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    driver = shutil.which("geckodriver")
    if not (firefox and driver):
        pytest.skip("Firefox, or its geckodriver, is not installed")
    options = webdriver.FirefoxOptions()
    options.binary_location = firefox
    options.add_argument("-headless")
    browser = webdriver.Firefox(options=options, service=webdriver.FirefoxService(driver))
    browser.width = 1400
    try:
        browser.set_window_size(1400, 900)
        with listening(smsreply.development_server(connected, "127.0.0.1", 0)) as port:
            user = User(browser, f"http://localhost:{port}/")
            user.page = connected
            for test in (
                test_a_message_is_typed_and_its_result_comes_first,
                test_to_clear_can_be_undone,
                test_a_draft_and_the_conversation_outlive_a_reload,
                test_what_if_shows_what_a_good_webhook_does,
                test_a_message_is_delivered_again_and_changed,
                test_each_number_has_its_own_conversation,
                test_a_redirect_is_followed_step_by_step,
                test_fifty_messages_and_a_long_word_break_nothing,
            ):
                connected.ledger.__init__()
                browser.execute_script("sessionStorage.clear()")
                browser.get(user.url)
                user.until("#welcome:not([hidden])")
                test(user)
    finally:
        browser.quit()
