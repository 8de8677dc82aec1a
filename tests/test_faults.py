"""Safe: what breaks is answered with a 5xx that Twilio acts on, and never with silence."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import parse_qsl

import pytest
from conftest import PYTHON, ROOT, free_port, slow, wait_for_port
from oracles import SID, SMS, TOKENS, check_answer, sign
from texter import Texter

import smsreply

TOKEN = TOKENS[0]
FORM = "application/x-www-form-urlencoded"
FAILED = "500 Internal Server Error"


def call(app, sid=SID):
    """Return the status and the body that *app* answers with to an unsigned message."""
    body, started = f"From=a&To=b&MessageSid={sid}".encode(), []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/sms", "HTTP_HOST": "abc.example"}
    environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    environ["wsgi.url_scheme"] = "https"
    answer = b"".join(app(environ, lambda *args: started.append(args)))
    check_answer(*started[0], answer)
    return started[0][0], answer.decode()


def app_of(reply, **options):
    return smsreply.App(reply, verify=False, **options)


def in_thread(function, *args):
    results = []

    def run():
        try:
            results.append(function(*args))
        except (OSError, http.client.HTTPException) as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


# ---------------------------------------------------------------------- the handler


def recurse(depth=0):
    return recurse(depth + 1)


class Timeout(BaseException):
    """As gevent's and eventlet's: no Exception."""


FAULTS = [SystemExit, SystemExit(0), MemoryError, RecursionError, TimeoutError, StopIteration]
FAULTS += [asyncio.CancelledError, Timeout("\n\x1b[31m"), BrokenPipeError, ValueError("\nERROR")]


@pytest.mark.parametrize("cache", [None, smsreply.MemoryCache()], ids=["no cache", "cache"])
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_handler_that_raises_whatever_it_is_gets_500_and_a_line_with_the_sid(
    fault, cache, caplog
):
    def reply(message):
        raise fault

    sid = f"SM{FAULTS.index(fault):032x}"
    assert call(app_of(reply, cache=cache), sid)[0] == FAILED
    assert f"message {sid} is not answered" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_handler_that_fills_the_stack_or_the_memory_gets_500_and_the_next_one_an_answer(caplog):
    faults = [recurse, lambda: bytearray(1 << 60), lambda: "fine"]
    app = app_of(lambda message: faults.pop(0)())
    assert [call(app)[0] for _ in range(3)] == [FAILED, FAILED, "200 OK"]
    assert caplog.text.count(f"message {SID} is not answered") == 2


class Hostile(Exception):
    """An exception whose every method raises."""

    def fail(self, *args):
        raise ValueError("on purpose")

    __bool__ = __str__ = __repr__ = __eq__ = __len__ = fail
    __hash__ = None
    exceptions = property(fail)


@pytest.mark.parametrize("cache", [None, smsreply.MemoryCache()], ids=["no cache", "cache"])
def test_an_exception_that_raises_itself_costs_no_answer(cache, caplog):
    def reply(message):
        raise Hostile

    assert call(app_of(reply, cache=cache))[0] == FAILED
    assert f"message {SID} is not answered: its handler failed" in caplog.text
    assert "Hostile" in caplog.text


@slow
def test_ctrl_c_in_a_servers_thread_is_a_failure_like_any_other(serve, tmp_path):
    port = free_port()
    process = serve(port)
    assert post(port, "interrupt")[0] == 500
    assert f"message {SID} is not answered" in (tmp_path / "errors").read_text()
    process.terminate()
    assert process.wait(10) in (0, -signal.SIGTERM)


@slow
def test_a_handler_that_hangs_is_asked_for_in_rounds_and_then_given_up(caplog):
    over = threading.Event()
    app = app_of(
        lambda message: over.wait(20) and None, cache=smsreply.MemoryCache(), patience=0.05
    )
    texted = Texter(app).text("hello")
    over.set()
    assert texted.statuses == [200] * 6 + [500]
    assert not texted.texts
    assert f"message {texted.fields['MessageSid']} is not answered" in caplog.text


# ------------------------------------------------------------------------ the cache


class Cache:
    """A cache whose methods do *what*: raise it, call it, or return it."""

    def __init__(self, what):
        self.what = what

    def __getattr__(self, name):
        def method(*args):
            if isinstance(self.what, BaseException):
                raise self.what
            return self.what(name) if callable(self.what) else self.what

        return method


LIES = [True, False, 1, "abc", b"abc", [], [1, 2, 3], [None, [], ""], [200, [], "forged"]]
LIES += [{"a": 1, "b": 2, "c": 3}, ["200 OK", ["ab", "abc"], "x"], ["200 OK", [], "\ud800"]]


@pytest.mark.parametrize("what", [*LIES, ConnectionError("\x1b[31m\n"), MemoryError()], ids=repr)
def test_a_cache_that_raises_or_lies_or_is_gone_still_lets_the_message_be_answered(what, caplog):
    app = app_of(lambda message: "fine", cache=Cache(what), patience=0.3)
    status, body = call(app)
    # Who claims that somebody else handles the message is asked again, in rounds.
    assert status == "200 OK" and ("fine" in body or "<Redirect" in body)
    assert "forged" not in body and "\x1b" not in caplog.text


def test_a_cache_that_breaks_while_the_handler_runs_changes_nothing(caplog):
    cache = smsreply.MemoryCache()

    def reply(message):
        cache.set = cache.get = cache.delete = None
        return "fine"

    assert "fine" in call(app_of(reply, cache=cache))[1]
    assert "the cache fails" in caplog.text


WITHOUT_THREADS = """
import threading, smsreply
from conftest import MESSAGE, call, make_environ

app = smsreply.App(lambda message: "fine", verify=False, cache=smsreply.MemoryCache())
start = threading.Thread.start

def none_left(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = none_left
print(call(app, make_environ(MESSAGE))[0])
threading.Thread.start = start
print(call(app, make_environ(MESSAGE))[0])
"""


def test_messages_are_answered_again_after_a_moment_without_threads():
    done = subprocess.run(
        [PYTHON, "-c", WITHOUT_THREADS], env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["503 Service Unavailable", "200 OK"], done.stderr


def test_a_burst_of_messages_is_answered_though_there_are_more_than_threads():
    app = app_of(lambda message: time.sleep(0.01), cache=smsreply.MemoryCache())
    calls = [in_thread(call, app, f"SM{number:032x}") for number in range(64)]
    for thread, _ in calls:
        thread.join(20)
    assert {results[0][0] for _, results in calls} == {"200 OK"}


# ----------------------------------------------------------------- a server, for real


BOT = """
import sys, time
def reply(message):
    if message.body == "slow":
        open("started", "w").close()
        time.sleep(1.5)
    if message.body == "interrupt":
        raise KeyboardInterrupt
    if message.body == "print":
        print("x" * 100_000, flush=True)
    return "fine"
"""


def post(port, body="hi", sid=SID, timeout=20):
    """Send a signed message to the server at *port*; return the status and the answer."""
    form = SMS.replace(SID, sid) + f"&Body={body}"
    fields = "".join([n + v for n, v in sorted(set(parse_qsl(form, keep_blank_values=True)))])
    signature = sign(TOKEN, f"http://127.0.0.1:{port}/sms{fields}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Content-Type": FORM, "X-Twilio-Signature": signature}
        connection.request("POST", "/sms", form, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a production server, in a folder of its own."""
    pytest.importorskip("waitress")
    started = []

    def start(port, *, stdout=subprocess.DEVNULL, program=None):
        (tmp_path / "bot.py").write_text(BOT)
        command = ["-m", "smsreply", "serve", "bot:reply", "--production", "--port", str(port)]
        environ = {**os.environ, "TWILIO_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        with (tmp_path / "errors").open("ab") as errors:
            process = subprocess.Popen(
                [PYTHON, "-c", program] if program else [PYTHON, *command, "--host", "127.0.0.1"],
                cwd=tmp_path, env=environ, stdout=stdout, stderr=errors,
            )  # fmt: skip
        started.append(process)
        wait_for_port(port, process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(20)
        if process.stdout:
            process.stdout.close()


def wait_for_file(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@slow
def test_sigterm_lets_a_message_be_answered_and_takes_no_more(serve, tmp_path):
    port = free_port()
    process = serve(port)
    thread, results = in_thread(post, port, "slow")
    wait_for_file(tmp_path / "started")
    process.terminate()
    thread.join(20)
    assert results[0][0] == 200 and "fine" in results[0][1]
    assert process.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(ConnectionRefusedError):
        post(port)


@slow
def test_sigkill_ends_the_connection_at_once_and_the_retry_is_answered(serve, tmp_path):
    port = free_port()
    process = serve(port)
    thread, results = in_thread(post, port, "slow")
    wait_for_file(tmp_path / "started")
    killed = time.monotonic()
    process.kill()
    thread.join(20)
    assert isinstance(results[0], (OSError, http.client.HTTPException))
    assert time.monotonic() - killed < 1  # no 15 s for Twilio to wait
    process.wait(20)
    serve(port)
    assert post(port, "slow")[0] == 200


def test_a_handler_that_writes_to_a_closed_stdout_is_answered_with_500(serve, tmp_path):
    port = free_port()
    process = serve(port, stdout=subprocess.PIPE)
    process.stdout.close()
    assert post(port, "print")[0] == 500
    assert post(port, "hi", sid=SID.replace("0", "f"))[0] == 200
    assert f"message {SID} is not answered" in (tmp_path / "errors").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
def test_a_full_disk_under_the_log_loses_the_log_and_no_message(serve, tmp_path):
    port = free_port()
    program = f"""
import logging, waitress, bot, smsreply
logging.basicConfig(filename="/dev/full", level=logging.DEBUG)
waitress.serve(smsreply.App(bot.reply, cache=smsreply.MemoryCache()), listen="127.0.0.1:{port}")
"""
    serve(port, program=program)
    assert post(port)[0] == 200
    assert "No space left on device" in (tmp_path / "errors").read_text()


def test_who_leaves_or_sends_no_body_holds_up_nobody(serve):
    port = free_port()
    serve(port)
    head = f"POST /sms HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 500\r\n\r\nFrom"
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for connection in silent:
        connection.sendall(head.encode())
    started = time.monotonic()
    assert post(port)[0] == 200
    for connection in silent:
        connection.close()
    assert post(port, "again", sid=SID.replace("0", "e"))[0] == 200
    assert time.monotonic() - started < 5
