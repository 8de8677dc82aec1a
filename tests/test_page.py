"""The phone's page: closed to everybody but its own browser, and used in a real one."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import struct
import threading
import zlib

import pytest
from conftest import TOKEN, call, make_environ

import smsreply

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
JSON = "application/json"


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
    if message.body == "picture":
        one = smsreply.Message("Here it is.")
        one.append(smsreply.Media("/picture.png"))
        return one
    if message.body == "outside":
        one = smsreply.Message("From elsewhere.")
        one.append(smsreply.Media("https://pictures.example/cat.jpg"))
        return one
    if message.body == "redirect":
        return [smsreply.Message("One moment."), smsreply.Redirect("/next")]
    if message.body == "error":
        return smsreply.RawTwiML("<Response><Mesage>typo</Mesage></Response>")
    if message.body == "count":
        message.session["count"] = message.session.get("count", 0) + 1
        return str(message.session["count"])
    return f"You said {message.body}"


def webhook(token=TOKEN):
    paths = {"/sms": reply, "/next": lambda message: "And the rest."}
    app = smsreply.App(paths, auth_token=token, verify=bool(token))

    def application(environ, start_response):
        if environ["PATH_INFO"] != "/picture.png":
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "image/png")])
        return [picture()]

    return listening(smsreply.serve_development(application, "127.0.0.1", 0))


@pytest.fixture
def page():
    return smsreply.PhonePage("http://localhost:1/sms")


@pytest.fixture
def connected(monkeypatch):
    """A page whose webhook is there, and takes the token that the environment has."""
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    with webhook() as port:
        yield smsreply.PhonePage(f"http://localhost:{port}/sms")


def ask(page, path="/state", wanted=None, method="POST", **more):
    """Return the status, headers and body of the page's answer to a browser of its own."""
    body = wanted if isinstance(wanted, bytes) else json.dumps(wanted or {}).encode()
    given = {"PATH_INFO": path, "SERVER_PORT": "8768", "HTTP_HOST": "localhost:8768", **more}
    given = {"CONTENT_TYPE": JSON, "CONTENT_LENGTH": str(len(body)), **given}
    return call(page, make_environ(body if method == "POST" else b"", method, **given))


def told(page, path="/state", wanted=None):
    status, _, body = ask(page, path, wanted)
    assert status == "200 OK", body
    return json.loads(body)


# Closed.


@pytest.mark.parametrize("path", ["/", "/phone.css", "/phone.js"])
def test_each_file_forbids_what_the_page_does_not_need(page, path):
    status, headers, body = ask(page, path, method="GET")
    assert (status, headers["Content-Length"]) == ("200 OK", str(len(body)))
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: http://localhost:* http://127.0.0.1:*; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_nothing_is_fetched_from_elsewhere_nor_made_from_markup(page):
    html, css, js = (
        ask(page, path, method="GET")[2].decode() for path in ("/", "/phone.css", "/phone.js")
    )
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', html) == ["phone.css", "phone.js"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", html)
    assert "url(" not in css and "@import" not in css
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|import", js
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
@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/state", "POST"), ("/no", "PUT")])
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
    assert (status, body) == ("403 Forbidden", b"the phone is used by its own page only\n")
    assert told(page)["exchanges"] == []


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


@pytest.mark.parametrize(
    ("path", "wanted", "line"),
    [
        ("/text", b"", "the body is not JSON"),
        ("/text", b"\xff", "the body is not JSON"),
        pytest.param("/text", b"[" * 60_000, "the body is not JSON", id="deep"),
        ("/text", b"[]", "the body is not a JSON object"),
        ("/text", {"body": 1}, "body is not a text"),
        ("/deliver", {}, "the params are not an object of texts"),
        ("/deliver", {"params": {"Body": None}}, "the params are not an object of texts"),
        ("/deliver", {"params": {}, "signature": "x\r\nY: z"}, "the signature is not base64"),
        ("/settings", {}, "two numbers, and GET or POST, are needed"),
    ],
)
def test_what_the_page_would_not_send_is_refused_in_one_line(page, path, wanted, line):
    status, _, body = ask(page, path, wanted)
    assert (status, body.decode()) == ("400 Bad Request", line + "\n")


def test_the_server_listens_on_loopback_and_knows_its_port():
    with listening(smsreply.serve_phone("http://localhost:1/sms", None, 0)) as port:
        for host, status in ((f"localhost:{port}", b"200"), ("evil.example", b"403")):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert client.makefile("rb").readline().split()[1] == status


# The token, the settings, the log.


def all_that_is_told(page):
    return b"".join(
        [ask(page, path, method="GET")[2] for path in ("/", "/phone.css", "/phone.js")]
        + [ask(page)[2], ask(page, "/text", {"body": "hello"})[2], ask(page, "/forget")[2]]
    )


def settings_of(page, **changed):
    return {**told(page)["settings"], **changed}


def test_the_token_is_never_served(page, monkeypatch):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token-of-the-environment")
    assert b"token-of" not in all_that_is_told(page)
    state = told(page, "/settings", settings_of(page, token="token-of-the-page"))
    assert state["token"] == "this page"
    assert b"token-of" not in all_that_is_told(page)


def test_a_token_can_be_set_and_kept_and_left_out(connected):
    def first_status(**changed):
        told(connected, "/settings", settings_of(connected, **changed))
        return told(connected, "/text", {"body": "hi"})["hops"][0]["status"]

    assert told(connected)["token"] == "TWILIO_AUTH_TOKEN"
    assert first_status() == 200
    assert first_status(token="another") == 403
    assert first_status(token="") == 403
    assert first_status(token=TOKEN) == 200
    assert first_status(unsigned=True) == 403
    assert (told(connected)["token"], told(connected)["unsigned"]) == ("", True)
    assert first_status() == 200
    assert told(connected)["token"] == "this page"  # the last one that was given


def test_other_numbers_another_method_and_url_are_used(connected):
    told(
        connected, "/settings", settings_of(connected, number="whatsapp:+1", to="+2", method="GET")
    )
    sent = told(connected, "/text", {"body": "hi"})
    assert (sent["params"]["From"], sent["params"]["To"]) == ("whatsapp:+1", "whatsapp:+2")
    assert sent["hops"][0]["method"] == "GET"
    assert sent["messages"][0]["body"] == "You said hi"


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


def test_the_cookies_stay_until_the_phone_starts_over(connected):
    def counted():
        return told(connected, "/text", {"body": "count"})["messages"][0]["body"]

    assert [counted(), counted()] == ["1", "2"]
    assert told(connected, "/forget")["exchanges"] == []
    assert counted() == "1"
    told(connected, "/settings", settings_of(connected))
    assert counted() == "1"


def test_a_picture_at_the_public_url_is_shown_from_the_webhook_itself(connected):
    with webhook(token=None) as port:
        changed = settings_of(
            connected, webhook=f"http://localhost:{port}/sms", public_url="https://abc.example"
        )
        told(connected, "/settings", changed)
        media = told(connected, "/text", {"body": "picture"})["messages"][0]["media"]
    url = "https://abc.example/picture.png"
    assert media == [{"url": url, "here": f"http://localhost:{port}/picture.png"}]


def test_an_exchange_is_sent_again_as_it_was_or_changed(connected):
    first = told(connected, "/text", {"body": "hi", "media": "http://x/1.png http://x/2.gif"})
    assert first["params"]["MediaContentType1"] == "image/gif"
    params, right = first["params"], first["hops"][0]["signature"]
    retry = told(connected, "/deliver", {"params": params, "again": 1, "how": "as a retry"})
    assert retry["params"] == params
    assert retry["hops"][0]["signature"] == right
    assert (retry["number"], retry["again"], retry["how"]) == (2, 1, "as a retry")
    broken = told(connected, "/deliver", {"params": params, "signature": right.swapcase()})
    assert (broken["hops"][0]["status"], broken["error"]["code"]) == (403, 11217)
    unsigned = told(connected, "/deliver", {"params": params, "signature": ""})
    assert "X-Twilio-Signature" not in unsigned["hops"][0]["request"]
    got = told(connected, "/deliver", {"params": {**params, "Body": "ho"}, "method": "GET"})
    assert (got["hops"][0]["method"], got["messages"][0]["body"]) == ("GET", "You said ho")


def test_a_page_that_is_loaded_again_shows_the_last_50_exchanges(page):
    for _ in range(51):
        told(page, "/deliver", {"params": {"Body": "hi"}})
    assert [kept["number"] for kept in told(page)["exchanges"]] == list(range(2, 52))


def test_half_a_character_is_sent_as_twilio_would_never_send_it_but_is_no_failure(page):
    sent = told(page, "/text", {"body": "half of it: \ud83d"})
    assert sent["error"]["code"] == 11205


def test_what_is_not_text_on_the_wire_is_escaped():
    assert smsreply.wire_text(b"a\r\n\xff\x00b\xc3\xa9\n") == "a\n\\xff\\x00bé\n"


def test_no_text_of_anybodys_is_logged(page, caplog, capfd, monkeypatch):
    def fails(phone, *arguments, **named):
        raise RuntimeError("a secret")

    caplog.set_level(0)
    told(page, "/text", {"body": "a secret"})
    ask(page, "/text", {"body": "a secret"}, HTTP_ORIGIN="a secret")
    monkeypatch.setattr(smsreply.Phone, "text", fails)
    status, _, body = ask(page, "/text", {"body": "a secret"})
    assert (status, body) == ("500 Internal Server Error", b"the phone failed\n")
    assert caplog.messages == ["the phone's page failed: RuntimeError"]
    assert "secret" not in caplog.text + "".join(capfd.readouterr())


# In a real browser.


@pytest.fixture(scope="module", params=[1400, 390], ids=["desktop", "phone"])
def browser(request, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium, or its chromedriver, is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    size = {"width": request.param, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.width = request.param
    yield chrome
    chrome.quit()


class User:
    """Somebody who sees the page in a browser."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get_log("browser")  # what came before
        browser.get(url)
        self.until("#about:not(:empty)")

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def until(self, selector, text=""):
        """Wait for an element, with *text* in it, and return it."""
        from selenium.webdriver.support.ui import WebDriverWait

        def found(_):
            shown = [one for one in self.all(selector) if text in one.get_property("textContent")]
            return shown[0] if shown else None

        return WebDriverWait(self.browser, 10, 0.05).until(found, f"{selector} with {text!r}")

    def text(self, text, number):
        """Type *text* and Enter, and return exchange *number* once it is there."""
        self.until("#body").send_keys(text, "\ue007")
        return self.until(f"#exchange-{number}[open]")

    def press(self, name, within="body"):
        buttons = [one for one in self.all(f"{within} button") if name in one.accessible_name]
        # By the keyboard, as it has to be possible.
        buttons[0].send_keys("\ue007")

    def bubbles(self):
        return [one.text for one in self.all("#conversation .bubble")]


@pytest.fixture
def user(browser, connected):
    with listening(smsreply.serve_phone(connected._chosen["webhook"], None, 0)) as port:
        yield User(browser, f"http://localhost:{port}/")
        complaints = [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"]
        overflow = browser.execute_script(
            "return document.documentElement.scrollWidth - innerWidth"
        )
        assert complaints == []
        assert overflow <= 0


def test_a_message_is_typed_and_answered(user):
    exchange = user.text("Hello <b>you</b>", 1)
    assert user.bubbles() == ["Hello <b>you</b>", "You said Hello <b>you</b>"]
    for shown in ("POST /sms HTTP/1.1", "Body=Hello+%3Cb%3Eyou", "HTTP/1.0 200 OK"):
        assert shown in exchange.text
    assert "of the 15 s that Twilio waits" in exchange.text
    assert "<Message>You said Hello &lt;b&gt;you&lt;/b&gt;</Message>" in exchange.text
    assert "A message to +15005550001: You said Hello <b>you</b>" in exchange.text
    assert user.until("#signing").text == "signed"
    signed, signature = (
        user.until(f"#exchange-1 [aria-label='{name}']").text
        for name in ("The string that was signed", "The signature")
    )
    assert base64.b64encode(base64.b64decode(signature)).decode() == signature
    assert signed.startswith("http://localhost:")
    assert "BodyHello <b>you</b>From+15005550001" in signed


def test_the_two_parts_stand_side_by_side_or_stack(user):
    phone, steps = user.until("#phone").rect, user.until("main").rect
    if user.browser.width < 500:
        assert steps["y"] > phone["y"] + phone["height"]
    else:
        assert steps["x"] > phone["x"] + phone["width"]


def test_a_picture_of_this_machine_is_shown_and_another_is_a_link(user):
    user.text("picture", 1)
    image = user.until("#conversation img")
    user.browser.execute_async_script("arguments[0].decode().then(arguments[1])", image)
    assert image.get_property("naturalWidth") == 8
    user.text("outside", 2)
    link = user.until("#conversation a")
    assert link.get_attribute("href") == link.text == "https://pictures.example/cat.jpg"
    assert link.get_attribute("rel") == "noreferrer noopener"
    assert len(user.all("#conversation img")) == 1


def test_a_picture_is_sent_by_its_url(user):
    user.press("Attach a picture")
    user.until("#media").send_keys("https://pictures.example/mine.png")
    exchange = user.text("look", 1)
    assert "MediaUrl0" in exchange.text
    assert user.bubbles()[0] == "look\nPicture: https://pictures.example/mine.png"


def test_a_redirect_is_followed_step_by_step(user):
    exchange = user.text("redirect", 1)
    assert user.bubbles() == ["redirect", "One moment.", "And the rest."]
    assert len(exchange.find_elements("css selector", ".hop")) == 2
    assert "Twilio goes on with another request: POST http://localhost:" in exchange.text


def test_an_error_is_shown_with_its_meaning_and_cure(user):
    exchange = user.text("error", 1)
    assert "Error 12200: the answer is XML, but not TwiML" in user.until("#conversation").text
    assert "<Mesage> is in <Response>" in exchange.text
    assert "What helps: use only Twilio's verbs and attributes" in exchange.text


def test_a_broken_signature_shows_whether_the_webhook_checks_it(user):
    user.text("hi", 1)
    user.press("Try with a broken signature")
    assert user.until("#verdict-1", "See").text == (
        "Does the webhook check it? Yes: with a broken signature it refuses, with 403. See exchange 2."
    )
    assert "error 11217" in user.until("#exchange-2 summary").text
    right, broken = (
        user.until(f"#exchange-{number} [aria-label='The signature']").get_property("textContent")
        for number in (1, 2)
    )
    assert right != broken and right[1:] == broken[1:]


def test_a_webhook_that_checks_nothing_is_told_from_one_that_does(user):
    with webhook(token=None) as port:
        user.press("Settings")
        field = user.until("#settings [name=webhook]")
        field.clear()
        field.send_keys(f"http://localhost:{port}/sms")
        user.press("Save", "#settings")
        user.until("#about", f":{port}/")
        user.text("hi", 1)
        user.press("Break the signature")
        verdict = user.until("#verdict-1", "See").get_property("textContent")
    assert "No: with a broken signature it answers 200, too." in verdict


def test_a_retry_and_an_edited_one_and_one_by_get(user):
    user.text("hi", 1)
    user.press("Retry, same MessageSid", "#exchange-1")
    user.until("#exchange-2[open]")
    assert "Exchange 1 sent again, as a retry" in user.until("#conversation").text
    user.press("By GET", "#exchange-2")
    assert "GET /sms?ToCountry=US" in user.until("#exchange-3[open]").text
    user.press("Edit", "#exchange-3")
    body = user.until("#edit [aria-label='Value of Body']")
    body.clear()
    body.send_keys("changed")
    user.press("Send", "#edit")
    user.until("#exchange-4[open]")
    assert user.bubbles()[-2:] == ["changed", "You said changed"]


def test_a_phone_without_a_token_says_so(user):
    user.press("Settings")
    user.until("#settings [name=unsigned]").send_keys(" ")
    user.press("Save", "#settings")
    user.until("#signing", "no token: unsigned")
    exchange = user.text("hi", 1)
    assert "No token: unsigned. Settings take a token to sign with." in exchange.text
    assert "error 11217" in exchange.text


def test_the_conversation_is_there_when_the_page_is_loaded_again(user):
    user.text("hi", 1)
    user.browser.refresh()
    user.until("#exchange-1[open]")
    assert user.bubbles() == ["hi", "You said hi"]
    user.press("Start over")
    user.until("#welcome:not([hidden])")
    assert user.bubbles() == []


def test_whatever_can_be_used_has_a_name(user):
    def names(within):
        kinds = ":is(button, input, textarea, select, summary, [tabindex], meter)"
        return [one.accessible_name for one in user.all(f"{within} {kinds}") if one.is_displayed()]

    user.text("hi", 1)
    outside = names("body > :not(dialog)")
    user.press("Edit", "#exchange-1")
    edit = names("#edit")
    user.press("Cancel", "#edit")
    user.press("Settings")
    settings = names("#settings")
    assert all([*outside, *edit, *settings])
    assert {"Text message", "Send", "Conversation", "The fields of the form"} <= set(outside)
    assert "Value of Body" in edit
    assert "Auth token" in settings


def test_what_is_deeper_than_twiml_is_not_shown_element_by_element():
    deep = b"<a>" * 5000 + b"</a>" * 5000
    assert smsreply.indented(deep) == ""
    assert smsreply.indented(b"<a><b><c>x</c></b></a>").count("\n") == 4
