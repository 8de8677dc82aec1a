"""3. The session: what a conversation remembers, in a cookie that Twilio holds."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time

import pytest
from conftest import MESSAGE, TOKEN, call, make_environ
from texter import Texter

import smsreply

URL = "https://abc.example/sms"
HOURS4 = 4 * 60 * 60


def request(url=URL, cookie=None, token=TOKEN, **fields):
    fields = {**MESSAGE, **fields}
    return make_environ(
        fields,
        HTTP_X_TWILIO_SIGNATURE=smsreply.RequestValidator(token).compute_signature(url, fields),
        HTTP_COOKIE=cookie,
        SCRIPT_NAME="",
        **{"wsgi.url_scheme": url.partition(":")[0]},
    )


def visit(change=None, cookie=None, *, token=TOKEN, url=URL, verify=True, **fields):
    """Send a message to a new App; return the session that came, and what is set for it.

    *change* is what the handler makes of the session; None leaves it as it is.
    """
    came = []

    def reply(message):
        came.append(dict(message.session))
        message.session = message.session if change is None else change

    app = smsreply.App(reply, auth_token=token, verify=verify)
    signer = token if isinstance(token, str) else token[0]
    status, headers, body = call(app, request(url, cookie, signer, **fields))
    assert status == "200 OK", body
    return came[0], headers.get("Set-Cookie", "")


def kept(session, **options):
    """Return the cookie in which *session* comes back."""
    return visit(session, **options)[1].partition(";")[0]


def genuine(content, token=TOKEN):
    """Return a cookie with *content*, signed as `Sessions` says."""
    key = hmac.digest(token.encode(), b"smsreply session", "sha256")
    bound = "\0".join((content, MESSAGE["From"], MESSAGE["To"])).encode()
    return (
        f"smsreply={content}.{base64.urlsafe_b64encode(hmac.digest(key, bound, 'sha256')).decode()}"
    )


def failed(caplog, change, **options):
    """Return the log of a handler whose session cannot be kept."""

    def reply(message):
        message.session = change
        return "not sent"

    app = smsreply.App(reply, auth_token=TOKEN, **options)
    status, headers, body = call(app, request())
    assert (status, body) == ("500 Internal Server Error", b"the message could not be answered\n")
    assert "Set-Cookie" not in headers
    assert "Traceback" in caplog.text
    return caplog.text


# ------------------------------------------------------------------------------- kept


@pytest.mark.parametrize(
    "session",
    [
        {"step": 1},
        {"": None, "name": "Zoë 😀\n", "many": [1, 2.5, True, {"deep": []}]},
        {"lone": "\ud800", "markup": "</script>;=,\"'\\"},
        {"big": "x" * 2000},
    ],
    ids=["int", "all of JSON", "odd text", "big"],
)
def test_what_is_kept_comes_back_to_any_process_with_the_token(session):
    assert visit(cookie=kept(session)) == (session, "")


def test_the_cookie_is_what_the_docstring_says(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.9)
    expected = genuine("1.1700000000." + base64.urlsafe_b64encode(b'{"step":1}').decode())
    assert visit({"step": 1})[1] == f"{expected}; Path=/; Max-Age=14400; HttpOnly; Secure"


@pytest.mark.parametrize("field", ["From", "To"])
def test_a_session_is_bound_to_the_pair_of_numbers(field):
    assert visit(cookie=kept({"step": 1}), **{field: "+15005550009"})[0] == {}


def test_each_pair_of_numbers_has_its_own_conversation():
    def reply(message):
        message.session["count"] = message.session.get("count", 0) + 1
        return f"{message.session['count']}"

    texter = Texter(smsreply.App(reply, auth_token=TOKEN))

    def says(number):
        return texter.text("Hi", From=number).reply

    assert [says(n) for n in ("+15005550001", "+15005550001", "+15005550002")] == ["1", "2", "1"]
    assert says("+15005550001") == "3"


@pytest.mark.parametrize(
    "cookies",
    ["a=b; {}", "{}; a=b", "{};smsreply=forged", "smsreply=forged; {}", "smsreply; ;=;  {} "],
)
def test_it_is_found_among_other_cookies(cookies):
    assert visit(cookie=cookies.format(kept({"step": 1})))[0] == {"step": 1}


# ------------------------------------------------------------------------ not genuine


def test_a_cookie_that_was_changed_anywhere_is_an_empty_session():
    cookie = kept({"step": 1})
    for at in range(len("smsreply="), len(cookie)):
        for other in {"A", "B", "\xff"} - {cookie[at]}:
            changed = cookie[:at] + other + cookie[at + 1 :]
            assert visit(cookie=changed) == ({}, ""), changed


def test_a_cookie_that_was_cut_anywhere_is_an_empty_session():
    cookie = kept({"step": 1})
    for end in range(len(cookie)):
        assert visit(cookie=cookie[:end])[0] == {}
        assert visit(cookie="smsreply=" + cookie[end + 1 :])[0] == {} or end < len("smsreply=")


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param("", id="none"),
        pytest.param("smsreply=", id="empty"),
        pytest.param("smsreply", id="no value"),
        pytest.param("smsreply=...", id="dots"),
        pytest.param("smsreply=\x00\x1f\xe9\xff", id="control characters"),
        pytest.param("smsreply=1.9999999999.eyJhIjoxfQ==.AAAA", id="made up"),
        pytest.param("smsreply=" + "9" * 5000 + ".e30=.AAAA", id="too long for int()"),
        pytest.param(genuine("1.1700000000.eyJhIjoxfQ==", "54321"), id="another token's"),
        pytest.param("other=" + kept({"step": 1})[9:], id="another name's"),
    ],
)
def test_a_cookie_that_is_not_ours_is_an_empty_session(cookie):
    assert visit(cookie=cookie) == ({}, "")


def test_cookies_over_16_kib_are_not_looked_at():
    cookie = kept({"step": 1})
    for size, session in ((16 * 1024, {"step": 1}), (16 * 1024 + 1, {})):
        assert visit(cookie="a=".ljust(size - len(cookie) - 1, "x") + ";" + cookie)[0] == session


@pytest.mark.parametrize(
    ("age", "session"), [(HOURS4 - 1, {"step": 1}), (HOURS4, {"step": 1}), (HOURS4 + 1, {})]
)
def test_a_session_lasts_for_four_hours(monkeypatch, age, session):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000)
    cookie = kept({"step": 1})
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000 + age)
    assert visit(cookie=cookie)[0] == session


@pytest.mark.parametrize("version", ["2", "10", ""])
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(".{}.eyJhIjoxfQ==", id="of this form"),
        pytest.param(".{}.eyJhIjoxfQ==.more", id="with more fields"),
        pytest.param(".{}.%%%", id="not base64"),
        pytest.param(".", id="with fewer fields"),
    ],
)
def test_a_cookie_of_another_version_is_an_empty_session(version, rest):
    """One is what a newer version of this program, with the same token, may have set."""
    assert visit(cookie=genuine(version + rest.format(int(time.time()))))[0] == {}


def test_a_session_deeper_than_the_stack_that_is_left_is_an_empty_one(monkeypatch):
    def too_deep(text):
        raise RecursionError

    cookie = kept({"step": 1})
    monkeypatch.setattr(json, "loads", too_deep)
    assert visit(cookie=cookie) == ({}, "")


# --------------------------------------------------------------------------- when it is set


def test_it_is_set_only_when_it_changed():
    cookie = kept({"step": 1})
    assert visit({"step": 1}, cookie)[1] == ""
    assert visit({"step": 2}, cookie)[1].startswith("smsreply=1.")
    assert visit({})[1] == ""


@pytest.mark.parametrize(("url", "secure"), [(URL, True), ("http://abc.example/sms", False)])
def test_it_is_secure_where_the_url_is_https(url, secure):
    cookie = visit({"step": 1}, url=url)[1]
    emptied = visit({}, cookie.partition(";")[0], url=url)[1]
    assert [c.endswith("; HttpOnly; Secure") for c in (cookie, emptied)] == [secure, secure]


def test_where_the_url_is_http_httponly_is_its_last_attribute():
    cookie = visit({"step": 1}, url="http://abc.example/sms")[1]
    emptied = visit({}, cookie.partition(";")[0], url="http://abc.example/sms")[1]
    assert cookie.partition(";")[2] == " Path=/; Max-Age=14400; HttpOnly"
    assert emptied == "smsreply=; Path=/; Max-Age=0; HttpOnly"


def test_behind_a_proxy_it_is_the_public_url_that_is_https():
    app = smsreply.App(
        lambda message: message.session.update(step=1),
        auth_token=TOKEN,
        public_url="https://abc.example",
    )
    environ = {**request(), "wsgi.url_scheme": "http"}
    assert call(app, environ)[1]["Set-Cookie"].endswith("; Secure")


def test_a_session_that_was_emptied_is_deleted():
    cookie = visit({}, kept({"step": 1}))[1]
    assert cookie == "smsreply=; Path=/; Max-Age=0; HttpOnly; Secure"
    steps = iter(({"step": 1}, {}, None))
    seen = []

    def reply(message):
        seen.append(dict(message.session))
        message.session = next(steps)

    texter = Texter(smsreply.App(reply, auth_token=TOKEN))
    texted = [texter.text() for _ in range(3)]
    assert seen == [{}, {"step": 1}, {}]
    assert [one.status for one in texted] == [200, 200, 200]
    assert texted[2].cookies == [""]


@pytest.mark.parametrize("cache", [None, smsreply.MemoryCache()], ids=["no cache", "cache"])
def test_a_handler_that_fails_leaves_the_session_as_it_was(cache):
    def reply(message):
        message.session["step"] = message.session.get("step", 0) + 1
        if message.body == "fail":
            raise RuntimeError
        return str(message.session["step"])

    app = smsreply.App(reply, auth_token=TOKEN, cache=cache)
    texter = Texter(app)
    assert texter.text("one").reply == "1"
    assert texter.text("fail").status == 500
    assert texter.text("two").reply == "2"


# ----------------------------------------------------------------------------- tokens


def test_of_several_tokens_any_one_reads_and_the_first_one_writes():
    old = kept({"step": 1})
    assert visit(cookie=old, token=["new", TOKEN])[0] == {"step": 1}
    new = kept({"step": 2}, cookie=old, token=["new", TOKEN])
    assert visit(cookie=new, token="new")[0] == {"step": 2}
    assert visit(cookie=new, token=TOKEN)[0] == {}


def test_without_verification_a_session_is_kept_by_this_process_alone(monkeypatch):
    cookie = kept({"step": 1}, verify=False)
    assert visit(cookie=cookie, verify=False)[0] == {"step": 1}
    assert visit(cookie=cookie)[0] == {}
    assert visit(cookie=kept({"step": 1}), verify=False)[0] == {}
    monkeypatch.setattr(smsreply, "PROCESS_KEY", b"another process's")
    assert visit(cookie=cookie, verify=False)[0] == {}


# ------------------------------------------------------------------- what cannot be kept

LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("cache", [None, smsreply.MemoryCache()], ids=["no cache", "cache"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "is not JSON serializable"),
        ({1, 2}, "is not JSON serializable"),
        (b"bytes", "is not JSON serializable"),
        (float("nan"), "Out of range float values"),
        (LOOP, "Circular reference"),
    ],
    ids=["object", "set", "bytes", "nan", "loop"],
)
def test_what_is_not_json_is_a_500_and_the_log_says_why(caplog, cache, value, why):
    text = failed(caplog, {"fine": 1, "basket": value}, cache=cache)
    assert re.search(r"(TypeError|ValueError): .*" + why, text)


def test_a_key_that_is_no_str_is_a_500_and_the_log_says_so(caplog):
    said = failed(caplog, {("+14017122661",): "x"})
    assert "TypeError: the session is a dict, and each of its keys is a str" in said
    assert "4017122661" not in said


@pytest.mark.parametrize("url", [URL, "http://abc.example/sms"])
def test_a_cookie_may_have_4096_bytes_with_its_attributes(url):
    def refused(size):
        app = smsreply.App(lambda m: m.session.update(pad="x" * size), auth_token=TOKEN)
        return call(app, request(url))[0] != "200 OK"

    at = next(size for size in range(2500, 4000) if refused(size))
    largest = visit({"pad": "x" * (at - 1)}, url=url)[1]
    # base64 has four characters for three bytes, so this is the last step below the limit.
    assert 4096 - 4 < len(largest) <= 4096
    assert visit(cookie=largest.partition(";")[0], url=url)[0] == {"pad": "x" * (at - 1)}
    assert all(refused(size) for size in range(at, at + 12))


def test_a_session_over_4_kb_is_a_500_and_the_log_says_how_much_it_is(caplog):
    text = failed(caplog, {"step": 1, "history": ["Hi"] * 1000, "name": "Ada"})
    assert re.search(
        r"ValueError: the session takes a cookie of \d{4} bytes: keep less in it, 4096 is", text
    )


@pytest.mark.parametrize("session", [None, [], 0, ""], ids=repr)
def test_a_session_of_nothing_is_an_empty_one(session):
    app = smsreply.App(lambda m: setattr(m, "session", session), auth_token=TOKEN)
    _, headers, _ = call(app, request(cookie=kept({"step": 1})))
    assert headers["Set-Cookie"].startswith("smsreply=; ")


@pytest.mark.parametrize("session", [["step"], 5, "step"], ids=repr)
def test_a_session_that_is_no_dict_is_a_500(caplog, session):
    assert "Error" in failed(caplog, session)
