"""6. Remember: each message is handled once, and answered however long it takes."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from conftest import MESSAGE, ROOT, TOKEN, call, make_environ, slow
from texter import Texter

import smsreply
from smsreply import App, Memory, MemoryCache, Redirect

URL = "https://abc.example/sms"
FAILED = ("500 Internal Server Error", b"the message could not be answered\n")


def request(method="POST", *, url=URL, **fields):
    """Return the environ of a signed message; a field that is None is left out."""
    fields = {k: v for k, v in {**MESSAGE, **fields}.items() if v is not None}
    query = urlencode(fields) if method == "GET" else url.partition("?")[2]
    url, form = (f"{url}?{query}", b"") if method == "GET" else (url, fields)
    signature = smsreply.RequestValidator(TOKEN).compute_signature(url, form or {})
    path = "/" + url.partition("?")[0].split("/", 3)[3]
    more = {"PATH_INFO": path, "QUERY_STRING": query, "HTTP_HOST": url.split("/")[2]}
    return make_environ(form, method, HTTP_X_TWILIO_SIGNATURE=signature, SCRIPT_NAME="", **more)


def deliver(app, environ=None, **fields):
    """Return the status, the body and the session's cookie of one delivery."""
    status, headers, body = call(app, environ or request(**fields))
    return status, body, headers.get("Set-Cookie")


def says(text):
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?><Response><Message>{text}</Message></Response>'
    )
    return "200 OK", document.encode()


class Bot:
    """A handler that counts its runs, and can be held up in any of them.

    *then* is what it returns or raises, run for run; after that, the number of the run.
    """

    held: list[threading.Event] = []

    def __init__(self, *then, held=False):
        self.runs, self.then, self.seen = 0, list(then), []
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self._lock = threading.Lock()
        Bot.held.append(self.go)
        if not held:
            self.go.set()

    def __call__(self, message):
        with self._lock:
            self.runs += 1
            run, then = self.runs, self.then.pop(0) if self.then else None
        self.seen.append(message)
        message.session["run"] = run
        self.begun.release()
        assert self.go.wait(20)
        if isinstance(then, BaseException):
            raise then
        return f"run {run}" if then is None else then

    def has_begun(self):
        assert self.begun.acquire(timeout=5), "the handler was not called"


class Strict(MemoryCache):
    """A cache that takes only what the design promises to any cache; it tells what it did."""

    def __init__(self):
        super().__init__()
        self.timeouts = {}

    def _put(self, key, value, timeout):
        assert re.fullmatch("[ace][0-9a-f]{64}|t[0-9a-f]{64}[.][0-6]", key)
        assert type(timeout) is int
        assert timeout > 0
        self.timeouts[key[0]] = timeout
        super()._put(key, json.loads(json.dumps(value)), timeout)


@pytest.fixture(autouse=True)
def nothing_runs_on(monkeypatch):
    """No handler of one test takes a thread of the pool from the next."""
    held = []
    monkeypatch.setattr(Bot, "held", held)
    yield
    for go in held:
        go.set()
    assert smsreply.POOL.drain(10), "a handler still runs"


@pytest.fixture
def quick(monkeypatch):
    """Let claims last for 0.4 s, and all else in proportion."""
    monkeypatch.setattr(Memory, "CLAIM_AGE", 0.4)
    monkeypatch.setattr(Memory, "POLL", 0.01)
    monkeypatch.setattr(smsreply.Pool, "RENEWAL", 0.1)
    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(32))


@pytest.fixture
def threads():
    """Run deliveries beside each other: ``threads(app, environ)`` returns a future."""
    with ThreadPoolExecutor(80) as pool:
        yield lambda app, environ=None, **fields: pool.submit(deliver, app, environ, **fields)


@pytest.fixture
def ticks(monkeypatch):
    """The time since some moment, which is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(smsreply.time, "monotonic", lambda: now[0])
    return now


def app_of(reply, cache=None, **options):
    return App(reply, auth_token=TOKEN, cache=MemoryCache() if cache is None else cache, **options)


def released(app, bot, by):
    """Return *app*, to which request number *by* comes a little before *bot* goes on."""
    requests = itertools.count(1)

    def call(environ, start_response):
        if next(requests) == by:
            threading.Timer(0.05, bot.go.set).start()
        return app(environ, start_response)

    return call


def nodes(reply, cache=None, count=2, **options):
    """Return so many apps with one cache: to each, the others are other processes."""
    cache = MemoryCache() if cache is None else cache
    return [app_of(reply, cache, **options) for _ in range(count)]


def until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


# ------------------------------------------------------------------------------- once


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("processes", [1, 3])
def test_deliveries_at_the_same_time_are_handled_once(threads, method, processes):
    bot = Bot(held=True)
    apps = nodes(bot, Strict(), processes)
    answers = [threads(apps[n % processes], request(method)) for n in range(9)]
    bot.has_begun()
    time.sleep(0.1)
    bot.go.set()
    first = answers[0].result()
    assert first[:2] == says("run 1")
    assert first[2].startswith("smsreply=1.")
    assert [answer.result() for answer in answers] == [first] * 9
    assert bot.runs == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_later_delivery_gets_the_same_bytes_and_the_same_session(processes):
    bot = Bot()
    apps = nodes(bot, Strict(), processes)
    first, *later = [deliver(apps[n % processes]) for n in range(4)]
    assert first[:2] == says("run 1")
    assert first[2]
    assert later == [first] * 3
    assert bot.runs == 1


def test_of_an_answer_that_was_asked_for_again_only_the_answer_is_left(caplog):
    cache = Strict()
    here, there = nodes(Bot(), cache)
    assert deliver(here) == deliver(there)
    assert cache.timeouts == {"c": 15, "t": 15, "a": 3600}
    assert not caplog.messages, "the cache fails"


def test_a_repetition_of_twilios_is_handled_once():
    """As the README has it: Twilio repeats a message if the URL says so."""
    bot = Bot(RuntimeError("once"))
    texter = Texter(app_of(bot))
    texted = texter.text("Hi")
    assert texted.status == 500
    assert [texter.send(texted.fields).reply for _ in range(2)] == ["run 2", "run 2"]
    assert Texter(app_of(bot)).send(texted.fields).reply == "run 3"  # another app's cache


@pytest.mark.parametrize(
    "changed",
    [
        {"MessageSid": "SM" + "1" * 32},
        {"From": "+14017122662"},
        {"Body": "Hello!"},
        {"url": URL + "?shop=2"},
        {"url": URL + "/"},
        {"method": "GET"},
    ],
    ids=["another sid", "sender", "body", "query", "path", "method"],
)
def test_another_request_is_another_message(changed):
    bot = Bot()
    app = app_of(bot)
    assert deliver(app)[:2] == says("run 1")
    assert deliver(app, request(**changed))[:2] == says("run 2")
    assert deliver(app)[:2] == says("run 1")


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_the_fallback_at_the_same_path_gets_the_late_answer_of_the_first_run(method):
    bot = Bot()
    app = app_of(bot)
    failed = {"ErrorCode": "11205", "ErrorUrl": URL}
    assert deliver(app, request(method))[:2] == says("run 1")
    assert deliver(app, request(method, **failed))[:2] == says("run 1")
    assert bot.runs == 1
    assert "ErrorUrl" not in bot.seen[0]


@pytest.mark.parametrize("rest", ["/sms?a=1&", "/sms?ErrorCode=7", "/x&ErrorCode=5", "/x&"])
def test_an_error_code_in_the_webhooks_own_url_is_a_part_of_it(rest):
    bot = Bot()
    app = app_of(bot)
    url = "https://abc.example" + rest
    assert deliver(app, request(url=url))[:2] == says("run 1")
    failed = request(url=url, ErrorCode="11205", ErrorUrl=URL)
    assert deliver(app, failed)[:2] == says("run 1")
    assert deliver(app, request(url=url.replace("ErrorCode=", "Other=") + "1"))[:2] == says("run 2")


def test_a_fallback_without_a_first_run_is_handled_with_its_error():
    bot = Bot()
    assert deliver(app_of(bot), request(ErrorCode="11205", ErrorUrl=URL))[:2] == says("run 1")
    assert bot.seen[0]["ErrorCode"] == "11205"


@pytest.mark.parametrize("rest", ["/", "/sms", "//sms?a=http://b/c", "/?a=/b"])
def test_by_which_name_the_server_was_called_does_not_matter(rest):
    bot = Bot()
    app = app_of(bot)
    for origin in ("https://abc.example", "https://xyz.example", "https://abc.example:8443"):
        assert deliver(app, request(url=origin + rest))[:2] == says("run 1")


def test_without_a_message_sid_nothing_is_remembered():
    bot = Bot()
    cache = Strict()
    app = app_of(bot, cache)
    nameless = {"MessageSid": None, "SmsSid": None}
    assert [deliver(app, **nameless)[:2] for _ in range(2)] == [says("run 1"), says("run 2")]
    assert not cache.timeouts


@pytest.mark.parametrize(
    "failure", [RuntimeError("no"), SystemExit(1), KeyboardInterrupt(), 42], ids=repr
)
def test_a_handler_that_failed_is_run_again_by_the_next_delivery(failure):
    bot = Bot(failure)
    app, other = nodes(bot)
    assert deliver(app)[:2] == FAILED
    assert deliver(other)[:2] == says("run 2")
    assert deliver(app)[:2] == says("run 2")


@slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("end", [RuntimeError("no"), Redirect("/sms")], ids=["fails", "redirects"])
def test_who_waited_gets_what_is_not_kept_and_a_new_delivery_does_not(threads, end, processes):
    bot = Bot(end, held=True)
    apps = nodes(bot, Strict(), processes)
    answers = [threads(apps[0])]
    bot.has_begun()
    answers += [threads(apps[n % processes]) for n in range(5)]
    time.sleep(0.25)  # each has looked into the cache
    bot.go.set()
    ends = {answer.result()[:2] for answer in answers}
    assert len(ends) == 1
    assert ends == {FAILED} or b"<Redirect>/sms</Redirect>" in ends.pop()[1]
    assert bot.runs == 1
    assert [deliver(app)[:2] for app in apps] == [says("run 2")] * processes


def test_an_answer_is_kept_for_an_hour_a_failure_for_who_waits_and_a_claim_for_15_seconds():
    cache = Strict()
    deliver(app_of(Bot(RuntimeError()), cache))
    assert cache.timeouts == {"c": 15, "t": 15, "e": 60}
    deliver(app_of(Bot(), cache))
    assert cache.timeouts == {"c": 15, "t": 15, "e": 60, "a": 3600}


# ------------------------------------------------------------------------------- slow


@pytest.mark.parametrize("method", [pytest.param("POST", marks=slow), "GET"])
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/sms", marks=slow),
        "/sms?shop=%27a%27&x",
        pytest.param("//s%20ms?", marks=slow),
    ],
)
def test_a_slow_handler_is_waited_for_in_rounds(method, target):
    bot = Bot(held=True)
    app = released(app_of(bot, patience=0.2), bot, by=3)
    texter = Texter(app, method=method, target=target)
    texted = texter.text("Hi")
    assert (texted.status, texted.texts, bot.runs) == (200, ["run 1"], 1)
    (_, first), *again = texted.requests
    for round_, (asked, url) in enumerate(again, 1):
        joined = re.escape(first) + ("[?&]" if "?" not in first else "&")
        assert asked == "POST"
        assert re.fullmatch(rf"{joined}smsreply=[0-9a-f]{{64}}\.{round_}", url)
    assert 2 <= len(again) <= 6
    assert b'<Redirect method="POST">/' in texted.answers[0] or "//s" in target
    assert texter.text("Bye").reply == "run 2"  # with the session of the first


def test_it_comes_back_to_the_whole_url_where_the_path_would_name_a_host():
    bot = Bot(held=True)
    url = "https://abc.example//evil.example/sms"
    _, body, _ = deliver(app_of(bot, patience=0), request(url=url))
    assert f'<Redirect method="POST">{url}?smsreply='.encode() in body
    bot.go.set()


def test_the_handler_does_not_see_that_it_came_back(quick):
    """Another node handles it, after the first one died."""
    lost, found = Bot(held=True), Bot()
    cache = Losable()
    here, there = app_of(lost, cache, patience=0.05), app_of(found, cache.inner, patience=5)
    first = call(here, request(url=URL + "?shop=1"))
    target = re.search(rb">/sms(.*?)<", first[2])[1].decode().replace("&amp;", "&")
    cache.lost = True
    assert deliver(there, request(url=URL + target))[:2] == says("run 1")
    lost.go.set()
    [message] = found.seen
    assert message.url == URL + "?shop=1"
    assert message.query == {"shop": "1"}
    assert dict(message) == MESSAGE


def test_by_get_what_says_that_it_came_back_is_no_field():
    bot = Bot()
    environ = request("GET", smsreply="0" * 64 + ".1")
    assert deliver(app_of(bot, patience=5), environ)[:2] == says("run 1")
    assert dict(bot.seen[0]) == bot.seen[0].query == MESSAGE


def test_who_comes_back_to_another_node_gets_the_failure_and_causes_no_second_run():
    bot, cache = Bot(ValueError("no"), held=True), MemoryCache()
    here, there = nodes(bot, cache, patience=0.05)
    first = call(here, request())
    target = re.search(rb">/sms(.*?)<", first[2])[1].decode()
    bot.go.set()
    smsreply.POOL.drain(5)
    assert deliver(there, request(url=URL + target))[:2] == FAILED
    assert bot.runs == 1
    patient = app_of(bot, cache)
    assert deliver(patient)[:2] == says("run 2")  # which is a new delivery


def test_after_six_rounds_it_is_a_500_and_the_log_says_so(caplog):
    bot = Bot(held=True)
    app = app_of(bot, patience=0.02)
    texter = Texter(app)
    texted = texter.text("Hi")
    assert texted.statuses == [200] * 6 + [500]
    assert texted.answers[-1] == FAILED[1]
    assert f"message {texted.fields['MessageSid']} is not answered" in caplog.text
    assert "its handler took over 6 rounds" in caplog.text
    bot.go.set()
    smsreply.POOL.drain(5)
    assert texter.send(texted.fields).reply == "run 1"
    assert bot.runs == 1


def test_a_failure_reaches_the_sender_who_came_back():
    bot = Bot(RuntimeError(), held=True)
    texter = Texter(released(app_of(bot, patience=0.2), bot, by=2))
    texted = texter.text("Hi")
    assert len(texted.requests) > 1
    assert (texted.status, bot.runs) == (500, 1)
    assert texter.send(texted.fields).reply == "run 2"


def test_it_may_come_back_to_another_node():
    bot = Bot(held=True)
    turn = itertools.cycle(nodes(bot, patience=0.2))
    app = released(lambda *wsgi: next(turn)(*wsgi), bot, by=3)
    texted = Texter(app).text("Hi")
    assert (texted.texts, bot.runs) == (["run 1"], 1)
    assert len(texted.requests) > 2


@pytest.mark.parametrize("patience", [0, 0.5, 14.9])
def test_any_patience_below_twilios_limit_will_do(patience):
    assert deliver(app_of(lambda message: None, patience=patience))[0] == "200 OK"


@pytest.mark.parametrize("patience", [-1, 15, 60, float("nan")])
def test_twilios_limit_is_15_seconds(patience):
    with pytest.raises(ValueError, match="Twilio waits for 15 s and no longer"):
        app_of(Bot(), patience=patience)


def test_the_handler_has_the_context_of_its_request():
    variable = contextvars.ContextVar("variable", default="none")
    names = []

    def reply(message):
        names.append(threading.current_thread().name)
        said = variable.get()
        variable.set("of the handler")
        return said

    app = app_of(reply)
    for number in range(3):
        variable.set(f"of request {number}")
        assert deliver(app, MessageSid=f"SM{number}")[:2] == says(f"of request {number}")
    assert variable.get() == "of request 2"
    assert names == ["smsreply"] * 3


# ------------------------------------------------------------------------- the pool's bound


def test_a_message_takes_no_new_thread():
    used = []
    app = app_of(lambda message: used.append(threading.current_thread()))
    for number in range(200):
        deliver(app, MessageSid=f"SM{number}")
    assert len(set(used)) <= 32


def test_of_40_slow_messages_32_are_handled_and_nobody_waits_for_a_thread(threads, caplog):
    bot = Bot(held=True)
    app = app_of(bot, patience=14)
    slow = [threads(app, MessageSid=f"SM{number}") for number in range(40)]
    until(lambda: bot.runs == 32 and sum([answer.done() for answer in slow]) == 8)
    started = time.monotonic()
    fast = deliver(app, MessageSid="SM-fast")
    assert time.monotonic() - started < 1
    assert fast[0] == "503 Service Unavailable"
    assert fast[1] == b"too many messages at once\n"
    assert re.search("message SM-fast.*: 32 messages are being handled", caplog.text)
    again = threads(app, MessageSid=bot.seen[0].sid)  # one that runs is waited for
    time.sleep(0.05)
    bot.go.set()
    assert again.result()[0] == "200 OK"
    statuses = sorted([answer.result()[0] for answer in slow])
    assert statuses == ["200 OK"] * 32 + ["503 Service Unavailable"] * 8
    smsreply.POOL.drain(5)
    assert deliver(app, MessageSid="SM-fast")[0] == "200 OK"
    assert bot.runs == 33


def test_what_was_refused_as_too_much_is_claimed_by_nobody(monkeypatch):
    bot = Bot(held=True)
    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(1))
    here, there = nodes(bot, patience=0.01)
    deliver(here, MessageSid="SM-slow")
    assert deliver(here)[0] == "503 Service Unavailable"
    bot.go.set()
    smsreply.POOL.drain(5)
    assert deliver(there)[0] == "200 OK"


def test_a_message_waits_for_a_thread_until_one_is_free_and_no_longer(monkeypatch):
    monkeypatch.setattr(smsreply.Pool, "WAIT", 10)
    pool, done = smsreply.Pool(1), threading.Event()
    started = time.monotonic()
    pool.submit(lambda: time.sleep(0.05))
    pool.submit(done.set)
    assert done.wait(5)
    assert time.monotonic() - started < 5


def test_draining_says_whether_all_has_ended():
    pool, go = smsreply.Pool(2), threading.Event()
    assert pool.drain(0)
    pool.submit(lambda: go.wait(5))
    assert not pool.drain(0.1)
    go.set()
    assert pool.drain(5)


def test_a_thread_outlives_what_ends_its_work_and_the_log_says_what_did(caplog):
    pool, done = smsreply.Pool(1), threading.Event()

    def work():
        raise SystemExit("enough")

    pool.submit(work)
    pool.submit(done.set)
    assert done.wait(5)
    assert caplog.messages[0].startswith("a thread of the pool goes on after:\n    | Traceback")
    assert caplog.messages[0].endswith("\n    | SystemExit: enough")


def test_a_handler_holds_up_no_process_that_ends():
    daemons = []
    deliver(app_of(lambda message: daemons.append(threading.current_thread().daemon)))
    assert daemons == [True]


def test_where_no_thread_can_be_started_a_message_is_503(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(1))
    bot = Bot()
    app = app_of(bot)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        status, body, _ = deliver(app)
        assert (status, body) == ("503 Service Unavailable", b"too many messages at once\n")
    assert deliver(app)[:2] == says("run 1")


# ---------------------------------------------------------------------- caches that fail


class Broken:
    """A cache of which some methods raise."""

    def __init__(self, *methods):
        self.inner, self.methods = MemoryCache(), methods

    def __getattr__(self, name):
        if name in self.methods:
            raise ConnectionError(f"no {name}\nforged line")
        return getattr(self.inner, name)


def test_a_cache_that_fails_is_a_line_of_the_log_a_second(caplog):
    app = app_of(Bot(), Broken("get"))
    for number in range(5):
        deliver(app, MessageSid=f"SM{number}")
    line = (
        "the cache fails, and messages are answered without it: get raised ConnectionError: no get"
    )
    assert caplog.messages == [line + "\\nforged line"]


class Lying:
    """A cache of which some methods always return the same."""

    def __init__(self, **lies):
        self.inner, self.lies, self.answer = MemoryCache(), lies, None

    def __getattr__(self, name):
        if name in self.lies:
            return lambda *arguments: self.lies[name]
        return self.put if name == "add" else getattr(self.inner, name)

    def put(self, key, value, timeout):
        self.answer = value
        return self.inner.add(key, value, timeout)


@pytest.mark.parametrize(
    "methods",
    [
        ["get", "set", "add", "delete"],
        *(pytest.param([name], marks=slow) for name in ("get", "set", "add", "delete")),
    ],
    ids="+".join,
)
def test_a_cache_that_fails_is_as_good_as_none(threads, caplog, methods):
    bot = Bot(held=True)
    app = app_of(bot, Broken(*methods), patience=5)
    answers = [threads(app) for _ in range(4)]
    bot.has_begun()
    time.sleep(0.3)
    bot.go.set()
    assert {answer.result()[:2] for answer in answers} == {says("run 1")}
    assert deliver(app)[0] == "200 OK"
    failing = app_of(Bot(RuntimeError()), Broken(*methods))  # how it ends is set, and not added
    assert deliver(failing, MessageSid="SM-2")[:2] == FAILED
    assert re.search(
        rf"the cache fails, .*: ({'|'.join(methods)}) raised ConnectionError", caplog.text
    )
    assert "\nforged" not in caplog.text


@slow
def test_a_slow_handler_is_answered_without_a_cache_that_works():
    bot = Bot(held=True)
    app = app_of(bot, Broken("get", "set", "add", "delete"), patience=0.2)
    assert Texter(released(app, bot, by=3)).text("Hi").texts == ["run 1"]


@pytest.mark.parametrize(
    "garbage",
    [
        0, 1, True, "", "abc", b"abc", [], [1, 2, 3], {}, object(), ["200 OK", [], 5],
        ["200 OK", [["one"]], ""], ["200 OK", None, ""], ["200 OK", [], "€"], [None, [], ""],
        ["200 OK", [], "wrong"], ["k", "200 OK", [], "wrong"], ["200 OK", [[1, 2]], "wrong"],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_answer_of_this_message_is_not_sent(caplog, garbage):
    bot = Bot()
    assert deliver(app_of(bot, Lying(get=garbage)))[:2] == says("run 1")
    assert "the cache fails, and messages are answered without it: it has" in caplog.text


@pytest.mark.parametrize(
    "garbage",
    [
        [None, [], ""], [200, [], ""], ["200 OK", None, ""], ["200 OK", [["one"]], ""], ["200 OK", [], 5],
        ["200 OK", [], "€"], ["200 OK", []], ["200 OK", [], "", ""],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_answer_is_not_sent_though_it_has_the_right_key(caplog, garbage):
    class Spoilt(Lying):
        def get(self, key):
            return [key, *garbage]

    assert deliver(app_of(Bot(), Spoilt()))[:2] == says("run 1")
    assert "the cache fails, and messages are answered without it: it has" in caplog.text


def test_a_cache_that_mixes_keys_up_gives_nobody_anothers_answer():
    """redis-py did, in 2023: a connection that lost a reply gave each command the last one's."""
    cache = Lying()
    app = app_of(lambda message: f"for {message.from_}", cache)
    assert deliver(app, From="+14017122661")[:2] == says("for +14017122661")
    cache.lies["get"] = cache.answer
    assert deliver(app, From="+14017122662")[:2] == says("for +14017122662")


@pytest.mark.parametrize("added", [True, False, None, "yes"], ids=repr)
@pytest.mark.parametrize("keeps", [True, False], ids=["keeps", "forgets"])
def test_a_cache_that_lies_about_add_answers_all_the_same(added, keeps, quick, caplog):
    """pymemcache's ignore_exc has a server that is gone refuse all that is added."""
    cache = Lying(add=added, **({} if keeps else {"get": None}))
    bot = Bot()
    texted = Texter(app_of(bot, cache)).text("Hi")
    assert (texted.statuses, bot.runs) == ([200], 1)
    assert ("add says that a key is there, and get finds none" in caplog.text) == (not added)


# ---------------------------------------------------------------------------- two processes


class Losable:
    """One process's way to a cache, which can be cut, or held up: then so is the process."""

    def __init__(self, inner=None):
        self.inner = inner or MemoryCache()
        self.lost, self.moves = False, threading.Event()
        self.moves.set()

    def __getattr__(self, name):
        def command(*arguments):
            self.moves.wait(10)
            if self.lost:
                raise ConnectionError("this process has died")
            return getattr(self.inner, name)(*arguments)

        return command


@slow
def test_a_claim_is_renewed_while_the_handler_runs(quick, threads):
    bot = Bot(held=True)
    here, there = nodes(bot)
    first = threads(here)
    bot.has_begun()
    time.sleep(1)  # the claim alone would last for 0.4 s
    other = threads(there)
    time.sleep(0.1)
    bot.go.set()
    assert first.result() == other.result()
    assert bot.runs == 1


def test_a_claim_and_its_renewals_are_for_15_seconds_and_never_none(threads, monkeypatch):
    """To some caches None is nothing at all."""
    puts = []

    class Watched(MemoryCache):
        def _put(self, key, value, timeout):
            puts.append((key[0], value is None, timeout))
            super()._put(key, value, timeout)

    monkeypatch.setattr(smsreply.Pool, "RENEWAL", 0.02)
    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(32))
    bot = Bot(held=True)
    answer = threads(app_of(bot, Watched()))
    bot.has_begun()
    until(lambda: len(puts) > 3)
    bot.go.set()
    assert answer.result()[:2] == says("run 1")
    assert set(puts) == {("c", False, 15), ("t", False, 15), ("a", False, 3600)}


def test_the_next_delivery_takes_over_from_a_process_that_died(quick, threads):
    dead, alive = Bot(held=True), Bot()
    cache = Losable()
    here, there = app_of(dead, cache, patience=0.1), app_of(alive, cache.inner, patience=5)
    deliver(here)
    cache.lost = True
    started = time.monotonic()
    answers = [threads(there) for _ in range(3)]
    assert {answer.result()[:2] for answer in answers} == {says("run 1")}
    assert 0.2 < time.monotonic() - started < 1
    assert (dead.runs, alive.runs) == (1, 1)
    dead.go.set()


def test_who_waits_for_a_process_that_died_does_not_renew_its_claim(quick, threads):
    dead, slow, alive = Bot(held=True), Bot(held=True), Bot()
    cache = Losable()
    here = app_of(dead, cache, patience=0.05)
    there = app_of(lambda m: (slow if m.sid == "SM-slow" else alive)(m), cache.inner, patience=2)
    held = threads(there, MessageSid="SM-slow")  # whose claim is renewed meanwhile
    slow.has_begun()
    deliver(here)
    cache.lost = True
    assert deliver(there)[:2] == says("run 1")
    slow.go.set()
    assert held.result()[:2] == says("run 1")


@slow
def test_a_process_that_was_paused_gives_the_answer_of_the_one_that_took_over(quick, threads):
    slow, quicker = Bot("from the paused one", held=True), Bot("from the other")
    cache = Losable()
    here, there = app_of(slow, cache, patience=10), app_of(quicker, cache.inner, patience=5)
    paused = threads(here)
    slow.has_begun()
    cache.moves.clear()
    assert deliver(there)[:2] == says("from the other")
    slow.go.set()
    cache.moves.set()
    assert paused.result()[:2] == says("from the other")
    assert deliver(there)[:2] == deliver(here)[:2] == says("from the other")


@slow
def test_a_renewal_that_comes_late_does_not_keep_a_claim_on_what_is_over(quick):
    """Else the retry of a failure waits for nobody, and gets the failure once more."""
    bot = Bot(RuntimeError(), held=True)
    ended = threading.Event()

    class Late(MemoryCache):
        def set(self, key, *rest):
            if key[0] == "c":
                bot.go.set()
                ended.wait(0.3)
            return super().set(key, *rest)

        def delete(self, key):
            if key[0] == "c":
                ended.set()
            return super().delete(key)

    cache = Late()
    app = app_of(bot, cache, patience=2)
    assert deliver(app)[:2] == FAILED
    until(ended.is_set)
    time.sleep(0.05)
    assert deliver(app)[:2] == says("run 2")


def test_how_an_earlier_run_ended_is_not_told_to_a_later_delivery(quick, threads):
    """A second run is just being claimed, and what the first one left is still there."""
    bot = Bot(RuntimeError())
    later = []

    class Slow(Losable):
        def add(self, *arguments):
            added = self.inner.add(*arguments)
            if bot.runs == 1 and not later:
                later.append(threads(there))
                time.sleep(0.2)
            return added

    cache = Slow()
    here, there = app_of(bot, cache, patience=5), app_of(bot, cache.inner, patience=5)
    assert deliver(here)[:2] == FAILED
    assert deliver(here)[:2] == says("run 2")
    assert later[0].result()[:2] == says("run 2")
    assert bot.runs == 2


@slow
def test_many_nodes_many_deliveries_and_no_message_is_handled_twice(threads):
    counts, lock = {}, threading.Lock()

    def reply(message):
        time.sleep(random.random() / 100)
        with lock:
            counts[message.sid] = counts.get(message.sid, 0) + 1
            return f"{message.sid} {counts[message.sid]}"

    apps = nodes(reply, Strict(), 4)
    deliveries = [(f"SM{n}", apps[k]) for n in range(50) for k in (0, 1, 2, 3, 0)]
    for begin in range(0, len(deliveries), 50):
        batch = [(sid, threads(app, MessageSid=sid)) for sid, app in deliveries[begin : begin + 50]]
        for sid, answer in batch:
            assert answer.result()[:2] == says(f"{sid} 1")
    assert set(counts.values()) == {1}
    assert not smsreply.POOL.runs


# ------------------------------------------------------------------------- MemoryCache


@pytest.fixture
def clock(ticks, monkeypatch):
    """The time of day is not asked for, and the other one is set by hand."""
    monkeypatch.setattr(smsreply.time, "time", lambda: pytest.fail("it can be put back"))
    return ticks


def test_of_too_many_entries_the_oldest_make_room():
    cache = MemoryCache(entries=3)
    for key in "abc":
        cache.set(key, key)
    cache.set("c", "c")  # which is not one more
    assert [cache.get(key) for key in "abc"] == ["a", "b", "c"]
    cache.set("a", "again")
    cache.add("d", "d")
    assert [cache.get(key) for key in "abcd"] == ["again", None, "c", "d"]
    for number in range(1000):
        cache.set(str(number), number)
    assert [cache.get(str(number)) for number in (996, 997, 999)] == [None, 997, 999]


def test_a_full_cache_of_any_size_makes_room_as_quickly():
    def seconds(entries):
        cache = MemoryCache(entries)
        for number in range(entries):
            cache.set(str(number), number)
        begun = time.thread_time()
        for number in range(30_000):
            cache.add(f"a{number}", number)
        return time.thread_time() - begun

    assert seconds(50_000) < 5 * seconds(100)


def test_a_value_lasts_for_its_timeout_and_no_longer_than_any(clock):
    cache = MemoryCache(age=100)
    assert (cache.set("short", 1, 10), cache.set("long", 2, 1000), cache.set("none", 3)) == (
        True,
    ) * 3
    for now, kept in ((9.9, [1, 2, 3]), (10, [None, 2, 3]), (99, [None, 2, 3]), (100, [None] * 3)):
        clock[0] = 1000 + now
        assert [cache.get(key) for key in ("short", "long", "none")] == kept


def test_it_keeps_12288_values_for_an_hour_unless_told_otherwise(clock):
    cache = MemoryCache()
    for number in range(12_289):
        cache.set(str(number), number, 10_000)
    assert [cache.get("0"), cache.get("1"), cache.get("12288")] == [None, 1, 12288]
    clock[0] += 3599
    assert cache.get("1") == 1
    clock[0] += 1
    assert cache.get("1") is None


def test_add_takes_what_is_free_or_over(clock):
    cache = MemoryCache()
    assert [cache.add("key", value, 10) for value in (None, 2)] == [True, False]
    assert cache.get("key", "default") is None
    clock[0] += 10
    assert cache.add("key", 3, 10)
    assert cache.get("key") == 3
    assert [cache.delete("key"), cache.delete("key"), cache.get("key", "default")] == [
        True,
        False,
        "default",
    ]


@contextlib.contextmanager
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_add_is_atomic():
    class Watching(MemoryCache):
        def get(self, key, default=None):
            found = super().get(key, default)
            time.sleep(0)  # here another thread may come in
            return found

    cache = Watching()
    start = threading.Barrier(8)

    def add_all(name):
        start.wait()
        return [key for key in range(300) if cache.add(str(key), name)]

    with switching_often(), ThreadPoolExecutor(8) as pool:
        won = [key for keys in pool.map(add_all, range(8)) for key in keys]
    assert sorted(won) == list(range(300))


def test_many_threads_may_use_it():
    cache = MemoryCache(entries=8, age=0.001)

    def use(seed):
        dice = random.Random(seed)
        for _ in range(1000):
            key = dice.choice("abcdefghijkl")
            method = dice.choice(("get", "set", "add", "delete"))
            getattr(cache, method)(key, *(("value",) if method in ("set", "add") else ()))
        return True

    with switching_often(), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


@slow
def test_where_this_process_ends_a_message_is_waited_for_as_long_as_twilio_waits(
    monkeypatch, threads, caplog
):
    monkeypatch.setattr(Memory, "LONGEST", 0.6)
    monkeypatch.setattr(smsreply.POOL, "ends", True)
    quick, slow = Bot(held=True), Bot(held=True)
    answered = threads(app_of(quick, patience=0.1))
    quick.has_begun()
    time.sleep(0.3)
    quick.go.set()
    assert answered.result(5)[:2] == says("run 1")
    assert not caplog.messages
    assert b"<Redirect" in threads(app_of(slow, patience=0.1)).result(5)[1]
    [line] = caplog.messages
    assert line.startswith(
        f"message {MESSAGE['MessageSid']}: this process is ending, and its handler"
    )


class Unruly(Exception):
    """An exception that has of its own what others have of Python's."""

    def __init__(self, exceptions):
        super().__init__("unruly")
        self.exceptions = exceptions


class Worse(Exception):
    @property
    def exceptions(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "error",
    [Unruly(None), Unruly(["quota"]), Unruly(5), Unruly(("a",)), Worse()],
    ids=lambda e: type(e).__name__,
)
def test_no_exception_of_a_handlers_takes_a_thread_from_the_pool(error, monkeypatch, caplog):
    monkeypatch.setattr(smsreply, "POOL", smsreply.Pool(1))
    app = app_of(Bot(error, error, error))
    for run in (1, 2, 3):
        assert deliver(app, MessageSid=f"SM{run}")[:2] == FAILED
        assert f"message SM{run} is not answered: its handler failed" in caplog.text
        assert "raise then" in caplog.text  # where it was raised
    assert type(error).__name__ in caplog.text
    assert deliver(app, MessageSid="SM4")[:2] == says("run 4")


def test_a_log_that_raises_takes_no_thread_from_the_pool(monkeypatch):
    pool, done = smsreply.Pool(1), threading.Event()
    monkeypatch.setattr(smsreply.log, "error", None)
    pool.submit(lambda: 1 / 0)
    pool.submit(done.set)
    assert done.wait(5)


def test_a_thread_that_rests_keeps_nothing_of_its_last_message():
    class Work:
        def __call__(self):
            done.set()

    pool, done, work = smsreply.Pool(1), threading.Event(), Work()
    gone = weakref.ref(work)
    pool.submit(work)
    del work
    assert done.wait(5)
    assert pool.drain(5)
    assert gone() is None


def test_a_pool_has_all_the_threads_it_may_have():
    pool, go = smsreply.Pool(2), threading.Event()
    for _ in range(2):
        pool.submit(lambda: go.wait(5))
    with pytest.raises(smsreply.Refused, match="too many messages"):
        pool.submit(go.set)
    go.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_answers_though_its_parent_had_messages_before():
    app = app_of(Bot(), patience=2)
    assert deliver(app, MessageSid="SM1")[:2] == says("run 1")
    child = os.fork()
    if not child:
        answered = deliver(app, MessageSid="SM2")[:2] == says("run 2")
        threads = [thread.name for thread in threading.enumerate()].count("smsreply")
        os._exit(0 if answered and threads == 2 else 1)  # one handles, and one renews
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_that_ends_the_process_is_no_failure_of_the_cache():
    class Ended(MemoryCache):
        def add(self, key, value, timeout=None):
            raise SystemExit(7)  # what a signal's handler raises in the midst of a call

    with pytest.raises(SystemExit):
        deliver(app_of(Bot(), Ended()))


def test_whatever_a_cache_raises_counts_as_a_failure(caplog):
    class Timeout(BaseException):
        """gevent's is no Exception."""

    class Slow(MemoryCache):
        def get(self, key, default=None):
            raise Timeout("too late")

    assert deliver(app_of(Bot(), Slow()))[:2] == says("run 1")
    assert "raised Timeout: too late" in caplog.text


def test_each_delivery_is_shown_with_its_answer(caplog):
    caplog.set_level("DEBUG")
    app = app_of(Bot())
    for _ in range(2):
        assert deliver(app)[:2] == says("run 1")
    shown = [line for line in caplog.messages if line.startswith("Answered ")]
    number = MESSAGE["From"]
    assert shown == [f"Answered {number} with: <Response><Message>run 1</Message></Response>"] * 2


def change(message):
    """Do what a handler may do with what it was given: normalise a number, say."""
    message["From"] = message["To"] = "+1"
    message.url = ""
    message.pop("MessageSid")
    message.query.clear()


def test_a_handler_may_change_its_message():
    def reply(message):
        message.session["step"] = message.session.get("step", 0) + 1
        step = message.session["step"]
        change(message)
        return str(step)

    for app in (app_of(reply), App(reply, auth_token=TOKEN)):
        texter = Texter(app)
        assert [texter.text(text).reply for text in ("a", "b", "c")] == ["1", "2", "3"]


def test_a_handler_may_change_its_message_and_be_waited_for():
    def reply(message):
        change(message)
        time.sleep(0.3)
        return "done"

    texted = Texter(app_of(reply, patience=0.1)).text("Hi")
    assert len(texted.requests) > 1
    assert texted.reply == "done"


def test_a_key_gives_nobody_elses_answer():
    slow = Bot("for the first alone", held=True)
    app = app_of(slow, patience=0.05)
    first = deliver(app)
    key = re.search(r"smsreply=([0-9a-f]{64})\.1", first[1].decode())[1]
    slow.go.set()
    assert smsreply.POOL.drain(5)
    url = f"{URL}?smsreply={key}.1"
    assert deliver(app, request(url=url))[:2] == says("for the first alone")
    for name in ("AccountSid", "From", "To", "MessageSid"):
        other = {name: MESSAGE[name] + "1"}
        assert b"for the first alone" not in deliver(app, request(url=url, **other))[1]


FORKS = """
import os, sys, threading, time
import smsreply

cache = smsreply.MemoryCache()

def busy():
    while True:
        cache.set("key", "x" * 1000)
        cache.add("another", 1)

for _ in range(4):
    threading.Thread(target=busy, daemon=True).start()
for number in range(100):
    child = os.fork()
    if not child:
        os._exit(not cache.set("child", 1))
    until = time.monotonic() + 10
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, 9)
            sys.exit(f"child {number} hangs")
        time.sleep(0.001)
    assert done[1] == 0, done
"""


@slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_no_child_waits_for_a_thread_that_its_parent_had():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_message_takes_four_calls_of_the_cache_and_a_later_delivery_two():
    made = []

    class Counted:
        def __init__(self, cache):
            self.cache = cache

        def __getattr__(self, name):
            made.append(name)
            return getattr(self.cache, name)

    app = app_of(Bot(), Counted(MemoryCache()))
    deliver(app)
    assert made == ["add", "get", "add", "add"]
    made.clear()
    deliver(app)
    assert made == ["add", "get"]
