"""The hosts that the tests start: the files and commands are those of the README."""

from __future__ import annotations

from dataclasses import dataclass, field

BOT = """
import time
import smsreply

def reply(message):
    time.sleep(float(message.query.get("sleep", 0)))
    message.session["messages"] = count = message.session.get("messages", 0) + 1
    return f"{message.url} {message.body} {count}"

paths = {"/sms": reply, "/café a:b@c": reply}
application = smsreply.App(paths, cache=smsreply.MemoryCache())
"""

WHERE_NOTHING_IS_MOUNTED = """
import bot, smsreply

at_shop = {"/shop" + path: reply for path, reply in bot.paths.items()}
application = smsreply.App(at_shop)
"""

FLASK = """
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
import bot

app = Flask(__name__)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/shop": bot.application})
"""

DJANGO = """
from django.db import close_old_connections
from django.http import HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
import bot, smsreply

def reply(message):
    close_old_connections()              # this thread is not the request's
    try:
        return bot.reply(message)
    finally:
        close_old_connections()

app = smsreply.App(reply, cache=smsreply.MemoryCache())

@csrf_exempt
def sms(request):
    answer = HttpResponse()

    def start_response(status, headers, exc_info=None):
        answer.status_code = int(status[:3])
        for name, value in headers:
            answer[name] = value

    answer.content = b"".join(app(request.environ, start_response))
    return answer

urlpatterns = [re_path("^shop/", sms)]
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
import bjoern
from bot import application

bjoern.run(application, "127.0.0.1", {port})
"""

MOD_WSGI = """
WSGIDaemonProcess sms threads=64 python-path={folder}
WSGIScriptAlias /shop {folder}/bot.py process-group=sms application-group=%{GLOBAL}
<Directory {folder}>
    Require all granted
</Directory>
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
"""

STRIPPED = """
location /shop/ {
    proxy_pass http://127.0.0.1:{back}/;
}
"""

TRUSTED = """
location /shop/ {
    proxy_pass http://127.0.0.1:{back};
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
}
"""

NGINX = """
user root;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {}
http {
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        LOCATION
    }
}
"""

# What API Gateway knows the function by: the stage, "prod", is not in the event's path.
LAMBDA = """
from apig_wsgi import make_lambda_handler
import paths, smsreply

public_url = "https://abc123.execute-api.eu-west-1.amazonaws.com/prod"
lambda_handler = make_lambda_handler(smsreply.App(paths.at_shop, public_url=public_url))
"""
LAMBDA_2 = """
from apig_wsgi import make_lambda_handler
from bot import application

lambda_handler = make_lambda_handler(application)
"""


@dataclass(frozen=True)
class Host:
    """How to start a host, and in what it differs from the others.

    A status that is None cannot be tried here.
    """

    commands: str  # a line each; of several, the last is the one that Twilio reaches
    needs: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    url: str = "http://127.0.0.1:{port}"
    headers: dict[str, str] = field(default_factory=dict)
    event: int = 0  # the version of API Gateway's events, if it is called with one
    mount: str = "by the host"
    query: int = 200  # to a query as Twilio spells it
    chunked: int | None = 200
    large: str = "App"  # who refuses a body that is too large
    longest: int | None = 200  # to a GET with the longest message: a URL of 15 kB
    stop: str | None = "answers what is in flight"


FILES = {"bot.py": BOT, "paths.py": WHERE_NOTHING_IS_MOUNTED}
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
        large="App",
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
        longest=414,
    ),
    "gunicorn, gthread": Host(
        "env SCRIPT_NAME=/shop gunicorn --bind 127.0.0.1:{port} --threads 64 bot:application",
        needs=("gunicorn",),
        longest=414,
    ),
    "uWSGI": Host(
        "uwsgi --http-socket 127.0.0.1:{port} --master --threads 64 --buffer-size 65535"
        " --manage-script-name --mount /shop=bot:application"
        " --hook-master-start 'unix_signal:15 gracefully_kill_them_all'",
        needs=("uwsgi",),
        chunked=411,
    ),
    "mod_wsgi": Host(
        "/usr/sbin/apache2 -f {folder}/apache.conf -D FOREGROUND",
        needs=("/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_wsgi.so"),
        files={"apache.conf": APACHE + MOD_WSGI},
        chunked=411,
        stop="ends at once",
        longest=414,
    ),
    "cheroot": Host(
        "cheroot --bind 127.0.0.1:{port} --threads 64 shop:application",
        needs=("cheroot",),
        files={"shop.py": CHEROOT},
        stop="ends at once",
    ),
    "granian": Host(
        "granian --interface wsgi --host 127.0.0.1 --port {port} --url-path-prefix /shop"
        " bot:application",
        needs=("granian",),
    ),
    "bjoern": Host(
        "python3 serve_bjoern.py",
        needs=("bjoern",),
        files={"serve_bjoern.py": BJOERN.replace("from bot", "from paths")},
        mount="by the path",
        stop="ends at once",
    ),
    "Flask": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 web:app",
        needs=("gunicorn", "flask"),
        files={"web.py": FLASK},
        longest=414,
    ),
    "Django": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 project:application",
        needs=("gunicorn", "django"),
        files={"urls.py": DJANGO, "project.py": DJANGO_PROJECT},
        longest=414,
    ),
    "Starlette": Host(
        "uvicorn --port {port} web:app",
        needs=("uvicorn", "starlette", "a2wsgi"),
        files={"web.py": STARLETTE},
        chunked=411,
    ),
    "nginx, public_url": Host(
        "smsreply serve bot:paths --production --host 127.0.0.1 --port {back}"
        " --public-url https://localhost:{port}/shop\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", STRIPPED)},
        url=HTTPS,
        large="App",
        longest=414,
    ),
    "nginx, trusted headers": Host(
        "waitress-serve --listen 127.0.0.1:{back} --url-prefix /shop --trusted-proxy 127.0.0.1"
        " --trusted-proxy-headers x-forwarded-proto bot:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", TRUSTED)},
        url=HTTPS,
        stop="ends at once",
        longest=414,
    ),
    "Lambda, v1 (REST API)": Host(
        "",
        needs=("apig_wsgi",),
        files={"handler.py": LAMBDA},
        url="https://abc123.execute-api.eu-west-1.amazonaws.com/prod",
        event=1,
        mount="by public_url",
        query=403,  # the event has it decoded, in no order
        chunked=None,
        longest=None,
        stop=None,
    ),
    "Lambda, v2 (HTTP API)": Host(
        "",
        needs=("apig_wsgi",),
        files={"handler.py": LAMBDA_2.replace("from bot", "from paths")},
        url="https://abc123.execute-api.eu-west-1.amazonaws.com",
        event=2,
        mount="by the path",
        chunked=None,
        longest=None,
        stop=None,
    ),
}

WORKERS = """
import json, os, time
from pathlib import Path
import smsreply

class Files:
    # What a cache needs: get, set and delete, and add, which is atomic.
    folder = Path(__file__).parent

    def get(self, key):
        file = self.folder / key
        return json.loads(file.read_text()) if file.exists() else None

    def set(self, key, value, timeout):
        file = self.folder / f"{key}.{os.getpid()}"
        file.write_text(json.dumps(value))
        file.replace(self.folder / key)

    def add(self, key, value, timeout):
        file = self.folder / f"{key}.{os.getpid()}"
        file.write_text(json.dumps(value))
        try:
            os.link(file, self.folder / key)
        except FileExistsError:
            return False
        return True

    def delete(self, key):
        (self.folder / key).unlink(missing_ok=True)

def reply(message):
    time.sleep(0.5)
    message.session["messages"] = count = message.session.get("messages", 0) + 1
    return f"{os.getpid()} {count}"

alone = smsreply.App(reply, cache=smsreply.MemoryCache())
shared = smsreply.App(reply, cache=Files())

def application(environ, start_response):
    app = shared if environ["PATH_INFO"] == "/shared" else alone
    return app(environ, start_response)
"""

PROCFILE = """\
web: smsreply serve bot:reply --production
"""

UNIT = """\
[Unit]
Description=Answer text messages
After=network.target

[Service]
WorkingDirectory=/srv/bot
EnvironmentFile=/etc/smsreply.env
ExecStart=/srv/bot/venv/bin/smsreply serve bot:reply --production
DynamicUser=yes
Restart=always
TimeoutStopSec=40

[Install]
WantedBy=multi-user.target
"""

DOCKERFILE = """\
FROM python:3-slim
RUN pip install waitress
WORKDIR /bot
COPY smsreply.py bot.py ./
USER nobody
CMD ["python3", "smsreply.py", "serve", "bot:reply", "--production"]
"""


def filled_in(text, places):
    for name, value in places.items():
        text = text.replace("{" + name + "}", str(value))
    return text


# What the README has of all this, word for word.
SHOWN = [
    filled_in(
        text.replace("localhost:{port}", "abc.example"),
        {"port": 8767, "back": 8767, "folder": "/srv/bot"},
    ).strip()
    for text in (
        *(FLASK, DJANGO, STARLETTE, CHEROOT, BJOERN, LAMBDA_2),
        *(MOD_WSGI, STRIPPED, TRUSTED, PROCFILE, UNIT, DOCKERFILE),
        *(HOSTS[name].commands for name in ("gunicorn, gthread", "uWSGI", "cheroot", "granian")),
        *(HOSTS[name].commands.splitlines()[0] for name in HOSTS if name.startswith("nginx")),
    )
]
