"""The hosts of the README: each is started, and sent what Twilio sends, over a real socket.

    SMSREPLY_HOSTS_TABLE=hosts.md pytest tests/test_hosts.py     # writes what each one did

A host that is not installed is skipped.  What a host does that its neighbours do not is
said in `HOSTS`, and so tested.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib
import os
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
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from conftest import MESSAGE, ROOT, TOKEN, free_port, wait_for_port

import smsreply

BOT = """
import time
import smsreply

def reply(message):
    time.sleep(float(message.query.get("sleep", 0)))
    return f"{message.url} {message.body}"

paths = {"/sms": reply, "/café a:b@c": reply}
application = smsreply.App(paths, cache=smsreply.MemoryCache())
"""

FLASK = """
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
import bot

app = Flask(__name__)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/shop": bot.application})
"""

DJANGO = """
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
import bot, smsreply

app = smsreply.App(bot.reply, cache=smsreply.MemoryCache())

@csrf_exempt
def sms(request):
    answer = HttpResponse()

    def start_response(status, headers, exc_info=None):
        answer.status_code, answer.headers = int(status[:3]), dict(headers)

    answer.content = b"".join(app(request.environ, start_response))
    return answer

urlpatterns = [path("shop/sms", sms), path("shop/café a:b@c", sms)]
"""

DJANGO_PROJECT = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="urls",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
)
application = get_wsgi_application()
"""

STARLETTE = """
from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount
import bot

app = Starlette(routes=[Mount("/shop", WSGIMiddleware(bot.application))])
"""

CHEROOT = """
from cheroot.wsgi import PathInfoDispatcher
import bot

application = PathInfoDispatcher({"/shop": bot.application})
"""

BJOERN = """
import sys
import bjoern, paths, smsreply

bjoern.run(smsreply.App(paths.at_shop), "127.0.0.1", int(sys.argv[1]))
"""

APACHE = """
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
User www-data
Group www-data
ServerName localhost
ServerRoot {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}

WSGIDaemonProcess sms threads=64 python-path={folder}
WSGIScriptAlias /shop {folder}/bot.py process-group=sms application-group=%{{GLOBAL}}
<Directory {folder}>
    Require all granted
</Directory>
"""

NGINX = """
user root;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        LOCATION
    }}
}}
"""
STRIPPED = """
location /shop/ {{
    proxy_pass http://127.0.0.1:{back}/;
}}
"""
TRUSTED = """
location /shop/ {{
    proxy_pass http://127.0.0.1:{back};
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
}}
"""


@dataclass(frozen=True)
class Host:
    """How to start a host, and in what it differs from the others."""

    commands: str  # a line each; of several, the last is the one that Twilio reaches
    needs: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    url: str = "http://127.0.0.1:{port}"
    headers: dict[str, str] = field(default_factory=dict)
    mount: str = "by the host"
    path: int = 200  # a path that is not all ASCII, as Twilio spells it
    chunked: int = 200
    large: str = "App"  # who refuses a body that is too large
    stop: str = "answers what is in flight"


PATHS = {
    "bot.py": BOT,
    "paths.py": 'import bot\nat_shop = {"/shop" + path: f for path, f in bot.paths.items()}\n',
}
HTTPS = "https://localhost:{port}"
HOSTS = {
    "wsgiref": Host(
        "smsreply serve paths:at_shop --port {port} --no-phone",
        mount="by the path",
        chunked=411,
        stop="ends at once",
    ),
    "waitress": Host(
        "smsreply serve paths:at_shop --port {port} --production",
        needs=("waitress",),
        mount="by the path",
        large="host",
    ),
    "waitress-serve, trusted_proxy": Host(
        "waitress-serve --listen 127.0.0.1:{port} --url-prefix /shop --trusted-proxy 127.0.0.1"
        " --trusted-proxy-headers 'x-forwarded-proto x-forwarded-host' bot:application",
        needs=("waitress",),
        url="https://abc.example",
        headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "abc.example"},
        stop="ends at once",
    ),
    "gunicorn": Host(
        "env SCRIPT_NAME=/shop gunicorn --bind 127.0.0.1:{port} bot:application",
        needs=("gunicorn",),
    ),
    "gunicorn, gthread": Host(
        "env SCRIPT_NAME=/shop gunicorn --bind 127.0.0.1:{port} --threads 64 bot:application",
        needs=("gunicorn",),
    ),
    "uWSGI": Host(
        "uwsgi --http-socket 127.0.0.1:{port} --master --threads 64 --manage-script-name"
        " --hook-master-start 'unix_signal:15 gracefully_kill_them_all' --mount /shop=bot:application",
        needs=("uwsgi",),
        chunked=411,
    ),
    "mod_wsgi": Host(
        "/usr/sbin/apache2 -f {folder}/apache.conf -D FOREGROUND",
        needs=("/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_wsgi.so"),
        files={"apache.conf": APACHE},
        chunked=411,
        stop="ends at once",
    ),
    "cheroot": Host(
        "cheroot --bind 127.0.0.1:{port} shop:application",
        needs=("cheroot",),
        files={"shop.py": CHEROOT},
    ),
    "granian": Host(
        "granian --interface wsgi --host 127.0.0.1 --port {port} --url-path-prefix /shop bot:application",
        needs=("granian",),
    ),
    "bjoern": Host(
        "python serve_bjoern.py {port}",
        needs=("bjoern",),
        files={"serve_bjoern.py": BJOERN},
        mount="by the path",
        stop="ends at once",
    ),
    "Flask": Host(
        "waitress-serve --listen 127.0.0.1:{port} web:app",
        ("waitress", "flask"),
        {"web.py": FLASK},
    ),
    "Django": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 project:application",
        needs=("gunicorn", "django"),
        files={"urls.py": DJANGO, "project.py": DJANGO_PROJECT},
    ),
    "Starlette": Host(
        "uvicorn --port {port} web:app",
        needs=("uvicorn", "starlette", "a2wsgi"),
        files={"web.py": STARLETTE},
        chunked=411,
    ),
    "nginx, public_url": Host(
        "smsreply serve bot:paths --production --port {back} --public-url https://localhost:{port}/shop\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", STRIPPED)},
        url=HTTPS,
        large="host",
    ),
    "nginx, trusted headers": Host(
        "waitress-serve --listen 127.0.0.1:{back} --url-prefix /shop --trusted-proxy 127.0.0.1"
        " --trusted-proxy-headers x-forwarded-proto bot:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", TRUSTED)},
        url=HTTPS,
        stop="ends at once",
    ),
}

PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
ROWS = ("signed", "forged", "mount", "query", "chunked", "large", "stop")
RESULTS: dict[str, dict[str, str]] = {}


def installed(need):
    if need.startswith("/"):
        return Path(need).exists()
    return shutil.which(need, path=PROGRAMS) or importlib.util.find_spec(need)


@dataclass
class Served:
    """A host that runs, and how Twilio knows it."""

    name: str
    host: Host
    port: int
    processes: list[subprocess.Popen[bytes]]
    log: Path

    @property
    def url(self):
        return self.host.url.format(port=self.port)

    def tell(self, row, result):
        RESULTS.setdefault(self.name, {})[row] = result

    def send(self, method, target, body=b"", headers=(), *, chunked=False):
        """Send one request as it is; return the answer's status, type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if self.host.url.startswith("https") and "nginx" in self.host.commands:
            context = ssl.create_default_context(cafile=self.log.parent / "certificate.pem")
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            headers = {"Host": urlsplit(self.url).netloc, "User-Agent": "TwilioProxy/1.1", **dict(headers)}
            if method == "POST":
                headers["Content-Type"] = smsreply.FORM_TYPE
                headers.update({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": len(body)})
            for name, value in {**headers, **self.host.headers}.items():
                connection.putheader(name, str(value))
            # A server may refuse before it has read all; then it is its answer that counts.
            with contextlib.suppress(ConnectionError):
                connection.endheaders(body or None, encode_chunked=chunked)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read()

    def deliver(self, target="/shop/sms", *, method="POST", fields=MESSAGE, token=TOKEN, chunked=False):
        """Send a message as Twilio would; return the answer's status, type and body."""
        if method == "GET":
            target += ("&" if "?" in target else "?") + urlencode(fields)
        signed = fields if method == "POST" else {}
        signature = smsreply.RequestValidator(token).compute_signature(self.url + target, signed)
        body = urlencode(fields).encode() if method == "POST" else b""
        return self.send(method, target, body, {"X-Twilio-Signature": signature}, chunked=chunked)


def environment(folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TWILIO_", "SMSREPLY_"))}
    return {**kept, "PATH": PROGRAMS, "PYTHONPATH": str(folder), "TWILIO_AUTH_TOKEN": TOKEN, **more}


def launch(command, folder, **more):
    """Start *command* in *folder* as the leader of a process group."""
    words = shlex.split(command)
    if words[0] in ("smsreply", "python"):
        words[:1] = [sys.executable] + (["smsreply.py"] if words[0] == "smsreply" else [])
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            words, cwd=folder, env=environment(folder, **more), stdout=log, stderr=log, start_new_session=True
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


@pytest.fixture(scope="module")
def folder_of_a_bot(tmp_path_factory):
    """Return a function that makes a folder with smsreply.py, bot.py and *files*."""

    def make(name, files):
        folder = tmp_path_factory.mktemp(name)
        for parent in [folder, *folder.parents][:3]:
            parent.chmod(0o755)  # Apache's processes are another user's
        shutil.copy(ROOT / "smsreply.py", folder)
        for file, text in {**PATHS, **files}.items():
            (folder / file).write_text(text)
        return folder

    return make


@pytest.fixture(scope="module", params=HOSTS)
def served(request, folder_of_a_bot):
    host = HOSTS[request.param]
    missing = [need for need in host.needs if not installed(need)]
    if missing:
        RESULTS[request.param] = dict.fromkeys(ROWS, "–")
        pytest.skip(f"not installed: {', '.join(missing)}")
    port, back = free_port(), free_port()
    folder = folder_of_a_bot("host", {})
    for file, text in host.files.items():
        is_python = file.endswith(".py")
        (folder / file).write_text(text if is_python else text.format(folder=folder, port=port, back=back))
    if "openssl" in host.needs:
        make_certificate(folder)
    served = Served(request.param, host, port, [], folder / "log")
    try:
        for command in host.commands.splitlines():
            served.processes.append(launch(command.format(folder=folder, port=port, back=back), folder))
            wait_for_port(back if "{back}" in command else port, served.processes[-1])
        yield served
    finally:
        for process in served.processes:
            process.terminate()
        for process in served.processes:
            if not gone(process, 5):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def make_certificate(folder):
    subject = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem {subject}"
    subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def table():
    """Write what each host did to the file that SMSREPLY_HOSTS_TABLE names."""
    yield
    if os.environ.get("SMSREPLY_HOSTS_TABLE"):
        lines = [["host", *ROWS], ["---"] * (1 + len(ROWS))]
        lines += [[name, *[RESULTS.get(name, {}).get(row, "failed") for row in ROWS]] for name in RESULTS]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        Path(os.environ["SMSREPLY_HOSTS_TABLE"]).write_text(text)


def assert_answered(answer, *, says):
    status, content_type, body = answer
    assert (status, content_type) == (200, "text/xml; charset=utf-8"), body
    assert [message.text for message in ElementTree.fromstring(body)] == [says]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_signed_message_is_answered(served, method):
    status, content_type, body = served.deliver(method=method)
    assert (status, content_type) == (200, "text/xml; charset=utf-8"), body
    text = ElementTree.fromstring(body).findtext("Message")
    assert text.startswith(f"{served.url}/shop/sms")
    assert text.endswith(MESSAGE["Body"])
    served.tell("signed", "200")


def test_a_forged_message_is_refused(served):
    assert served.deliver(token="another") == (
        403,
        "text/plain; charset=utf-8",
        b"this was not signed by Twilio\n",
    )
    served.tell("forged", "403")


def test_the_path_is_the_one_that_twilio_signed(served):
    target = "/shop/caf%C3%A9%20a:b@c"
    status, _, body = served.deliver(target)
    assert status == served.host.path, body
    if status == 200:
        assert_answered((status, _, body), says=f"{served.url}{target} {MESSAGE['Body']}")
    served.tell("mount", served.host.mount)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_the_query_is_the_one_that_twilio_signed(served, method):
    target = "/shop/sms?shop=%27a%27&x=a%20b+c&y=%2b%2B&z&shop=(2)"
    status, _, body = served.deliver(target, method=method)
    assert status == 200, body
    assert ElementTree.fromstring(body).findtext("Message").startswith(served.url + target)
    served.tell("query", "200")


def test_a_chunked_body_is_decoded_or_refused(served):
    status, _, body = served.deliver(chunked=True)
    assert status == served.host.chunked, body
    served.tell("chunked", str(status))


def test_a_body_over_64_kib_is_refused(served):
    over = smsreply.MAX_BODY + 1
    status, _, body = served.deliver(fields={**MESSAGE, "Body": ""} | {"Pad": "x" * over})
    assert status == 413
    assert (b"the body is longer than 65536 bytes\n" == body) == (served.host.large == "App"), body
    served.tell("large", f"413 by {served.host.large}")


def test_sigterm_ends_it(served):
    """It is the last test of its host."""
    answers = []

    def deliver():
        try:
            answers.append(served.deliver("/shop/sms?sleep=0.7")[0])
        except (OSError, http.client.HTTPException) as error:
            answers.append(type(error).__name__)

    in_flight = threading.Thread(target=deliver)
    in_flight.start()
    time.sleep(0.3)
    server = served.processes[0]
    server.send_signal(signal.SIGTERM)
    ended = gone(server, 8)
    in_flight.join()
    assert ended, served.log.read_text()
    stop = "answers what is in flight" if answers == [200] else "ends at once"
    assert stop == served.host.stop, answers
    served.tell("stop", stop)
