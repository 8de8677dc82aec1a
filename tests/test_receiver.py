"""Whatever Twilio signed: for every account, through every router, to a view of one's own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import io
import logging
import threading
import tracemalloc
from urllib.parse import quote, unquote, urlencode

import pytest
from conftest import MESSAGE, PYTHON, ROOT, SID, TOKEN, call, free_port, make_environ, running
from test_app import app, echo, signature, signed, status_of
from texter import Texter, over_http, sign

import smsreply

URL = "https://abc.example/sms"
ACCOUNT, OTHER = MESSAGE["AccountSid"], "AC" + "f" * 32
JSON_URL = URL + "?bodySHA256=" + hashlib.sha256(b'[{"a": 1}]').hexdigest()


def text_of(app, environ, **more):
    return call(app, environ, **more)[2].decode()


# ------------------------------------------------------------------------- the accounts


def both():
    return app(auth_token={ACCOUNT: TOKEN, OTHER: ["new", "old"]})


@pytest.mark.parametrize(
    ("account", "token", "status"),
    [
        (ACCOUNT, TOKEN, 200),
        (OTHER, "new", 200),
        (OTHER, "old", 200),
        (ACCOUNT, "new", 403),  # one tenant in another's name
        (OTHER, TOKEN, 403),
        ("AC" + "0" * 32, TOKEN, 403),
        ("", TOKEN, 403),
        (None, TOKEN, 403),
        (ACCOUNT, ACCOUNT, 403),  # which is no secret
    ],
)
def test_the_requests_own_account_picks_the_token(account, token, status):
    fields = {k: v for k, v in {**MESSAGE, "AccountSid": account}.items() if v is not None}
    assert status_of(both(), signed(fields, token=token)) == status


def test_the_log_says_that_an_account_has_no_token(caplog):
    status_of(both(), signed({**MESSAGE, "AccountSid": "AC0\n1"}))
    assert "auth_token has no token for the account 'AC0\\\\n1'" in caplog.text


def test_a_session_is_one_accounts_alone():
    def count(message):
        message.session["n"] = message.session.get("n", 0) + 1
        return str(message.session["n"])

    paths = smsreply.App(count, auth_token={ACCOUNT: TOKEN, OTHER: "new"})
    cookie = call(paths, signed())[1]["Set-Cookie"].partition(";")[0]
    assert "<Message>2<" in text_of(paths, signed(HTTP_COOKIE=cookie))
    theirs = signed({**MESSAGE, "AccountSid": OTHER}, token="new", HTTP_COOKIE=cookie)
    assert "<Message>1<" in text_of(paths, theirs)


def test_a_message_costs_no_more_with_a_thousand_accounts(monkeypatch):
    made = []

    def counting(self, string, algorithm="HMAC_SHA1", sign=smsreply.Signer.sign):
        made.append(string)
        return sign(self, string, algorithm)

    monkeypatch.setattr(smsreply.Signer, "sign", counting)
    many = {f"AC{n:032x}": f"token {n}" for n in range(1000)}
    for tokens in ({ACCOUNT: TOKEN}, {**many, ACCOUNT: TOKEN}):
        assert status_of(app(auth_token=tokens), signed()) == 200
    assert len(made) == 2


@pytest.mark.parametrize("make", [smsreply.RequestValidator, lambda token: app(auth_token=token)])
@pytest.mark.parametrize(
    "token", [ACCOUNT, ACCOUNT.upper(), "SK" + "0" * 32, ["ok", ACCOUNT], f" {ACCOUNT}\n"], ids=repr
)
def test_an_sid_is_no_token(make, token):
    with pytest.raises(ValueError, match="is an SID, which is no secret"):
        make(token)


@pytest.mark.parametrize("token", [5, ["a", None], [5], object(), [["a"]]], ids=repr)
@pytest.mark.parametrize("make", [smsreply.RequestValidator, lambda token: app(auth_token=token)])
def test_a_token_of_another_type_is_a_type_error(make, token):
    with pytest.raises(TypeError, match="an auth token is a str"):
        make(token)


def test_a_mapping_is_no_validators_token():
    with pytest.raises(TypeError):
        smsreply.RequestValidator({ACCOUNT: TOKEN})


def test_an_sid_in_the_environment_answers_nobody_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", ACCOUNT)
    assert status_of(smsreply.App(echo), signed(token=ACCOUNT)) == 500
    assert "TWILIO_AUTH_TOKEN: " + ACCOUNT + " is an SID" in caplog.text


def test_the_tokens_can_be_read():
    receiver = smsreply.Receiver(auth_token={ACCOUNT: TOKEN, OTHER: ["new", "old", " "]})
    assert receiver.tokens(OTHER) == [b"new", b"old"]
    assert receiver.tokens() == [b"12345", b"new", b"old"]
    assert receiver.tokens("AC9") == []
    assert smsreply.Receiver(auth_token=TOKEN).tokens("AC9") == [b"12345"]


# ------------------------------------------------------------------- whatever was signed


@pytest.mark.parametrize(
    "fields",
    [
        {"MessageSid": SID, "MessageStatus": "delivered", "To": "+1"},
        {"EventType": "onMessageAdded", "ConversationSid": "CH1", "Author": "ada"},
        {"Sid": "NO1", "Level": "ERROR", "Payload": '{"error_code": "11200"}'},
        {"AccountSid": ACCOUNT},
    ],
    ids=["status callback", "Conversations", "debugger", "one field"],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_whatever_form_is_signed_reaches_the_handler(fields, method):
    got = []
    assert status_of(app(got.append), signed(fields, method=method)) == 200
    assert got == [fields]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_who_opens_the_url_in_a_browser_is_told_what_it_is(method):
    status, _, body = call(app(), signed({}, method=method))
    assert status == "400 Bad Request"
    assert body == b"this is a webhook for Twilio: it answers text messages, and none came\n"


# ------------------------------------------------------------------------------- routers


@pytest.mark.parametrize("public", ["https://abc.example/shop", "https://abc.example/shop/"])
@pytest.mark.parametrize("requested", ["https://abc.example/shop", "https://abc.example/shop/"])
@pytest.mark.parametrize("path", ["", "/"])
@pytest.mark.parametrize("query", ["", "?a=%20b"])
def test_where_a_router_strips_the_whole_path_both_spellings_are_accepted(
    public, requested, path, query
):
    seen = {"PATH_INFO": path, "HTTP_HOST": "10.0.0.1", "QUERY_STRING": query[1:]}
    for raw in ({}, {"REQUEST_URI": "/" + query}):
        environ = signed(url=requested + query, **seen, **raw)
        assert status_of(app(public_url=public), environ, validate=False) == 200
    for url, came in (("https://abc.example/other", path), (requested, "/other")):
        environ = signed(url=url + query, **{**seen, "PATH_INFO": came})
        assert status_of(app(public_url=public), environ, validate=False) == 403


@pytest.mark.parametrize(
    ("signed_for", "proxy"),
    [
        ("https://new.example", {"HTTP_X_FORWARDED_PROTO": "https"}),
        ("https://new.example", {}),
        ("http://new.example", {}),
    ],
)
def test_an_old_public_url_is_told_from_the_host_that_was_asked_for(caplog, signed_for, proxy):
    environ = signed(url=f"{signed_for}/sms", HTTP_HOST="new.example", **proxy)
    old = app(public_url="https://old.example")
    assert status_of(old, {**environ, "wsgi.url_scheme": "http"}) == 403
    assert f'signed for {signed_for}/sms: pass public_url="{signed_for}"' in caplog.text


def test_an_algorithm_that_twilio_does_not_use_is_said(caplog):
    settings = {"HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS": "key=SK1,algorithm=HMAC_MD5"}
    assert status_of(app(), signed(**settings)) == 403
    assert "'HMAC_MD5' is not an algorithm that Twilio uses" in caplog.text


def test_the_log_has_no_password_of_a_public_url(caplog):
    private = app(public_url="https://me:sesame@abc.example")
    assert status_of(private, signed(url="https://other.example/sms")) == 403
    assert "fits neither https://abc.example/sms nor" in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(
    ("requested", "seen", "advice"),
    [
        ("/shop", "/", 'pass public_url="https://abc.example/shop"'),
        ("/sms", "//sms", "has one slash where the server got two"),
        ("/sms/", "/sms", "ends in a slash"),
        ("/sms", "/sms/", "has no slash at its end"),
        ("/sms", "/bot/sms", "Twilio's URL has no /bot"),
        ("/a/sms", "/bot/a/sms", "Twilio's URL has no /bot:"),
    ],
)
def test_the_advice_fits_what_a_router_did(caplog, requested, seen, advice):
    more = {"HTTP_X_FORWARDED_PREFIX": "/shop"} if requested == "/shop" else {}
    url = f"https://abc.example{requested}"
    assert status_of(app(), signed(url=url, PATH_INFO=seen, **more), validate=False) == 403
    assert "signed for https://abc.example" in caplog.text
    assert advice in caplog.text


RAW = ["%40a", "%3A", "a%2Fb", "%27", "caf%c3%a9", "/sms", "sms?", "sms?a=%27+b"]


@pytest.fixture(scope="module")
def development(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bot")
    (folder / "bot.py").write_text(
        'import smsreply\napplication = smsreply.App(lambda message: "ok")\n'
    )
    port = free_port()
    command = [PYTHON, ROOT / "smsreply.py", "serve", "bot:application", "--no-phone"]
    env = {"TWILIO_AUTH_TOKEN": TOKEN, "SMSREPLY_PUBLIC_URL": "https://abc.example"}
    with running(*command, "--port", port, port=port, env=env, cwd=folder):
        yield port


@pytest.mark.parametrize("raw", RAW)
def test_the_development_server_sees_the_target_raw(development, raw):
    form = urlencode(MESSAGE)
    headers = {"X-Twilio-Signature": sign(TOKEN, f"https://abc.example/{raw}", form)}
    status, _, body = over_http(development, "POST", f"/{raw}", headers, form.encode())
    assert (status, body.decode()) == (200, text_of(app(), signed()))


@pytest.mark.parametrize("path", ["/sms/a b", "/a@b:c", "/caf\xe9'()", "/~x/$1,2;3=4"])
@pytest.mark.parametrize("escape", [str, str.lower], ids=["upper", "lower"])
@pytest.mark.parametrize("safe", ["/", "/:@", "/:@!$&'()*+,;=~"])
def test_where_the_host_gives_no_raw_path_the_usual_spellings_are_tried(path, escape, safe):
    spelled = quote(path, safe=safe)
    spelled = "".join(
        "%" + escape(part[:2]) + part[2:] if i else part
        for i, part in enumerate(spelled.split("%"))
    )
    environ = signed(url="https://abc.example" + spelled, PATH_INFO=path.encode().decode("latin-1"))
    assert status_of(app(), environ) == 200


@pytest.mark.parametrize("safe", ["", "/:@", "*'()!~"])
@pytest.mark.parametrize("space", ["+", "%20"])
@pytest.mark.parametrize("seen_space", ["+", "%20"])
def test_where_the_host_spells_the_query_anew_the_usual_spellings_are_tried(
    safe, space, seen_space
):
    pairs = [("a", "x:/y@z (1)*!~'"), ("b", "")]
    spelled = urlencode(pairs, safe=safe).replace("+", space)
    seen = urlencode(pairs).replace("+", seen_space)
    assert status_of(app(), signed(url=f"{URL}?{spelled}", QUERY_STRING=seen)) == 200


def test_where_the_host_gives_a_raw_path_no_other_is_tried(caplog):
    environ = signed(url=URL + "%40", PATH_INFO="/sms@", REQUEST_URI="/sms@")
    assert status_of(app(), environ) == 403


def test_where_the_host_gives_no_raw_path_the_log_says_what_may_be_lost(caplog):
    signed_for = "https://abc.example/sms/a%2Fb"
    status_of(app(), signed(url=signed_for, PATH_INFO="/sms/a/b"))
    status_of(app(), signed(url=URL + "?x", REQUEST_URI="/sms"))
    app().answer("POST", URL, {"X-Twilio-Signature": "x"}, b"From=1")  # it may be raw or not
    lost, raw, answered = caplog.messages
    assert "no raw path" not in answered
    assert "this host passes on no raw path, so escapes in it may be lost" in lost
    assert "no raw path" not in raw


# ---------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("params", "verdict"),
    [('[{"a": 1}]', True), (b'[{"a": 1}]', True), (b'[{"a":1}]', False), (b"", False), (None, False), ({}, False), ({"a": "1"}, False)],
    ids=repr,
)  # fmt: skip
def test_a_hashed_body_is_checked_or_the_request_is_refused(params, verdict):
    given = sign(TOKEN, JSON_URL)
    assert smsreply.RequestValidator(TOKEN).validate(JSON_URL, params, given) is verdict


def test_of_two_hashes_nobody_knows_which_is_meant():
    url = JSON_URL + "&bodySHA256=" + "0" * 64
    validator = smsreply.RequestValidator(TOKEN)
    assert not validator.validate(url, '[{"a": 1}]', sign(TOKEN, url))


def test_what_is_json_gets_415_and_the_log_says_where_to_take_it(caplog):
    environ = make_environ(b"[]", CONTENT_TYPE="application/json")
    assert status_of(app(), environ) == 415
    assert "App answers forms only; pass a raw JSON body to RequestValidator" in caplog.text


# ------------------------------------------------------------------ what handlers return


class TheirResponse:
    def to_xml(self):
        return "<Response><Message>Theirs</Message></Response>"


def test_an_object_with_to_xml_is_sent_as_it_is():
    assert "<Message>Theirs</Message>" in text_of(app(lambda m: TheirResponse()), signed())


def giving(document):
    class Giving:
        def to_xml(self):
            return document

    return Giving()


@pytest.mark.parametrize("document", [None, 5, bytearray(b"<Response/>")])
def test_what_to_xml_returns_is_a_document(caplog, document):
    assert status_of(app(lambda m: giving(document)), signed()) == 500
    assert f"to_xml() returns a document, and not {type(document).__name__}" in caplog.text


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_document_may_be_of_a_subclass(kind):
    class Own(kind):
        pass

    document = Own("<Response />") if kind is str else Own(b"<Response />")
    assert call(app(lambda m: giving(document)), signed())[2] == b"<Response />"


@pytest.mark.parametrize("reply", [5, [smsreply.MessagingResponse()], [b"a"], object(), {"a": 1}])
def test_what_cannot_be_a_reply_is_named_and_what_may_be_is_listed(caplog, reply):
    assert status_of(app(lambda m: reply), signed()) == 500
    assert "cannot be a reply. A handler returns None, a str" in caplog.text


PERSON = contextvars.ContextVar("person", default="nobody")


@pytest.mark.parametrize("cache", [False, True])
def test_an_async_handler_is_run_to_its_end_in_the_messages_thread(cache):
    async def reply(message):
        await asyncio.sleep(0.01)
        return f"{message.body} to {PERSON.get()} in {threading.current_thread().name}"

    PERSON.set("Ada")
    kept = smsreply.MemoryCache() if cache else None
    said = text_of(app(reply, cache=kept), signed({**MESSAGE, "Body": "Hi"}))
    thread = "smsreply" if cache else threading.current_thread().name
    assert f"<Message>Hi to Ada in {thread}</Message>" in said


def test_a_function_that_returns_an_awaitable_is_awaited():
    async def later(text):
        return text

    class Awaitable:
        def __await__(self):
            return later("ok").__await__()

    assert "<Message>ok</Message>" in text_of(app(lambda m: later("ok")), signed())
    assert "<Message>ok</Message>" in text_of(app(lambda m: Awaitable()), signed())


@pytest.mark.parametrize("error", [asyncio.CancelledError, asyncio.TimeoutError, KeyError])
@pytest.mark.parametrize("cache", [False, True])
def test_what_an_async_handler_raises_is_a_failure_like_any_other(caplog, error, cache):
    async def reply(message):
        raise error

    kept = smsreply.MemoryCache() if cache else None
    assert status_of(app(reply, cache=kept), signed()) == 500
    assert f"message {SID} is not answered" in caplog.text


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (["Hi"] * 10, 200),
        (["Hi"] * 11, 500),
        ("x" * 16_000, 200),
        ("x" * 16_001, 500),
        (["x" * 8_000, *["Hi"] * 5], 200),
        (["x" * 8_001, *["Hi"] * 5], 500),
        (smsreply.RawTwiML("<Response>" + "<Message>a</Message>" * 11 + "</Response>"), 500),
    ],
    ids=[
        "ten",
        "eleven",
        "a text of ten",
        "a text of eleven",
        "both ten",
        "both eleven",
        "by hand",
    ],
)
def test_ten_messages_are_the_most_that_twilio_sends(caplog, reply, status):
    assert status_of(app(lambda m: reply), signed()) == status
    assert ("is 11 messages, and Twilio sends 10 at most (error 14109)" in caplog.text) == (
        status == 500
    )


@pytest.mark.parametrize("before", ["", '\n<?xml version="1.0"?>'])
def test_a_text_that_begins_like_twiml_is_sent_as_text_and_the_log_says_so_once(caplog, before):
    markup = app(lambda m: f"{before}<Response><Message>Hi</Message></Response>")
    for _ in range(3):
        assert "&lt;Response&gt;" in text_of(markup, signed())
    [said] = [text for text in caplog.messages if "TwiML document" in text]
    assert said.endswith("return the MessagingResponse itself, or RawTwiML(…)")


def test_a_text_that_has_twiml_further_on_is_a_text_like_any_other(caplog):
    assert "&lt;Response" in text_of(app(lambda m: "Begin with <Response>"), signed())
    assert not caplog.messages


# ------------------------------------------------------------------ a view of one's own


def receiver(**options):
    return smsreply.Receiver(**{"auth_token": TOKEN, **options})


def test_a_receiver_returns_the_message():
    message = receiver().receive(signed())
    assert message == MESSAGE
    assert (message.url, message.session) == (URL, {})


@pytest.mark.parametrize(
    ("environ", "status", "said"),
    [
        (signed(token="x"), "403 Forbidden", "this was not signed by Twilio"),
        (make_environ({}), "400 Bad Request", "this is a webhook for Twilio"),
        (make_environ(method="PUT"), "405 Method Not Allowed", "only GET and POST"),
    ],
)
def test_a_receiver_raises_what_the_view_answers_and_has_logged_it(caplog, environ, status, said):
    with pytest.raises(smsreply.Refused, match=said) as refused:
        receiver().receive(environ)
    assert refused.value.status == status
    assert caplog.messages[0].startswith(f"{status} for ")


def test_validate_accepts_a_shared_keys_request_by_its_header():
    settings = "key=SK1, algorithm=HMAC_SHA256"
    given = signature(URL, MESSAGE, "secret", "sha256")
    validator = smsreply.RequestValidator("secret")
    for read in (smsreply.signature_algorithm, smsreply.get_signature_algorithm):
        assert validator.validate(URL, MESSAGE, given, read(settings))
        assert read("") == read(None) == "HMAC_SHA1"
    assert not validator.validate(URL, MESSAGE, given)
    assert smsreply.SIGNATURE_HEADER == "X-Twilio-Signature"
    assert smsreply.SIGNATURE_SETTINGS_HEADER == "X-Twilio-Webhooks-Signature-Settings"


def test_where_no_secret_matches_a_shared_key_the_log_says_so(caplog):
    settings = {"HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS": "key=SK1,algorithm=HMAC_SHA256"}
    assert status_of(app(), signed(token="secret", digest="sha256", **settings)) == 403
    assert "it is signed with SharedKey SK1: add that key's secret" in caplog.text


def test_a_wrong_token_and_a_wrong_url_are_different_findings(caplog):
    status_of(app(), signed(token="another"))
    status_of(app(), signed(url="http://abc.example/sms"))
    token, url = caplog.messages
    assert token.endswith("so escapes in it may be lost)")
    assert "; if not, check the auth token" in token
    assert 'signed for http://abc.example/sms: pass public_url="http://abc.example"' in url


def test_a_host_that_a_proxy_was_asked_for_is_in_the_advice_though_the_prefix_is_hidden(caplog):
    status_of(
        app(), signed(url="https://shop.example/x/y/sms", HTTP_X_FORWARDED_HOST="shop.example")
    )
    assert "the header X-Forwarded-Host says shop.example" in caplog.text


# ------------------------------------------------------------------- app.answer, the rest


def asked(app, fields=MESSAGE, url=URL, method="POST", token=TOKEN, **headers):
    body = urlencode(fields) if method == "POST" else ""
    url += f"?{urlencode(fields)}" if method == "GET" else ""
    headers = {"x-twilio-SIGNATURE": sign(token, url, body), **headers}
    headers.setdefault("Content-type", "application/x-www-form-urlencoded")
    return app.answer(method, url, headers, body.encode())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answer_gives_what_the_callable_gives(method):
    status, headers, body = asked(app(), method=method)
    assert (status, dict(headers), body) == call(app(), signed())


def test_answer_keeps_a_session():
    def count(message):
        message.session["n"] = message.session.get("n", 0) + 1
        return str(message.session["n"])

    counting = app(count)
    cookie = dict(asked(counting)[1])["Set-Cookie"].partition(";")[0]
    assert b"<Message>2<" in asked(counting, COOKIE=cookie)[2]


def test_answer_takes_whole_paths_of_a_mapping_and_a_public_url():
    paths = smsreply.App({"/sms": echo}, auth_token=TOKEN)
    assert asked(paths)[0] == "200 OK"
    assert asked(paths, url="https://abc.example/other")[0] == "404 Not Found"
    public = app(public_url="https://abc.example")
    body = urlencode(MESSAGE).encode()
    headers = {"X-Twilio-Signature": sign(TOKEN, URL, body.decode())}
    assert public.answer("POST", "http://10.0.0.1:80/sms", headers, body)[0] == "200 OK"


@pytest.mark.parametrize("path", ["/é", "/Straße/€", "/%C3%A9é"])
def test_answer_takes_a_path_that_the_host_has_decoded(path):
    body = urlencode(MESSAGE)
    signed_url = "https://abc.example" + quote(unquote(path))
    headers = {"X-Twilio-Signature": sign(TOKEN, signed_url, body)}
    status, _, _ = app().answer("POST", f"https://abc.example{path}", headers, body.encode())
    assert status == "200 OK"


@pytest.mark.parametrize("url", ["https:///sms", "https://h/\udcc3\udca9", "https://:/"])
def test_answer_refuses_what_a_client_can_make_of_a_url(url):
    assert app().answer("POST", url, {}, b"From=1")[0][:3] in ("400", "403")


@pytest.mark.parametrize("url", ["/sms", "abc.example/sms", "", "/sms?u=http://x/y"])
def test_answer_wants_a_whole_url(url):
    with pytest.raises(ValueError, match=r"is not like https://abc\.example/sms"):
        app(public_url="https://abc.example").answer("POST", url, {}, b"")


def test_accounts_that_somebody_invents_take_no_memory():
    open_to_all = smsreply.App(echo, auth_token={ACCOUNT: TOKEN}, verify=False)

    def texted(accounts):
        for number in accounts:
            asked(open_to_all, {**MESSAGE, "AccountSid": f"AC{number}"})

    texted(range(100))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    texted(range(100, 600))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000


@pytest.mark.parametrize(("size", "status"), [(65536, 200), (65537, 413)])
def test_answer_takes_64_kib(size, status):
    fields = {"Body": "x" * (size - 5)}
    assert asked(app(), fields)[0].startswith(str(status))


def test_answer_refuses_what_is_not_a_form():
    status, _, _ = asked(app(), **{"Content-type": "application/json"})
    assert status == "415 Unsupported Media Type"


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_answer_refuses_what_the_callable_refuses(method):
    status, headers, body = app().answer(method, URL, {}, b"")
    assert (status, dict(headers)["Allow"]) == ("405 Method Not Allowed", "GET, POST")
    assert (body == b"") == (method == "HEAD")


def test_answer_does_not_believe_that_a_whole_body_is_chunked():
    assert asked(app(), **{"Transfer-Encoding": "chunked", "Content-Length": "5"})[0] == "200 OK"


def test_a_length_that_is_an_int_and_a_header_that_is_none_are_no_exception():
    environ = signed()
    environ.update(CONTENT_LENGTH=int(environ["CONTENT_LENGTH"]), HTTP_X_FORWARDED_HOST=None)
    assert status_of(app(), environ, validate=False) == 200
    environ = {**signed(), "HTTP_X_TWILIO_SIGNATURE": None, "HTTP_COOKIE": None}
    assert status_of(app(), environ, validate=False) == 403


def test_the_sender_is_who_wrote_it_whatever_the_number():
    person = {**MESSAGE, "ExternalUserId": "US.1", "From": "whatsapp:US.1"}
    assert smsreply.IncomingMessage(person).sender == "US.1"
    assert smsreply.IncomingMessage({**person, "From": "whatsapp:+1401"}).sender == "US.1"
    assert smsreply.IncomingMessage(MESSAGE).sender == MESSAGE["From"]


def test_a_query_that_is_not_utf_8_is_called_a_query():
    environ = signed(url=URL + "?a=%FF", QUERY_STRING="a=%FF")
    assert text_of(app(), environ) == "the query is not UTF-8\n"


@pytest.mark.parametrize("handler", ["public_bot:application", "public_bot:reply"])
def test_the_public_url_of_the_environment_is_that_of_an_app_without_one(
    monkeypatch, tmp_path, handler
):
    (tmp_path / "public_bot.py").write_text(
        'import smsreply\n\ndef reply(message):\n    return "ok"\n\n'
        "application = smsreply.App(reply)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "public_bot", raising=False)
    fresh = functools.cache(smsreply.from_environment.__wrapped__)
    monkeypatch.setattr(smsreply, "from_environment", fresh)
    monkeypatch.setenv("SMSREPLY_HANDLER", handler)
    monkeypatch.setenv("SMSREPLY_PUBLIC_URL", "https://abc.example")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    environ = signed(HTTP_HOST="10.0.0.1")
    environ["wsgi.url_scheme"] = "http"
    assert status_of(smsreply.application, environ) == 200


def test_whoever_set_the_public_url_of_another_application_is_told(monkeypatch, caplog, tmp_path):
    def other(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    smsreply.set_public_url(other, "https://abc.example")
    assert "SMSREPLY_PUBLIC_URL does nothing" in caplog.text


@pytest.mark.parametrize("fallback", [{"ErrorCode": "11200", "ErrorUrl": URL}])
def test_the_fallback_at_the_same_path_gets_the_late_answer_of_the_first_run(fallback):
    runs = []

    def reply(message):
        runs.append(message.get("ErrorCode"))
        return f"run {len(runs)}"

    once = app(reply, cache=smsreply.MemoryCache())
    first = text_of(once, signed())
    assert text_of(once, signed({**MESSAGE, **fallback})) == first
    assert runs == [None]


def test_production_says_to_a_load_balancer_that_it_lives(tmp_path):
    pytest.importorskip("waitress")
    port = free_port()
    command = [PYTHON, ROOT / "smsreply.py", "serve", "--production", "--port", port]
    with running(*command, port=port, env={"TWILIO_AUTH_TOKEN": TOKEN}):
        assert over_http(port, "GET", "/healthz", {})[::2] == (200, b"ok\n")
        assert over_http(port, "POST", "/healthz", {})[0] == 404
        assert Texter(port, public=f"http://127.0.0.1:{port}").text("Hi").status == 200


def test_the_status_of_a_message_is_logged_as_one_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    status_of(app(), signed({"MessageSid": SID, "MessageStatus": "sent", "To": "+1"}))
    assert "Status of the message to +1: sent" in caplog.messages


def test_what_is_from_nobody_is_logged_as_an_event_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    status_of(app(), signed({"Sid": "NO1", "Level": "ERROR"}))
    assert caplog.messages[0] == "Incoming event without a type: Sid, Level"
    assert caplog.messages[1].startswith("Answered it with: ")


def test_the_body_of_answer_need_not_be_read_again():
    stream = io.BytesIO(b"")
    assert app().answer("POST", URL, {}, stream.getvalue())[0] == "400 Bad Request"
