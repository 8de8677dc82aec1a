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
import bjoern, bot, sys

bjoern.run(bot.application, "127.0.0.1", int(sys.argv[1]))
"""

APACHE = """
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
User www-data
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
        "uwsgi --http-socket 127.0.0.1:{port} --master --die-on-term --threads 64"
        " --manage-script-name --mount /shop=bot:application",
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
        files={"serve_bjoern.py": BJOERN.replace("bot.application", "smsreply.App(paths.at_shop)")},
        mount="by the path",
        stop="ends at once",
    ),
    "Flask": Host(
        "waitress-serve --listen 127.0.0.1:{port} site:app",
        ("waitress", "flask"),
        {"site.py": FLASK},
    ),
    "Django": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 project:application",
        needs=("gunicorn", "django"),
        files={"urls.py": DJANGO, "project.py": DJANGO_PROJECT},
    ),
    "Starlette": Host(
        "uvicorn --port {port} site:app",
        needs=("uvicorn", "starlette", "a2wsgi"),
        files={"site.py": STARLETTE},
    ),
    "nginx, public_url": Host(
        "smsreply serve bot:paths --production --port {back} --public-url https://localhost:{port}/shop\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", STRIPPED)},
        url=HTTPS,
    ),
    "nginx, trusted headers": Host(
        "waitress-serve --listen 127.0.0.1:{back} --url-prefix /shop --trusted-proxy 127.0.0.1"
        " --trusted-proxy-headers x-forwarded-proto bot:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={"nginx.conf": NGINX.replace("LOCATION", TRUSTED)},
        url=HTTPS,
    ),
}
