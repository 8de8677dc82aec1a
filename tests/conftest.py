"""What several test files need: real messages, environs, and servers on free ports."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import smsreply

# A job behind a shell's "&" ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And behind nohup a SIGHUP.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
# What takes long is left to .ci/run, and to whoever asks for it.
slow = pytest.mark.skipif(
    not os.environ.get("SMSREPLY_SLOW"), reason="takes long: set SMSREPLY_SLOW=1"
)
TOKEN = "12345"
SID = "SM0123456789abcdef0123456789abcdef"
MESSAGE = {
    "ToCountry": "US",
    "ToState": "CA",
    "SmsMessageSid": SID,
    "NumMedia": "0",
    "ToCity": "SAUSALITO",
    "FromZip": "",
    "SmsSid": SID,
    "FromState": "CA",
    "SmsStatus": "received",
    "FromCity": "",
    "Body": "Hello & <b>café</b> 😀 it’s 100%+1",
    "FromCountry": "US",
    "To": "+15558675310",
    "ToZip": "94965",
    "NumSegments": "1",
    "MessageSid": SID,
    "AccountSid": "AC0123456789abcdef0123456789abcdef",
    "From": "+14017122661",
    "ApiVersion": "2010-04-01",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """No variable of the developer's own decides what a test sees."""
    for name in ("TWILIO_AUTH_TOKEN", "PORT", "SMSREPLY_PUBLIC_URL", "SMSREPLY_HANDLER"):
        monkeypatch.delenv(name, raising=False)


def make_environ(body=b"", method="POST", **more):
    """Return an environ of PEP 3333's, by default for an unsigned POST to /sms."""
    if isinstance(body, dict):
        body = urlencode(body).encode()
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/sms",
        "QUERY_STRING": "",
        "HTTP_HOST": "abc.example",
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
    }
    if method == "POST":
        environ.update(CONTENT_LENGTH=str(len(body)), CONTENT_TYPE=smsreply.FORM_TYPE)
    setup_testing_defaults(environ)
    environ.update(more)
    return {name: value for name, value in environ.items() if value is not None}


def call(app, environ, *, validate=True):
    """Return the status, headers and body of *app*'s answer, checked by wsgiref.validate."""
    got = []

    def start_response(status, headers, exc_info=None):
        got.extend((status, dict(headers)))
        return lambda data: None

    result = (validator(app) if validate else app)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    return got[0], got[1], body


def free_port():
    """Return a port that is free, and none of those that the system gives to clients."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            return probe.getsockname()[1]


def wait_for_port(port, process=None, seconds=20, host="127.0.0.1"):
    for _ in range(20 * seconds):  # and no deadline: the whole machine may stand still
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at port {port}")


@contextlib.contextmanager
def running(*command, port, env=None, cwd=None, host="127.0.0.1"):
    """Run *command*, a server, until the block ends; yield the process, whose output is read."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TWILIO_", "SMSREPLY_"))}
    environ.update({"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})})
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        cwd=cwd,
    )
    try:
        wait_for_port(port, process, host=host)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def bot(tmp_path):
    """Write a bot's file; return a function that does, and its folder."""

    def write(source, name="bot.py"):
        file = tmp_path / name
        file.write_text(source)
        return file

    return write


PYTHON = sys.executable
