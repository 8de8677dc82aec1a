"""The hosts of examples/hosts: each is started, and sent what Twilio sends, over a real socket.

    SMSREPLY_HOSTS_TABLE=hosts.md pytest tests/test_hosts.py     # writes what each one did

A host that is not installed is skipped.  What one does that its neighbours do not is said
in `hosts_table`, and so tested.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from conftest import MESSAGE, ROOT, SID, TOKEN, free_port, slow, wait_for_port
from hosts_table import EXAMPLES, FILES, HOSTS, WORKERS, Host, filled_in

import smsreply

PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
ROWS = "signed", "forged", "mount", "query", "session", "chunked", "large", "longest GET", "stop"
RESULTS: dict[str, dict[str, str]] = {}


class Answer(NamedTuple):
    status: int
    type: str
    body: bytes
    cookie: str

    @property
    def text(self):
        return ElementTree.fromstring(self.body).findtext("Message")


@dataclass
class Served:
    """A host that runs, and how Twilio knows it."""

    name: str
    host: Host
    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self):
        return self.host.url.format(port=self.port)

    def tell(self, row, result):
        RESULTS.setdefault(self.name, {})[row] = str(result)

    def deliver(
        self,
        target="/shop/sms",
        *,
        method="POST",
        fields=MESSAGE,
        token=TOKEN,
        cookie="",
        chunked=False,
    ):
        """Send a message as Twilio would; return the answer."""
        if method == "GET":
            target += ("&" if "?" in target else "?") + urlencode(fields)
        signed = fields if method == "POST" else {}
        signature = smsreply.RequestValidator(token).compute_signature(self.url + target, signed)
        body = urlencode(fields).encode() if method == "POST" else b""
        headers = {
            "Host": urlsplit(self.url).netloc,
            "X-Twilio-Signature": signature,
            **({"Cookie": cookie} if cookie else {}),
            **({"Content-Type": smsreply.FORM_TYPE} if method == "POST" else {}),
            **self.host.headers,
        }
        if self.host.event:
            return self.invoke(method, target, body, headers)
        return self.send(method, target, body, headers, chunked=chunked)

    def send(self, method, target, body, headers, *, chunked):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if self.host.files.get("nginx.conf"):
            context = ssl.create_default_context(cafile=self.folder / "certificate.pem")
            connection = http.client.HTTPSConnection(
                "localhost", self.port, timeout=20, context=context
            )
        if method == "POST":
            length = {"Content-Length": str(len(body))}
            headers = {**headers, **({"Transfer-Encoding": "chunked"} if chunked else length)}
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            # A server may refuse before it has read all; then its answer counts.
            with contextlib.suppress(ConnectionError):
                connection.endheaders(body or None, encode_chunked=chunked)
            response = connection.getresponse()
            cookie = response.getheader("Set-Cookie", "").partition(";")[0]
            return Answer(
                response.status, response.getheader("Content-Type"), response.read(), cookie
            )

    def invoke(self, method, target, body, headers):
        """Call the handler with the event that API Gateway makes of the request."""
        path, _, query = target.partition("?")
        headers = {**headers, "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"}
        if self.host.event != "v2":
            values: dict[str, list[str]] = {}
            pairs = parse_qsl(query, keep_blank_values=True)
            if self.host.event == "elb":  # which does not decode them
                pairs = [tuple(part.partition("=")[::2]) for part in query.split("&") if part]
            for name, value in pairs:
                values.setdefault(name, []).append(value)
            event = {
                "httpMethod": method,
                "path": path,
                "multiValueHeaders": {name: [value] for name, value in headers.items()},
                "multiValueQueryStringParameters": values or None,
                "requestContext": {"elb": {}} if self.host.event == "elb" else {"stage": "prod"},
                "body": body.decode(),
                "isBase64Encoded": False,
            }
        else:
            cookies = headers.pop("Cookie", "")
            http_ = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4"}
            event = {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": query,
                "headers": {name.lower(): value for name, value in headers.items()},
                "requestContext": {"stage": "$default", "http": http_},
                "body": base64.b64encode(body).decode(),
                "isBase64Encoded": True,
                **({"cookies": [cookies]} if cookies else {}),
            }
        program = "import handler, json; print(json.dumps(handler.lambda_handler(json.loads(input()), None)))"
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env=environment(self.folder),
            input=json.dumps(event).encode(),
            capture_output=True,
            check=True,
        )
        got = json.loads(result.stdout)
        headers = {n: v[-1] for n, v in got["multiValueHeaders"].items()}
        headers = {name.lower(): value for name, value in headers.items()}
        cookie = (got.get("cookies") or [headers.get("set-cookie", "")])[0].partition(";")[0]
        return Answer(got["statusCode"], headers["content-type"], got["body"].encode(), cookie)


def installed(need):
    if need.startswith("/"):
        return Path(need).exists()
    return shutil.which(need, path=PROGRAMS) or importlib.util.find_spec(need)


def environment(folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TWILIO_", "SMSREPLY_"))}
    fixed = {"PATH": PROGRAMS, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    return {**kept, **fixed, "TWILIO_AUTH_TOKEN": TOKEN, **more}


def launch(command, folder, **more):
    """Start *command* in *folder* as the leader of a process group."""
    words = shlex.split(command)
    if words[0] in ("smsreply", "python3"):
        words[:1] = [sys.executable] + (["smsreply.py"] if words[0] == "smsreply" else [])
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            words,
            cwd=folder,
            env=environment(folder, **more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def gone(process, seconds):
    """Return whether the process, and all that it started, ends within *seconds*."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return True
        time.sleep(0.02)
    return False


def stop(process):
    process.terminate()
    if not gone(process, 5):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_folder(tmp_path_factory, files):
    """Return a folder with smsreply.py, bot.py and *files*."""
    folder = tmp_path_factory.mktemp("host")
    for readable in (folder, folder.parent, folder.parent.parent):
        readable.chmod(0o755)  # Apache's processes are another user's
    shutil.copy(ROOT / "smsreply.py", folder)
    for name, text in {**FILES, **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module", params=HOSTS)
def served(request, tmp_path_factory):
    host = HOSTS[request.param]
    missing = [need for need in host.needs if not installed(need)]
    if missing:
        RESULTS[request.param] = dict.fromkeys(ROWS, "not installed")
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = make_folder(tmp_path_factory, {})
    places = {"folder": folder, "port": free_port(), "back": free_port()}
    for name, text in host.files.items():
        (folder / name).write_text(filled_in(text, places))
    if "openssl" in host.needs:
        make_certificate(folder)
    served = Served(request.param, host, folder, places["port"])
    try:
        for command in host.commands.splitlines():
            served.processes.append(launch(filled_in(command, places), folder))
            wait_for_port(places["back" if "{back}" in command else "port"], served.processes[-1])
        yield served
    finally:
        for process in served.processes:
            stop(process)


def make_certificate(folder):
    names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = "-keyout key.pem -out certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes {files} {names}"
    subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def table():
    """Write what each host did to the file that SMSREPLY_HOSTS_TABLE names."""
    yield
    file = os.environ.get("SMSREPLY_HOSTS_TABLE")
    if file:
        lines = [("host", *ROWS), ["---"] * (1 + len(ROWS))]
        lines += [
            (name, *[done.get(row, "failed") for row in ROWS]) for name, done in RESULTS.items()
        ]
        Path(file).write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_signed_message_is_answered(served, method):
    answer = served.deliver(method=method)
    assert (answer.status, answer.type) == (200, "text/xml; charset=utf-8"), answer.body
    assert answer.text.startswith(f"{served.url}/shop/sms")
    assert answer.text.endswith(f"{MESSAGE['Body']} 1")
    served.tell("signed", 200)


def test_a_forged_message_is_refused(served):
    answer = served.deliver(token="another")
    assert (answer.status, answer.body) == (403, b"this was not signed by Twilio\n")
    served.tell("forged", 403)


def test_the_path_is_the_one_that_twilio_signed(served):
    target = "/shop/caf%C3%A9%20a:b@c"
    answer = served.deliver(target)
    assert answer.status == 200, answer.body
    assert answer.text == f"{served.url}{target} {MESSAGE['Body']} 1"
    served.tell("mount", served.host.mount)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_the_query_is_the_one_that_twilio_signed(served, method):
    target = "/shop/sms?shop=%27a%27&x=a%20b+c&y=%2b%2B&z&shop=(2)"
    answer = served.deliver(target, method=method)
    assert answer.status == served.host.query, answer.body
    if answer.status == 200:
        assert answer.text.startswith(served.url + target)
    served.tell("query", answer.status)


def test_a_query_as_most_programs_spell_it_is_accepted_everywhere(served):
    for target in ("/shop/sms?shop=it%27s&x=a%20b", "/shop/sms?shop=(2)&x=a+b%2B"):
        assert served.deliver(target).status == 200


def test_the_session_comes_back(served):
    first = served.deliver(fields={**MESSAGE, "MessageSid": SID[:-1] + "a"})
    second = served.deliver(fields={**MESSAGE, "MessageSid": SID[:-1] + "b"}, cookie=first.cookie)
    assert second.text.endswith(" 2")
    # A cookie as large as they may be, with a message as large as they may be.
    cookie = "smsreply=" + "x" * (smsreply.Sessions.MAX_COOKIE - len("smsreply="))
    longest = "\N{SNOWMAN}\N{PILE OF POO}" * 533
    third = served.deliver(fields={**MESSAGE, "Body": longest}, cookie=cookie)
    assert third.status == 200, third.body
    served.tell("session", "4 kB")


def test_a_chunked_body_is_decoded_or_refused(served):
    if served.host.chunked is None:
        served.tell("chunked", "–")
        return
    answer = served.deliver(chunked=True)
    assert answer.status == served.host.chunked, answer.body
    served.tell("chunked", answer.status)


def test_a_body_over_64_kib_is_refused(served):
    answer = served.deliver(fields={**MESSAGE, "Pad": "x" * smsreply.MAX_BODY})
    # waitress refuses by the length alone, which nginx may take for a lost connection.
    behind_nginx = served.host.large == "host" and len(served.processes) == 2
    assert answer.status in ((413, 502) if behind_nginx else (413,))
    by = "App" if answer.body == b"the body is longer than 65536 bytes\n" else "host"
    assert by == served.host.large
    served.tell("large", f"413 by {by}")


def test_the_longest_message_can_come_by_get(served):
    if served.host.longest is None:
        served.tell("longest GET", "–")
        return
    answer = served.deliver(method="GET", fields={**MESSAGE, "Body": "\N{SNOWMAN}" * 1600})
    assert answer.status == served.host.longest, answer.body
    served.tell("longest GET", answer.status)


@slow
def test_sigterm_ends_it(served):
    """It is the last test of its host."""
    if served.host.stop is None:
        served.tell("stop", "–")
        return
    answers = []

    def deliver():
        try:
            answers.append(served.deliver("/shop/sms?sleep=0.7").status)
        except (OSError, http.client.HTTPException) as error:
            answers.append(type(error).__name__)

    in_flight = threading.Thread(target=deliver)
    in_flight.start()
    time.sleep(0.3)
    served.processes[0].terminate()
    ended = gone(served.processes[0], 8)
    in_flight.join()
    assert ended, (served.folder / "log").read_text()
    stop = "answers what is in flight" if answers == [200] else "ends at once"
    assert stop == served.host.stop, answers
    served.tell("stop", stop)


# ---------------------------------------------------------------------------- Workers


@pytest.fixture
def workers(tmp_path_factory):
    """Two processes of gunicorn's, each of which handles one message at a time."""
    if not installed("gunicorn"):
        pytest.skip("not installed: gunicorn")
    folder = make_folder(tmp_path_factory, {"workers.py": WORKERS})
    port = free_port()
    served = Served("workers", Host(""), folder, port)
    command = f"gunicorn --workers 2 --bind 127.0.0.1:{port} workers:application"
    served.processes.append(launch(command, folder))
    wait_for_port(port, served.processes[0])
    yield served
    stop(served.processes[0])


def at_once(served, target, *messages, cookie=""):
    """Deliver all the *messages* at once; return the process and the count of each reply."""
    answers = []

    def deliver(fields):
        answers.append(served.deliver(target, fields=fields, cookie=cookie))

    threads = [threading.Thread(target=deliver, args=[fields]) for fields in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [tuple(answer.text.split()) for answer in answers], answers[0].cookie


def test_a_session_goes_on_in_another_worker(workers):
    one, two = ({**MESSAGE, "MessageSid": SID[:-1] + last} for last in "12")
    [(_, count)], cookie = at_once(workers, "/alone", MESSAGE)
    assert count == "1"
    answers, _ = at_once(workers, "/alone", one, two, cookie=cookie)
    assert len({process for process, _ in answers}) == 2
    assert [count for _, count in answers] == ["2", "2"]


def test_workers_that_share_no_cache_both_handle_a_message_delivered_twice(workers):
    answers, _ = at_once(workers, "/alone", MESSAGE, MESSAGE)
    assert len({process for process, _ in answers}) == 2


def test_workers_that_share_a_cache_handle_a_message_once(workers):
    answers, _ = at_once(workers, "/shared", MESSAGE, MESSAGE)
    assert len(answers) == 2
    assert len(set(answers)) == 1


# -------------------------------------------------------------------------- Platforms

PROCFILE, UNIT, DOCKERFILE = [
    (EXAMPLES / name).read_text() for name in ("Procfile", "smsreply.service", "Dockerfile")
]
COMMANDS = {
    "Procfile": PROCFILE.partition("web: ")[2].strip(),
    "systemd unit": UNIT.partition("ExecStart=/srv/bot/venv/bin/")[2].partition("\n")[0],
    "Dockerfile": shlex.join(json.loads(DOCKERFILE.partition("CMD ")[2])),
}


@slow
@pytest.mark.parametrize("platform", COMMANDS)
def test_a_platforms_command_serves_at_port_and_ends_well(platform, tmp_path_factory):
    pytest.importorskip("waitress")
    port = free_port()
    url = "https://abc.example"
    served = Served(platform, Host("", url=url), make_folder(tmp_path_factory, {}), port)
    command = re.sub("[$]{?SMSREPLY_PUBLIC_URL}?", url, COMMANDS[platform])
    assert platform != "Dockerfile" or f"ENV SMSREPLY_PUBLIC_URL={url}" in DOCKERFILE
    process = launch(command, served.folder, PORT=str(port), SMSREPLY_PUBLIC_URL=url)
    wait_for_port(port, process)
    assert served.deliver("/sms").status == 200
    process.terminate()
    assert gone(process, 5)
    assert process.returncode == 0


def test_systemd_understands_the_unit(tmp_path):
    if not installed("systemd-analyze"):
        pytest.skip("not installed: systemd-analyze")
    unit = tmp_path / "smsreply.service"
    unit.write_text(UNIT.replace("/srv/bot/venv/bin/smsreply", sys.executable))
    result = subprocess.run(
        ["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True
    )
    assert "smsreply.service" not in result.stderr
    assert result.returncode == 0, result.stderr


def test_the_hosts_logging_configuration_decides(tmp_path):
    program = tmp_path / "host.py"
    program.write_text(
        """
import logging, logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "formatters": {"f": {"format": "HOST %(levelname)s %(name)s %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["h"], "level": "WARNING"},
})
sys.path.insert(0, sys.argv[1])
import smsreply
from conftest import MESSAGE, call, make_environ

app = smsreply.App(lambda message: 1 / 0, verify=False, cache=smsreply.MemoryCache())
assert call(app, make_environ(MESSAGE), validate=False)[0][:3] == "500"
assert call(smsreply.application, make_environ(MESSAGE), validate=False)[0][:3] == "500"
loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
assert [logger for logger in loggers if logger.handlers] == []
assert (logging.getLogger("smsreply").level, logging.getLogger("smsreply").propagate) == (0, True)
assert len(logging.root.handlers) == 1
"""
    )
    result = subprocess.run(
        [sys.executable, program, ROOT / "tests"],
        check=False,
        env=environment(ROOT, TWILIO_AUTH_TOKEN=""),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    first = f"HOST ERROR smsreply message {SID} is not answered: its handler failed"
    assert result.stdout.splitlines()[0] == first
    assert result.stderr == ""
