"""The hosts that the tests start, with the files of examples/hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples" / "hosts"


def example(name, **changes):
    """Return a file of examples/hosts, with some of its words changed."""
    text = (EXAMPLES / name).read_text()
    for old, new in {"8767": "{port}", "/srv/bot": "{folder}", **changes}.items():
        text = text.replace(old, new)
    return text


BOT = """
import time
import smsreply

def reply(message):
    time.sleep(float(message.query.get("sleep", 0)))
    message.session["messages"] = count = message.session.get("messages", 0) + 1
    return f"{message.url} {message.body} {count}"[:9000]  # ten messages are the most

paths = {"/sms": reply, "/café a:b@c": reply}
application = smsreply.App(paths, cache=smsreply.MemoryCache())
"""

WHERE_NOTHING_IS_MOUNTED = """
import bot, smsreply

at_shop = {"/shop" + path: reply for path, reply in bot.paths.items()}
application = smsreply.App(at_shop)
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

API = "https://abc123.execute-api.eu-west-1.amazonaws.com"
LAMBDA = example("aws_lambda.py", **{"from bot": "from paths"}).replace(
    'os.environ.get("SMSREPLY_PUBLIC_URL")', "URL"
)


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
    event: str = ""  # which event a function is called with, if it is one
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
        "sh waitress.sh",
        needs=("waitress",),
        files={"waitress.sh": example("waitress.sh")},
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
        "gunicorn --config gunicorn.conf.py bot:application",
        needs=("gunicorn",),
        files={"gunicorn.conf.py": example("gunicorn.conf.py")},
        longest=414,
    ),
    "uWSGI": Host(
        "uwsgi --ini uwsgi.ini",
        needs=("uwsgi",),
        files={"uwsgi.ini": example("uwsgi.ini")},
        chunked=411,
    ),
    "mod_wsgi": Host(
        "/usr/sbin/apache2 -f {folder}/apache.conf -D FOREGROUND",
        needs=("/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_wsgi.so"),
        files={"apache.conf": APACHE + example("mod_wsgi.conf")},
        chunked=411,
        stop="ends at once",
        longest=414,
    ),
    "cheroot": Host(
        "cheroot --bind 127.0.0.1:{port} --threads 64 cheroot_mounted:application",
        needs=("cheroot",),
        files={"cheroot_mounted.py": example("cheroot_mounted.py")},
        stop="ends at once",
    ),
    "granian": Host(
        "sh granian.sh",
        needs=("granian",),
        files={"granian.sh": example("granian.sh")},
    ),
    "bjoern": Host(
        "python3 serve_bjoern.py",
        needs=("bjoern",),
        files={"serve_bjoern.py": example("serve_bjoern.py", **{"from bot": "from paths"})},
        mount="by the path",
        stop="ends at once",
    ),
    "Flask": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 flask_mounted:app",
        needs=("gunicorn", "flask"),
        files={"flask_mounted.py": example("flask_mounted.py")},
        longest=414,
    ),
    "Django": Host(
        "gunicorn --bind 127.0.0.1:{port} --threads 64 project:application",
        needs=("gunicorn", "django"),
        files={"urls.py": example("django_urls.py"), "project.py": DJANGO_PROJECT},
        longest=414,
    ),
    "nginx, prefix kept, Django's two workers": Host(
        "gunicorn --workers 2 --threads 64 --bind 127.0.0.1:{back} project:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("gunicorn", "django", "nginx", "openssl"),
        files={
            "urls.py": example("django_urls.py"),
            "project.py": DJANGO_PROJECT.replace('"*"', '"localhost"'),
            "nginx.conf": NGINX.replace(
                "LOCATION", example("nginx_prefix_kept.conf", **{"8767": "{back}"})
            ),
        },
        url=HTTPS,
        longest=414,
    ),
    "nginx, prefix stripped, Django's two workers": Host(
        "env SMSREPLY_PUBLIC_URL=https://localhost:{port}/shop"
        " gunicorn --workers 2 --threads 64 --bind 127.0.0.1:{back} project:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("gunicorn", "django", "nginx", "openssl"),
        files={
            "urls.py": example("django_urls.py", **{"^shop/": ""}),
            "project.py": DJANGO_PROJECT.replace('"*"', '"localhost"'),
            "nginx.conf": NGINX.replace(
                "LOCATION", example("nginx_prefix_stripped.conf", **{"8767": "{back}"})
            ),
        },
        url=HTTPS,
        longest=414,
    ),
    "Starlette": Host(
        "uvicorn --port {port} starlette_mounted:app",
        needs=("uvicorn", "starlette", "a2wsgi"),
        files={"starlette_mounted.py": example("starlette_mounted.py")},
        chunked=411,
    ),
    "ASGI, without a library": Host(
        "uvicorn --port {port} asgi:application",
        needs=("uvicorn",),
        files={"asgi.py": example("asgi.py", **{"from bot": "from paths"})},
        mount="by the path",
    ),
    "nginx, public_url": Host(
        "smsreply serve bot:paths --production --host 127.0.0.1 --port {back}"
        " --public-url https://localhost:{port}/shop\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={
            "nginx.conf": NGINX.replace(
                "LOCATION", example("nginx_prefix_stripped.conf", **{"8767": "{back}"})
            )
        },
        url=HTTPS,
        large="App",
        longest=414,
    ),
    "nginx, trusted headers": Host(
        "waitress-serve --listen 127.0.0.1:{back} --url-prefix /shop --trusted-proxy 127.0.0.1"
        " --trusted-proxy-headers x-forwarded-proto bot:application\n"
        "nginx -c {folder}/nginx.conf -p {folder}",
        needs=("waitress", "nginx", "openssl"),
        files={
            "nginx.conf": NGINX.replace(
                "LOCATION", example("nginx_prefix_kept.conf", **{"8767": "{back}"})
            )
        },
        url=HTTPS,
        stop="ends at once",
        longest=414,
    ),
    "Lambda, v1 (REST API)": Host(
        "",
        files={"handler.py": LAMBDA.replace("URL", f'"{API}/prod"')},
        url=f"{API}/prod",
        event="v1",
        mount="by public_url",
        query=403,  # the event has it decoded, and in no order
        chunked=None,
        longest=None,
        stop=None,
    ),
    "Lambda, v2 (HTTP API)": Host(
        "",
        files={"handler.py": LAMBDA.replace("URL", "None")},
        url=API,
        event="v2",
        mount="by the path",
        chunked=None,
        longest=None,
        stop=None,
    ),
    "Lambda, a load balancer": Host(
        "",
        files={"handler.py": LAMBDA.replace("URL", "None")},
        url="https://abc.example",
        event="elb",
        mount="by the path",
        query=403,  # the event has no order of those that come twice
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


def filled_in(text, places):
    for name, value in places.items():
        text = text.replace("{" + name + "}", str(value))
    return text
