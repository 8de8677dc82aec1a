"""5. Answer: one WSGI callable, its table of answers, what it verifies, what it logs."""

from __future__ import annotations

import base64
import hmac
import inspect
import logging
import re
import sys

import pytest
from conftest import MESSAGE, SID, TOKEN, call, make_environ
from texter import Texter

import smsreply

URL = "https://abc.example/sms"
FORM = "application/x-www-form-urlencoded"
FAILED = b"the message could not be answered\n"
RESPONSE = '<?xml version="1.0" encoding="UTF-8"?><Response><Message>%s</Message></Response>'


def signature(url=URL, fields=(), token=TOKEN, digest="sha1"):
    """Return what Twilio would send: TWILIO.md, section 2, by the letter."""
    pairs = sorted(set(fields.items() if isinstance(fields, dict) else fields))
    string = url + "".join(name + value for name, value in pairs)
    return base64.b64encode(hmac.digest(token.encode(), string.encode(), digest)).decode()


def signed(fields=MESSAGE, *, url=URL, method="POST", token=TOKEN, digest="sha1", **more):
    """Return the environ of a request that Twilio signed for *url*."""
    if method == "GET":
        from urllib.parse import urlencode

        more.setdefault("QUERY_STRING", urlencode(fields))
        url, form, fields = f"{url}?{more['QUERY_STRING']}", b"", ()
    else:
        form = fields
    more.setdefault("HTTP_X_TWILIO_SIGNATURE", signature(url, fields, token, digest))
    return make_environ(form, method, **more)


def echo(message):
    return "ok"


def status_of(app, environ, *, validate=True):
    return int(call(app, environ, validate=validate)[0][:3])


def app(reply=echo, **options):
    options.setdefault("auth_token", TOKEN)
    return smsreply.App(reply, **options)


# --------------------------------------------------------------------- the table of answers


def test_the_table_of_answers_is_checked_from_top_to_bottom():
    """A request with every fault of the table; then one is mended after the other."""

    def reply(message):
        return 42 if message.body == "raise" else "ok"

    def mended(environ, form, *, sign=True):
        environ = {**environ, **make_environ(form)}
        environ["HTTP_X_TWILIO_SIGNATURE"] = signature(URL, form if sign else {})
        return environ

    everything = make_environ(
        b"%zz=" + b"&" * 2000,
        "PUT",
        PATH_INFO="/other",
        CONTENT_TYPE="application/json",
        QUERY_STRING="x" * (64 * 1024 + 1),
        CONTENT_LENGTH="abc",
    )
    steps = [
        ({}, "404 Not Found", "no messages are answered at this path"),
        ({"PATH_INFO": "/sms"}, "405 Method Not Allowed", "only GET and POST are answered"),
        ({"REQUEST_METHOD": "POST"}, "415 Unsupported Media Type", "the type of a message is " + FORM),
        ({"CONTENT_TYPE": FORM}, "413 Content Too Large", "the query is longer than 65536 bytes"),
        ({"QUERY_STRING": ""}, "400 Bad Request", "the Content-Length is not a number"),
        ({"CONTENT_LENGTH": "2004"}, "400 Bad Request", "the form has over 1000 fields"),
        (mended({}, {"Body": "raise"}, sign=False), "403 Forbidden", "this was not signed by Twilio"),
        (mended({}, {"From": "a", "Body": "raise"}), "500 Internal Server Error", FAILED.decode()[:-1]),
    ]  # fmt: skip
    environ = everything
    for change, status, line in steps:
        environ = {**environ, **change}
        got, headers, body = call(app({"/sms": reply}), environ, validate=False)
        assert (got, body.decode()) == (status, line + "\n")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
    environ = {**environ, **mended({}, {"From": "a", "Body": "b"})}
    status, headers, body = call(app({"/sms": reply}), environ)
    assert (status, body.decode()) == ("200 OK", RESPONSE % "ok")
    assert headers["Content-Type"] == "text/xml; charset=utf-8"


def raises(error):
    def reply(message):
        raise error

    return reply


def unescaped(fields):
    return "&".join(f"{name}={value}" for name, value in fields.items()).encode()


@pytest.mark.parametrize(
    ("status", "environ", "make"),
    [
        pytest.param("404 Not Found", signed(PATH_INFO="/other"), app, id="path"),
        pytest.param("405 Method Not Allowed", make_environ(method="PUT"), app, id="method"),
        pytest.param("405 Method Not Allowed", make_environ(method="HEAD"), app, id="HEAD"),
        pytest.param(
            "415 Unsupported Media Type", signed(CONTENT_TYPE="text/json"), app, id="type"
        ),
        pytest.param("413 Content Too Large", make_environ(b"x" * 65537), app, id="body"),
        pytest.param(
            "413 Content Too Large",
            make_environ(method="GET", QUERY_STRING="x" * 65537),
            app,
            id="query",
        ),
        pytest.param(
            "400 Bad Request", make_environ(b"x", CONTENT_LENGTH="2"), app, id="short body"
        ),
        pytest.param(
            "411 Length Required",
            make_environ(b"0\r\n\r\n", HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH=None),
            app,
            id="chunked",
        ),
        pytest.param("400 Bad Request", make_environ(b"From=%ff"), app, id="not UTF-8"),
        pytest.param("400 Bad Request", make_environ(b"From=%f"), app, id="escape"),
        pytest.param("400 Bad Request", make_environ(b"a=b&" * 1000), app, id="fields"),
        pytest.param("403 Forbidden", make_environ(MESSAGE), app, id="no signature"),
        pytest.param("403 Forbidden", signed(token="other"), app, id="wrong signature"),
        pytest.param("400 Bad Request", signed({}), app, id="no field"),
        pytest.param(
            "500 Internal Server Error", signed(), lambda f: app(f, auth_token=""), id="no token"
        ),
        pytest.param(
            "500 Internal Server Error",
            signed(),
            lambda f: app({"/sms": raises(ValueError("no"))}),
            id="handler raised",
        ),
        pytest.param(
            "500 Internal Server Error",
            signed(),
            lambda f: app(lambda message: 42),
            id="no reply",
        ),
        pytest.param(
            "500 Internal Server Error",
            signed(),
            lambda f: app(lambda message: "x" * 70_000),
            id="too long",
        ),
        pytest.param(
            "503 Service Unavailable",
            signed(),
            lambda f: app(f, cache=smsreply.MemoryCache()),
            id="too many",
        ),
    ],
)
def test_what_is_not_answered_gets_one_short_line_that_twilio_texts_to_nobody(
    monkeypatch, status, environ, make
):
    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(0))
    environ["wsgi.input"].seek(0)
    got, headers, body = call(make({"/sms": echo}), environ)
    assert got == status
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Length"] == str(len(body))
    if environ["REQUEST_METHOD"] == "HEAD":
        assert body == b""
    else:
        assert re.fullmatch(rb"[\x20-\x7e]{10,80}\n", body)
    assert headers.get("Allow") == ("GET, POST" if status[:3] == "405" else None)


def test_what_is_answered_to_a_bad_request_is_what_the_log_says(caplog):
    for environ in (
        make_environ(method="PUT"),
        make_environ(b"x" * 65537),
        make_environ(b"From=%f"),
        signed({}),
    ):
        caplog.clear()
        status, _, body = call(app({"/sms": echo}), environ)
        (message,) = caplog.messages
        assert message.startswith(
            f"{status} for {environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        )
        assert message.endswith(f": {body.decode()[:-1]}")


@pytest.mark.parametrize("path", ["/sms", "/other"])
def test_to_head_there_is_no_body(path):
    status, headers, body = call(app({"/sms": echo}), make_environ(method="HEAD", PATH_INFO=path))
    assert (status[:3], body) == ("405" if path == "/sms" else "404", b"")
    assert headers["Content-Length"] == "0"


# ---------------------------------------------------------------------- paths and mounts


@pytest.mark.parametrize(
    ("script", "path", "answered"),
    [
        ("", "/sms", "sms"), ("", "/status", "status"), ("", "", "root"), ("", "/", "root"),
        ("/mount", "/sms", "sms"), ("/mount", "", "root"), ("", "/caf\xc3\xa9", "café"),
        ("", "/sms/", None), ("", "/SMS", None), ("", "//sms", None), ("", "/sms/x", None),
        ("", "/mount/sms", None), ("/sms", "/x", None), ("", "/caf\xe9", None), ("", "*", None),
    ],
)  # fmt: skip
def test_a_mapping_is_from_paths_below_the_mount_point(script, path, answered):
    names = {"/sms": "sms", "/status": "status", "": "root", "/café": "café"}
    replies = {at: lambda message, name=name: name for at, name in names.items()}
    environ = make_environ(MESSAGE, SCRIPT_NAME=script, PATH_INFO=path)
    status, _, body = call(app(replies, verify=False), environ, validate=path != "*")
    if answered:
        assert (status, body.decode()) == ("200 OK", RESPONSE % answered)
    else:
        assert (status, body) == ("404 Not Found", b"no messages are answered at this path\n")


@pytest.mark.parametrize("path", ["", "/", "/sms", "/anything/at all", "/caf\xc3\xa9"])
def test_a_function_answers_wherever_the_host_mounts_it(path):
    assert status_of(app(verify=False), make_environ(MESSAGE, PATH_INFO=path)) == 200


@pytest.mark.parametrize(
    "reply",
    [None, "bot:reply", 42, {"/sms": "reply"}, {"/sms": None}, {"/sms": echo, "/b": None}, [echo]],
)
def test_what_is_no_function_is_refused_at_once(reply):
    with pytest.raises(TypeError, match="a function, or a mapping from paths to functions"):
        app(reply)


@pytest.mark.parametrize("paths", [{}, {"sms": echo}, {"/sms": echo, "status": echo}, {5: echo}])
def test_a_path_that_no_request_can_have_is_refused_at_once(paths):
    with pytest.raises(ValueError, match="begins with a slash"):
        app(paths)


# ------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("argument", "variable"),
    [(None, None), (None, ""), (None, " \n"), ("", None), ("", TOKEN), ([], TOKEN), (["", " "], TOKEN)],
)  # fmt: skip
def test_without_a_token_nothing_is_answered(monkeypatch, caplog, argument, variable):
    if variable is not None:
        monkeypatch.setenv("TWILIO_AUTH_TOKEN", variable)
    without = app(auth_token=argument)
    for environ in (signed(), signed(token=""), signed(token=" "), make_environ(MESSAGE)):
        status, _, body = call(without, environ)
        assert status == "500 Internal Server Error"
        assert body == b"this server is not set up yet\n"
    (record,) = [r for r in caplog.records if r.levelno > logging.DEBUG]
    assert "set TWILIO_AUTH_TOKEN" in record.getMessage()


def test_without_a_token_the_log_has_the_messagesid(caplog):
    call(app(auth_token=""), signed())
    assert SID in caplog.records[0].getMessage()


def test_the_token_is_looked_up_at_the_first_request(monkeypatch):
    late = app(auth_token=None)
    assert status_of(late, signed()) == 500
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    assert status_of(late, signed()) == 200
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "other")
    assert status_of(late, signed()) == 200
    assert status_of(late, signed(token="other")) == 403


def test_a_token_of_the_environment_may_end_in_a_newline(monkeypatch):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN + "\n")  # as a file does that holds a secret
    assert status_of(app(auth_token=None), signed()) == 200


def test_a_handler_may_be_an_object_that_is_empty():
    class Log(list):
        def __call__(self, message):
            self.append(message)
            return "yes"

    handler = Log()
    assert status_of(smsreply.App(handler, auth_token=TOKEN), signed()) == 200
    assert len(handler) == 1


def test_the_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "other")
    assert status_of(app(), signed()) == 200
    assert status_of(app(), signed(token="other")) == 403


@pytest.mark.parametrize("tokens", [["old", "new"], ("old", "", "new"), {"old", "new"}])
def test_of_several_tokens_each_is_accepted(tokens):
    several = app(auth_token=tokens)
    got = [status_of(several, signed(token=token)) for token in ("old", "new", "other", "oldnew")]
    assert got == [200, 200, 403, 403]


def test_unsigned_requests_are_answered_by_choice_and_never_by_accident():
    assert status_of(app(verify=False, auth_token=None), make_environ(MESSAGE)) == 200
    assert status_of(app(verify=False), signed(token="other")) == 200


# ---------------------------------------------------------------------------- signature


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_twilio_signed_is_answered(method):
    for fields in (MESSAGE, {"From": "a"}, {"From": "a", "Körper": "café 😀 +%&=\r\n"}):
        assert status_of(app(), signed(fields, method=method)) == 200


def test_who_knows_the_token_is_answered_and_another_is_not():
    for method in ("GET", "POST"):
        assert Texter(app(), method=method).text().texts == ["ok"]
        unknown = Texter(app(), token="other", method=method).text()
        assert (unknown.status, unknown.texts) == (403, [])
        assert unknown.answers[0] == b"this was not signed by Twilio\n"


GENUINE = signature(URL, MESSAGE)


@pytest.mark.parametrize(
    "change",
    [
        {"Body": MESSAGE["Body"] + " "}, {"Body": "hello & <b>café</b> 😀 it’s 100%+1"}, {"From": "+14017122662"},
        {"New": "1"}, {"FromZip": "1"}, {"FromZip": None}, {"MessageSid": SID[:-1] + "e"},
    ],
)  # fmt: skip
def test_a_field_that_was_changed_is_403(change):
    fields = {k: v for k, v in {**MESSAGE, **change}.items() if v is not None}
    assert status_of(app(), make_environ(MESSAGE, HTTP_X_TWILIO_SIGNATURE=GENUINE)) == 200
    assert status_of(app(), make_environ(fields, HTTP_X_TWILIO_SIGNATURE=GENUINE)) == 403


@pytest.mark.parametrize(
    "change",
    [
        {"HTTP_HOST": "abc.example.evil"}, {"HTTP_HOST": "bc.example"}, {"wsgi.url_scheme": "http"},
        {"QUERY_STRING": "a=b"}, {"PATH_INFO": "/sms/"}, {"PATH_INFO": "/SMS"}, {"SCRIPT_NAME": "/x"},
        {"REQUEST_URI": "/sms?"}, {"REQUEST_METHOD": "GET", "QUERY_STRING": "From=a"},
    ],
)  # fmt: skip
def test_a_url_that_was_changed_is_403(change):
    environ = make_environ(MESSAGE, HTTP_X_TWILIO_SIGNATURE=GENUINE, **change)
    assert status_of(app(), environ) == 403


@pytest.mark.parametrize(
    "given",
    [
        None, "", " ", GENUINE + " ", " " + GENUINE, GENUINE[:-1], GENUINE + "=", GENUINE.lower(),
        f"{GENUINE}, {GENUINE}", f"{GENUINE},{GENUINE}", "x" * 28, "\xff" * 28, "\x00", "x" * 100_000, "=" * 28,
        signature(URL, MESSAGE, digest="sha256"), signature(URL, {}), signature(URL, MESSAGE, token="1234"),
    ],
)  # fmt: skip
def test_a_signature_that_was_changed_is_403(given):
    environ = make_environ(MESSAGE, HTTP_X_TWILIO_SIGNATURE=given)
    assert status_of(app(), environ) == 403


def test_a_value_that_comes_twice_is_signed_once():
    pairs = [("From", "a"), ("Body", "2"), ("Body", "1"), ("Body", "2")]
    form = b"From=a&Body=2&Body=1&Body=2"
    environ = make_environ(form, HTTP_X_TWILIO_SIGNATURE=signature(URL, pairs))
    assert status_of(app(), environ) == 200


@pytest.mark.parametrize(
    ("settings", "digest", "status"),
    [
        ("key=SK1,algorithm=HMAC_SHA256", "sha256", 200),
        ("algorithm=HMAC_SHA256", "sha256", 200),
        (" key=SK1 , algorithm = HMAC_SHA256 ", "sha256", 200),
        ("key=SK1,algorithm=HMAC_SHA1", "sha1", 200),
        ("key=SK1", "sha1", 200),
        ("key=SK1,algorithm=", "sha1", 200),
        ("", "sha1", 200),
        ("key=SK1,algorithm=HMAC_SHA256", "sha1", 403),
        (None, "sha256", 403),
        ("key=SK1", "sha256", 403),
        ("key=SK1,algorithm=HMAC_MD5", "md5", 403),
        ("key=SK1,algorithm=none", "sha1", 403),
        ("key=SK1,algorithm=\xff\n", "sha1", 403),
    ],
)
def test_the_hash_is_the_one_that_the_settings_name(settings, digest, status):
    both = app(auth_token=["token", "the SharedKey's secret"])
    more = {"HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS": settings}
    secret = "the SharedKey's secret"
    for method in ("POST", "GET"):
        environ = signed(token=secret, digest=digest, method=method, **more)
        assert status_of(both, environ) == status


# ---------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("public", "environ", "url"),
    [
        pytest.param(None, {}, "https://abc.example/sms", id="rebuilt"),
        pytest.param(None, {"QUERY_STRING": "a=%41&b"}, "https://abc.example/sms?a=%41&b", id="query"),
        pytest.param(None, {"wsgi.url_scheme": "http"}, "http://abc.example/sms", id="http"),
        pytest.param(None, {"HTTP_HOST": "abc.example:8443"}, "https://abc.example:8443/sms", id="port"),
        pytest.param(None, {"HTTP_HOST": "abc.example:443"}, "https://abc.example:443/sms", id="default port"),
        pytest.param(None, {"HTTP_HOST": "[::1]:8767"}, "https://[::1]:8767/sms", id="IPv6"),
        pytest.param(None, {"HTTP_HOST": None, "SERVER_NAME": "s", "SERVER_PORT": "80"}, "https://s:80/sms",
                     id="no Host, other port"),
        pytest.param(None, {"HTTP_HOST": "", "SERVER_NAME": "s", "SERVER_PORT": "443"}, "https://s/sms",
                     id="no Host, default port"),
        pytest.param(None, {"HTTP_HOST": None, "SERVER_NAME": "::1", "SERVER_PORT": "443"}, "https://[::1]/sms",
                     id="no Host, IPv6"),
        pytest.param(None, {"HTTP_HOST": None, "SERVER_NAME": "[::1]", "SERVER_PORT": "1"}, "https://[::1]:1/sms",
                     id="no Host, IPv6 in brackets"),
        pytest.param(None, {"SCRIPT_NAME": "/mount"}, "https://abc.example/mount/sms", id="mounted"),
        pytest.param(None, {"SCRIPT_NAME": "/mount", "PATH_INFO": ""}, "https://abc.example/mount", id="at mount"),
        pytest.param(None, {"PATH_INFO": ""}, "https://abc.example/", id="no path"),
        pytest.param(None, {"PATH_INFO": "", "QUERY_STRING": "a"}, "https://abc.example/?a", id="query, no path"),
        pytest.param(None, {"PATH_INFO": "/caf\xc3\xa9 x%?#"}, "https://abc.example/caf%C3%A9%20x%25%3F%23",
                     id="quoted again"),
        pytest.param(None, {"PATH_INFO": "/a:b@c/~!$&'()*+,;=-._"}, "https://abc.example/a:b@c/~!$&'()*+,;=-._",
                     id="not quoted"),
        pytest.param(None, {"REQUEST_URI": "//a%7eb/?x=%41"}, "https://abc.example//a%7eb/?x=%41", id="REQUEST_URI"),
        pytest.param(None, {"RAW_URI": "/raw?"}, "https://abc.example/raw?", id="RAW_URI"),
        pytest.param(None, {"REQUEST_URI": "/a", "RAW_URI": "/b"}, "https://abc.example/a", id="both"),
        pytest.param(None, {"REQUEST_URI": "", "RAW_URI": ""}, "https://abc.example/sms", id="both blank"),
        pytest.param(None, {"REQUEST_URI": "http://evil.example:1/a?b"}, "https://abc.example/a?b", id="absolute"),
        pytest.param(None, {"REQUEST_URI": "http://evil.example"}, "https://abc.example/", id="absolute, no path"),
        pytest.param(None, {"REQUEST_URI": "/a?b#c"}, "https://abc.example/a?b", id="fragment"),
        pytest.param(None, {"REQUEST_URI": "/caf\xc3\xa9"}, "https://abc.example/café", id="raw UTF-8"),
        pytest.param("https://p.example", {}, "https://p.example/sms", id="public"),
        pytest.param("https://p.example/", {}, "https://p.example/sms", id="public, slash"),
        pytest.param("https://p.example:8443", {}, "https://p.example:8443/sms", id="public, port"),
        pytest.param("https://p.example/pre", {"SCRIPT_NAME": "/m", "QUERY_STRING": "a"},
                     "https://p.example/pre/m/sms?a", id="public, prefix"),
        pytest.param("http://p.example/pre/", {"REQUEST_URI": "http://evil.example/a"}, "http://p.example/pre/a",
                     id="public, absolute"),
        pytest.param("https://[::1]:1", {"RAW_URI": "/r"}, "https://[::1]:1/r", id="public, IPv6"),
        pytest.param(None, {"HTTP_X_FORWARDED_PROTO": "http", "HTTP_X_FORWARDED_HOST": "evil.example",
                            "HTTP_FORWARDED": "host=evil.example", "HTTP_X_ORIGINAL_URL": "/evil"},
                     "https://abc.example/sms", id="X-Forwarded"),
    ],
)  # fmt: skip
def test_the_url_is_the_one_that_twilio_requested(public, environ, url):
    got = []
    asked = make_environ(MESSAGE, **environ, HTTP_X_TWILIO_SIGNATURE=signature(url, MESSAGE))
    assert (
        status_of(app(lambda m: got.append(m.url), public_url=public), asked, validate=False) == 200
    )
    assert got == [url]
    other = make_environ(MESSAGE, **environ, HTTP_X_TWILIO_SIGNATURE=signature(url + "/", MESSAGE))
    assert status_of(app(public_url=public), other, validate=False) == 403


@pytest.mark.parametrize(
    ("host", "url", "status"),
    [
        ("abc.example", "https://abc.example:443/sms", 200),
        ("abc.example:443", "https://abc.example/sms", 200),
        ("abc.example:8443", "https://abc.example:8443/sms", 200),
        ("abc.example:8443", "https://abc.example/sms", 200),
        ("abc.example", "https://abc.example:8443/sms", 403),
        ("[::1]", "https://[::1]:443/sms", 200),
        ("[::1]:443", "https://[::1]/sms", 200),
    ],
)
def test_a_url_may_be_signed_with_its_port_or_without(host, url, status):
    assert status_of(app(), signed(url=url, HTTP_HOST=host)) == status


def test_a_public_url_loses_slashes_at_its_end_and_nothing_else():
    assert app(public_url="https://abc.example/BOX//").public_url == "https://abc.example/BOX"


@pytest.mark.parametrize(
    "public", ["abc.example", "https://", "ftp://abc.example", "https://a.example?x", "/sms", "https:///sms", "*",
     "see https://a.example", "https://a.example:x"]
)  # fmt: skip
def test_a_public_url_that_is_none_is_refused_at_once(public):
    with pytest.raises(ValueError, match="is not like https://abc.example"):
        app(public_url=public)


# ------------------------------------------------------------------------ the handler


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text either")


def endless(message):
    return endless(message)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        pytest.param(raises(ValueError("my own secret")), "ValueError: my own secret", id="error"),
        pytest.param(raises(SystemExit(3)), "SystemExit: 3", id="exit"),
        pytest.param(raises(Unprintable()), "Unprintable", id="an error without a text"),
        pytest.param(raises(smsreply.Refused("forged")), "Refused: forged", id="an error of ours"),
        pytest.param(raises(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")), "UnicodeDecodeError", id="no UTF-8"),
        pytest.param(endless, "RecursionError", id="recursion"),
        pytest.param(lambda: "no argument", "TypeError", id="takes no message"),
        pytest.param(lambda message: message["NoSuchName"], "KeyError: 'NoSuchName'", id="missing name"),
        *[
            pytest.param(lambda message, reply=reply: reply, "cannot be a reply. A handler returns None, a str", id=repr(reply)[:20])
            for reply in (42, 0, False, {}, {"a": 1}, object(), echo, {"a"}, (x for x in "ab"), 1.5, Exception("a"))
        ],
        *[
            pytest.param(lambda message, reply=reply: [reply], "cannot be a reply. A handler returns None, a str", id=f"[{reply!r}]"[:20])
            for reply in (42, b"<Response/>", ["a"], smsreply.MessagingResponse(), smsreply.RawTwiML("<Response/>"))
        ],
    ],
)  # fmt: skip
@pytest.mark.parametrize("cache", [False, True])
def test_a_handler_that_fails_is_500_and_the_log_says_why(caplog, reply, said, cache):
    caplog.set_level(logging.DEBUG)
    failing = app(reply, cache=smsreply.MemoryCache() if cache else None)
    status, headers, body = call(failing, signed())
    assert (status, body) == ("500 Internal Server Error", FAILED)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    (record,) = [r for r in caplog.records if r.levelno > logging.DEBUG]
    assert record.levelno == logging.ERROR
    text = record.getMessage()
    assert SID in text.splitlines()[0]
    assert "Traceback (most recent call last)" in text
    assert said in text


def test_the_traceback_is_as_python_prints_it_behind_a_bar(caplog):
    call(app(raises(ValueError("a\nX"))), signed())
    first, *lines = caplog.messages[0].split("\n")
    assert first == f"message {SID} is not answered: its handler failed"
    assert lines[0] == "    | Traceback (most recent call last):"
    assert re.fullmatch(r'    \|   File ".*test_app\.py", line \d+, in reply', lines[-4])
    assert lines[-3:] == ["    |     raise error", "    | ValueError: a", "    | X"]
    assert all(line.startswith("    | ") for line in lines)


def chained(message):
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def test_ctrl_c_in_a_handler_ends_the_program():
    with pytest.raises(KeyboardInterrupt):
        call(app(raises(KeyboardInterrupt())), signed())


def test_bytes_that_are_no_text_are_logged_and_sent_as_they_are(caplog):
    caplog.set_level(logging.DEBUG)
    assert call(app(lambda message: b"<Response>\xff</Response>"), signed())[2][10:11] == b"\xff"
    assert "with: <Response>\N{REPLACEMENT CHARACTER}</Response>" in caplog.text


def test_a_refusal_is_one_line_with_the_path_and_the_messagesid(caplog):
    refuse = app(lambda message: "ok")
    call(refuse, make_environ(MESSAGE))
    call(refuse, make_environ(b"", "DELETE"))
    why = "there is no X-Twilio-Signature: Twilio did not send this request, or something"
    assert caplog.messages[0].startswith(f"403 Forbidden for POST /sms, message {SID}: {why} ")
    said = "405 Method Not Allowed for DELETE /sms: only GET and POST are answered"
    assert caplog.messages[1] == said


def test_patience_is_ten_seconds():
    """Twilio's fifteen, less what the way there and back may take."""
    assert inspect.signature(smsreply.App).parameters["patience"].default == 10


def test_what_led_to_a_failure_is_logged_before_it(caplog):
    call(app(chained), signed())
    lines = caplog.messages[0].split("\n")
    said = "    | The above exception was the direct cause of the following exception:"
    assert lines.index("    | KeyError: 'first'") < lines.index(said)
    assert lines[-1] == "    | ValueError: second"
    assert lines.count("    | Traceback (most recent call last):") == 2


def test_a_failure_that_led_to_itself_is_logged_once(caplog):
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    call(app(raises(first)), signed())
    assert caplog.messages[0].count("ValueError: first") == 1


def test_of_a_thousand_failures_in_a_row_the_last_ones_are_logged(caplog):
    def reply(message):
        try:
            raise KeyError("first")
        except KeyError:
            return reply(message)

    assert status_of(app(reply), signed()) == 500
    assert "RecursionError" in caplog.text
    assert len(caplog.messages[0]) < 100_000


def test_the_sender_writes_no_line_of_a_traceback(caplog):
    forged = "x\nCRITICAL forged\n(("

    def noted(message):
        error = ValueError("a")
        error.__notes__ = [f'  File "x", line 1, in x\n{message.body}']
        raise error

    for reply in (lambda message: compile(message.body, message.body, "exec"), noted):
        caplog.clear()
        call(app(reply), signed({**MESSAGE, "Body": forged}))
        assert not [line for line in caplog.messages[0].split("\n") if "CRITICAL" in line[:12]]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups of exceptions")
def test_each_failure_of_a_group_is_logged(caplog):
    group = ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    call(app(raises(group)), signed())
    assert "ValueError: one" in caplog.messages[0]
    assert "KeyError: 'other'" in caplog.messages[0]


def test_an_app_goes_on_after_a_failure():
    def reply(message):
        return {"good": "fine"}[message.body]

    texter = Texter(app(reply))
    got = [texter.text(body) for body in ("good", "bad", "good")]
    assert [texted.status for texted in got] == [200, 500, 200]
    assert got[2].reply == "fine"


@pytest.mark.parametrize(("size", "status"), [(65535, 200), (65536, 200), (65537, 500)])
@pytest.mark.parametrize("kind", [str.encode, smsreply.RawTwiML])
def test_twiml_may_have_64_kib(size, status, kind):
    document = "<Response><Message>%s</Message></Response>"
    document %= "x" * (size - len(document % ""))
    assert status_of(app(lambda message: kind(document)), signed()) == status


# -------------------------------------------------------------------------------- logs

PERSONAL = re.compile(
    r"\+?1?4017122661|5558675310|94965|SAUSALITO|secret words|caf(é|%C3%A9)", re.IGNORECASE
)
SECRET = {**MESSAGE, "Body": "secret words, café", "ProfileName": "Ada"}


def personal_requests():
    for method in ("GET", "POST"):
        yield signed(SECRET, method=method)
        yield signed(SECRET, method=method, token="other")
        yield signed(SECRET, method=method, HTTP_X_TWILIO_SIGNATURE=None)
        yield signed(SECRET, method=method, HTTP_X_TWILIO_SIGNATURE="short")
        yield signed(SECRET, method=method, url="http://abc.example/sms")  # a near miss
        yield signed(
            SECRET,
            method=method,
            url="https://p.example/pre/sms",
            HTTP_X_FORWARDED_HOST="p.example",
        )
        yield signed({**SECRET, "From": ""}, method=method)
        yield signed(SECRET, method=method, PATH_INFO="/other")
        yield signed(SECRET, method=method, CONTENT_TYPE="text/html")
        yield signed(SECRET, method=method, HTTP_COOKIE="smsreply=+14017122661")
    yield signed(SECRET, CONTENT_LENGTH="99999")
    yield signed(SECRET, CONTENT_LENGTH="4017122661")
    yield make_environ(b"From=%2B14017122661&Body=%zz+secret+words")
    yield make_environ(b"From=%2B14017122661&Body=%ff+secret+words")
    yield signed(SECRET, method="PUT", QUERY_STRING="From=%2B14017122661")


def replies():
    yield lambda message: f"secret words for {message.from_}"
    yield raises(ValueError("oops"))
    yield lambda message: dict(message)
    yield lambda message: message.body * 10_000
    yield lambda message: message.session.update(said=message.body * 500)


@pytest.mark.parametrize("verify", [True, False])
def test_nothing_that_names_a_person_is_logged_above_debug(caplog, verify):
    caplog.set_level(logging.DEBUG)
    seen = 0
    for reply in replies():
        for environ in personal_requests():
            caplog.clear()
            call(app({"/sms": reply}, verify=verify), environ, validate=False)
            for record in caplog.records:
                if record.levelno > logging.DEBUG:
                    seen += 1
                    assert not PERSONAL.search(record.getMessage()), record.getMessage()
                    assert record.exc_info is None
    assert seen > 50


def test_at_debug_a_message_and_its_answer_are_one_line_each(caplog):
    caplog.set_level(logging.DEBUG)
    Texter(app(), number="+14017122661").text("Hello")
    assert [r.getMessage() for r in caplog.records] == [
        "Incoming message from +14017122661: Hello",
        "Answered +14017122661 with: <Response><Message>ok</Message></Response>",
    ]
    assert {r.name for r in caplog.records} == {"smsreply"}


def test_at_debug_a_status_callback_is_no_message(caplog):
    caplog.set_level(logging.DEBUG)
    fields = {"From": "+15558675310", "To": "+14017122661", "MessageStatus": "sent\n"}
    Texter(app()).send(fields)
    assert caplog.messages[0] == r"Status of the message to +14017122661: sent\n"


@pytest.mark.parametrize(("size", "shown"), [(2000, "x" * 2000), (2001, "x" * 2000 + "…")])
def test_2000_characters_of_a_text_are_logged(caplog, size, shown):
    caplog.set_level(logging.DEBUG)
    call(app(lambda message: None), signed({"From": "+1", "Body": "x" * size}))
    assert caplog.messages[0] == f"Incoming message from +1: {shown}"


FORGED = "x\r\n\nERROR forged\x1b[31m\x00\x85\u2028\u2029\u202e\ud7ff"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_no_line_of_a_log_is_the_senders(caplog, verify, level):
    def quoting(message):
        raise ValueError(message.body)

    def tearing(message):
        raise KeyError(message["MessageSid"]) from ValueError(message.from_)

    caplog.set_level(level)
    latin = FORGED.encode().decode("latin-1")
    whole = {
        **MESSAGE,
        "Body": FORGED,
        "From": FORGED,
        "MessageSid": FORGED,
        "To": FORGED,
        FORGED: FORGED,
    }
    requests = [
        signed(whole),
        signed(whole, method="GET"),
        signed(whole, token="other"),
        signed(whole, method="GET", token="other"),
        signed(whole, url="http://abc.example/sms"),
        signed({**whole, "From": ""}),
        signed(whole, PATH_INFO="/" + latin),
        make_environ(method=FORGED, PATH_INFO=latin),
        *[
            signed(whole, **{name: latin})
            for name in (
                "HTTP_HOST", "REQUEST_URI", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_COOKIE",
                "HTTP_X_TWILIO_SIGNATURE", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED",
            )
        ],
        signed(whole, HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS="algorithm=" + latin),
    ]  # fmt: skip
    for reply in (echo, quoting, tearing, lambda message: message, lambda message: message.body):
        for environ in requests:
            environ["wsgi.input"].seek(0)
            call(app({"/sms": reply}, verify=verify), environ, validate=False)
    assert len(caplog.records) > 50
    for record in caplog.records:
        first, *traceback = record.getMessage().split("\n")
        assert first.isprintable(), first
        for line in traceback:
            assert line.startswith("    "), line
            assert line.isprintable(), line
            assert not line.strip().startswith("ERROR"), line
        assert not traceback or record.levelno == logging.ERROR


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_message_that_is_refused_is_named_by_its_sid(caplog, method):
    for environ in (
        signed(method=method),
        signed(method=method, HTTP_X_TWILIO_SIGNATURE=None),
    ):
        caplog.clear()
        assert status_of(app(auth_token="a secret token"), environ) == 403
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert SID in record.getMessage()
        assert GENUINE not in record.getMessage()
        assert "a secret token" not in record.getMessage()


def test_a_flood_of_forgeries_is_logged_once_a_second(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(smsreply.time, "monotonic", lambda: now[0])
    flooded = app({"/sms": echo})
    for _ in range(50):
        assert status_of(flooded, make_environ(MESSAGE)) == 403
    assert len(caplog.records) == 1
    status_of(flooded, make_environ(MESSAGE, PATH_INFO="/other"))  # of another kind
    assert len(caplog.records) == 2
    now[0] += 0.99
    status_of(flooded, make_environ(MESSAGE))
    assert len(caplog.records) == 2
    now[0] += 0.02
    status_of(flooded, make_environ(MESSAGE))
    assert len(caplog.records) == 3
    assert caplog.records[2].getMessage().endswith("(and 50 more since the last such line)")
    # Nor do they hide why Twilio itself is refused.
    status_of(flooded, signed(**{"wsgi.url_scheme": "http"}))
    assert "signed for https://abc.example/sms: pass public_url" in caplog.text


def test_messages_that_twilio_signed_are_all_logged(caplog):
    failing = app(raises(ValueError("no")))
    for _ in range(3):
        status_of(failing, signed())
        status_of(failing, signed({"Body": "a"}))
    assert len(caplog.records) == 6


# ---------------------------------------------------------------- whatever else may come


def test_whatever_comes_there_is_an_answer():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    some = [
        "", "/", "//", "*", "?", "#", ":", "@", "[", "]", "[::1", "::1]", "http://", "https://[", "https://[x]/",
        "abc.example", "/sms", "user:pass@", ":99999", ":x", "%", "%2", "smsreply=", "=", ";", ",", "\r\n", "\xff", "a",
        "bodySHA256=", "&", "key=", "algorithm=", "HMAC_SHA256", GENUINE,
    ]  # fmt: skip
    text = st.lists(st.sampled_from(some), max_size=4).map("".join)
    names = [
        "HTTP_HOST", "REQUEST_URI", "RAW_URI", "PATH_INFO", "SCRIPT_NAME", "QUERY_STRING", "CONTENT_TYPE",
        "CONTENT_LENGTH", "HTTP_COOKIE", "HTTP_X_TWILIO_SIGNATURE", "HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS",
        "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PREFIX",
        "HTTP_FORWARDED", "HTTP_TRANSFER_ENCODING", "SERVER_NAME", "SERVER_PORT",
    ]  # fmt: skip

    @hypothesis.settings(max_examples=300, deadline=None, database=None)
    @hypothesis.given(
        st.sampled_from(["GET", "POST"]), st.dictionaries(st.sampled_from(names), text), text
    )
    def answered(method, headers, form):
        environ = make_environ(b"From=a&" + form.encode(), method, **headers)
        for verify in (True, False):
            environ["wsgi.input"].seek(0)
            status, _, body = call(app(verify=verify), environ, validate=False)
            assert (status == "200 OK") == body.startswith(b"<?xml")
            assert status == "200 OK" or re.fullmatch(rb"[ -~]+\n", body)

    answered()


def test_of_a_path_that_is_not_answered_the_log_has_the_mount_and_those_that_are(caplog):
    environ = signed(SCRIPT_NAME="/bot", PATH_INFO="")
    status, _, body = call(app({"/sms": echo, "/status": echo}), environ)
    assert (status, body) == ("404 Not Found", b"no messages are answered at this path\n")
    assert caplog.messages == [
        (
            "404 Not Found for POST /bot: this app answers only /sms, /status, relative to where the"
            " host mounts it"
        )
    ]


@pytest.mark.parametrize("verify", [None, 0, "", [], "no", 1, True])
def test_only_false_itself_has_the_unsigned_answered(verify):
    assert call(app(echo, verify=verify), make_environ({"From": "+1"}))[0] == "403 Forbidden"


def test_bytes_of_a_subclass_are_sent_as_bytes():
    class Document(bytes):
        """What some XML library returns, say."""

    assert call(app(lambda message: Document(b"<Response/>")), signed())[2] == b"<Response/>"
