"""Safe: whatever comes in, and what must stay secret.  tests/fuzz.py tries it for longer."""

from __future__ import annotations

import ast
import io
import logging
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qsl

import fuzz
import pytest
from conftest import PYTHON, ROOT
from oracles import PIECES, SETTINGS, SMS, TOKENS, URL, changes, check_answer, signed, urls

import smsreply

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st

TOKEN = TOKENS[0]
SERVERS = ["wsgiref", "waitress", "gunicorn", "uWSGI"]
servers = pytest.mark.parametrize("server", range(4), ids=SERVERS)
some = hypothesis.settings(deadline=None, max_examples=300, derandomize=True)


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """Every line that is logged, at DEBUG too, is looked at by `oracles.Log`."""
    logger = logging.getLogger("smsreply")
    monkeypatch.setattr(logger, "handlers", [fuzz.LOG])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(smsreply, "MAX_TRIES", 50)
    logger.setLevel(logging.DEBUG)
    fuzz.LOG.lines.clear()
    yield fuzz.LOG.lines
    logger.setLevel(logging.NOTSET)
    fuzz.LOG.check()


def call(app, environ):
    """Return the status, headers and body of an answer that the oracles found well."""
    started = []
    body = b"".join(app(environ, lambda *args: started.append(args)))
    check_answer(*started[0], body)
    return started[0][0], dict(started[0][1]), body


def app_of(reply, **options):
    return smsreply.App(reply, auth_token=TOKEN, **options)


# ------------------------------------------------------------- whatever comes in


@some
@hypothesis.given(st.lists(st.integers(0, 255), max_size=80).map(bytes))
def test_whatever_the_fuzzer_chooses_the_oracles_agree(data):
    fuzz.fuzz(data)


latin_1 = st.text(st.characters(max_codepoint=255), max_size=40)
urlish = st.sampled_from([*PIECES, "From=a", "/sms", "Body=x"]).filter(str.isascii)
pieces = st.lists(urlish | latin_1, max_size=8).map("".join)
NAMES = ["REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_HOST", "REQUEST_URI", "RAW_URI"]
NAMES += ["SCRIPT_NAME", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_COOKIE"]
NAMES += ["HTTP_X_TWILIO_SIGNATURE", "HTTP_X_FORWARDED_HOST", "HTTP_AUTHORIZATION", SETTINGS]


@some
@hypothesis.given(
    environ=st.dictionaries(st.sampled_from(NAMES), pieces, max_size=5),
    verify=st.booleans(),
)
def test_no_environ_makes_an_app_raise_or_answer_what_was_not_signed(environ, verify):
    got = []
    app = smsreply.App(lambda message: got.append(message), auth_token=TOKEN, verify=verify)
    environ = signed(**{"HTTP_X_TWILIO_SIGNATURE": "x" * 28, **environ})
    call(app, environ)
    assert not (verify and got)


replies = st.recursive(
    st.none() | st.text() | st.integers() | st.binary().map(lambda _: b"<Response/>")
    | st.text().map(smsreply.Message) | st.text().map(smsreply.Redirect)
    | st.integers(1590, 4000).map(lambda size: "😀 a"[size % 3] * size),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)  # fmt: skip


@some
@hypothesis.given(reply=replies, session=st.dictionaries(st.text(), replies, max_size=2))
def test_whatever_a_handler_returns_is_answered_with_twiml_or_500(reply, session):
    def handler(message):
        message.session.update(session)
        return reply

    status = call(app_of(handler), signed())[0]
    assert status in ("200 OK", "500 Internal Server Error")


# ----------------------------------------------------------------- one byte changed


def accepted(environ, body):
    got = []
    app = smsreply.App(got.append, auth_token=TOKEN, verify=True)
    app._seldom.suffix_for = lambda kind: None  # thousands of refusals: without their reasons
    call(app, {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))})
    return dict(got[0]) if got else None


def test_each_change_of_one_byte_of_a_signed_body_is_refused_unless_it_decodes_to_the_same():
    environ, raw = signed(), SMS.encode()
    message = dict(parse_qsl(SMS, keep_blank_values=True))
    assert accepted(environ, raw) == message
    others = [body for body in set(changes(raw)) if accepted(environ, body) not in (None, message)]
    # Names and values are signed without anything between them: no receiver can tell these.
    same = "".join(sorted(SMS.replace("&", "").replace("=", "")))
    for body in others:
        left = body.decode().replace("&", "").replace("=", "")
        assert "".join(sorted(left)) == same, body


def test_each_change_of_one_byte_of_the_signature_is_refused():
    environ, name = signed(), "HTTP_X_TWILIO_SIGNATURE"
    for raw in set(changes(environ[name].encode())) - {environ[name].encode()}:
        assert accepted({**environ, name: raw.decode("latin-1")}, SMS.encode()) is None, raw


@servers
def test_each_change_of_one_byte_of_a_signed_query_is_refused_unless_it_decodes_to_the_same(server):
    url = f"/sms?{SMS}"
    environ, message = signed(url=URL + f"?{SMS}", method="GET"), dict(parse_qsl(SMS, True))
    for raw in {url.encode(), *changes(url.encode())}:
        changed = environ | urls(raw.decode("latin-1"), "GET", server)
        assert accepted(changed, b"") in (None, message), raw


@servers
@pytest.mark.parametrize(
    ("host", "target"),
    [
        pytest.param("abc.example", f"/sms?{SMS}#&Body=forged", id="fragment in the target"),
        pytest.param(f"abc.example/sms?{SMS}#", "/sms?From=forged", id="fragment in the Host"),
        pytest.param(f"abc.example/sms?{SMS}&x=", "/sms?From=forged", id="query in the Host"),
        pytest.param("abc.example", f"sms?{SMS}&Body=forged", id="a target without a slash"),
        pytest.param("abc.example", f"?{SMS}&Body=forged", id="a target that is a query"),
    ],
)
def test_who_has_a_signed_request_can_say_nothing_else_with_it(server, host, target):
    environ = signed(url=URL + f"?{SMS}", method="GET", HTTP_HOST=host)
    message = dict(parse_qsl(SMS, keep_blank_values=True))
    assert accepted(environ | urls(target, "GET", server), b"") in (None, message)


@pytest.mark.parametrize("host", ["abc.example/sms#", "abc.example/sms?", "abc.example/sms"])
def test_the_host_cannot_say_which_path_was_signed(host):
    environ = signed(HTTP_HOST=host) | urls("/other?a=b", "POST", 0)
    assert accepted(environ, SMS.encode()) is None


# ----------------------------------------------------------- what costs the sender little


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"HTTP_HOST": "[@" * 60_000 + "x:y"}, id="a Host for the regular expression"),
        pytest.param({"REQUEST_URI": "http://" + "[@" * 60_000 + "x:y"}, id="a target for it"),
        pytest.param({"HTTP_X_FORWARDED_HOST": "[@" * 60_000 + "x:y"}, id="a header for it"),
        pytest.param({"QUERY_STRING": "a=1&b=2&c=3&d=4&e=5"}, id="a thousand fields to explain"),
        pytest.param({"QUERY_STRING": "%41" * 20_000, "REQUEST_METHOD": "GET"}, id="a long query"),
    ],
)
def test_no_request_takes_more_than_a_second(more, monkeypatch):
    monkeypatch.undo()  # and so explanations take all the time they have
    logging.getLogger("smsreply").setLevel(logging.WARNING)
    body = "&".join([f"f{number}=" for number in range(999)])
    environ = signed(body, **{"HTTP_X_TWILIO_SIGNATURE": "x" * 28, **more})
    started = time.process_time()
    call(app_of(lambda message: None), environ)
    assert time.process_time() - started < 1


def test_a_flood_of_forgeries_logs_a_line_a_second(log):
    app = app_of(lambda message: None)
    for number in range(200):
        call(app, signed(**{"HTTP_X_TWILIO_SIGNATURE": "x", SETTINGS: f"algorithm=x{number}"}))
    assert len(log) <= 2


# ---------------------------------------------------------------------------- secrets


def test_the_token_is_in_no_repr_log_or_traceback(log, capsys):
    def broken(message):
        raise ValueError(f"{message!r} {app!r} {vars(app)!r:.0}")

    app = app_of(broken)
    assert call(app, signed())[0] == "500 Internal Server Error"
    assert call(app, signed(HTTP_X_TWILIO_SIGNATURE="x" * 28))[0] == "403 Forbidden"
    validator = smsreply.RequestValidator([f" {TOKEN} ", TOKENS[1]])
    shown = [app, validator, *log, capsys.readouterr()]
    assert len(log) >= 2
    assert not [text for text in map(str, [*shown, *map(repr, shown)]) if TOKEN in text]


def test_signatures_are_compared_in_constant_time():
    """Whatever `sign` makes is only returned, or given to hmac.compare_digest."""
    tree = ast.parse(Path(smsreply.__file__).read_text())
    secret = {"sign", "_sign", "compute_signature", "digest"}

    def calls(node, names):
        found = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
        return [f for f in found if getattr(f, "attr", getattr(f, "id", "")) in names]

    nodes = list(ast.walk(tree))
    safe = [n for n in nodes if getattr(getattr(n, "func", None), "attr", "") == "compare_digest"]
    assert safe
    assert not [n.lineno for n in nodes if isinstance(n, ast.Compare) and calls(n, secret)]


def cookie_of(app, environ):
    return call(app, environ)[1].get("Set-Cookie", "").partition(";")[0]


def remember(message):
    if message.body:
        return repr(message.session)
    message.session["paid"] = True


def test_no_change_of_one_byte_of_a_session_is_believed():
    app = app_of(remember)
    cookie = cookie_of(app, signed("From=a&To=b"))
    assert b"{'paid': True}" in call(app, signed("From=a&To=b&Body=x", HTTP_COOKIE=cookie))[2]
    for changed in {text.decode("latin-1") for text in changes(cookie.encode())} - {cookie}:
        _, _, body = call(app, signed("From=a&To=b&Body=x", HTTP_COOKIE=changed))
        # White space around a cookie is none of its value, and "x=" before it another one.
        same = changed.strip() == cookie or body.find(b"{}") > 0
        assert same, changed


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        pytest.param("From=a&To=c", {}, id="another number of ours"),
        pytest.param("From=c&To=b", {}, id="another sender"),
        pytest.param("From=b&To=a", {}, id="the pair turned round"),
        pytest.param("From=a&To=b", {"auth_token": TOKENS[1]}, id="another token"),
        pytest.param("From=a&To=b", {"verify": False}, id="no token"),
    ],
)
def test_a_session_is_nobody_elses(fields, options):
    cookie = cookie_of(app_of(remember), signed("From=a&To=b"))
    app = smsreply.App(remember, **{"auth_token": TOKEN, **options})
    environ = signed(fields + "&Body=x", HTTP_COOKIE=cookie, token=options.get("auth_token"))
    assert b"{}" in call(app, environ)[2]


def test_reading_a_message_needs_no_socket():
    program = """
import io, sys, smsreply
form = b"From=a&NumMedia=1&MediaUrl0=http://127.0.0.1:1/x&Body=hi"
def reply(message):
    return message.media[0][0] + message.body + str(message.session)
app = smsreply.App(reply, verify=False)
print(app({"REQUEST_METHOD": "POST", "wsgi.url_scheme": "https", "HTTP_HOST": "h",
    "CONTENT_LENGTH": str(len(form)), "wsgi.input": io.BytesIO(form)}, print))
assert not {"socket", "_socket", "ssl", "http.client", "urllib.request", "pickle"} & set(sys.modules)
"""
    done = subprocess.run(
        [PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:1/xhi{}" in done.stdout
