"""How fast smsreply is beside its peers: ratios, measured on your machine.

    python3 -m pip install '.[bench,production]'        # and Debian's wrk, Node and npm
    python3 tests/bench.py [inprocess | servers | start | growth | all] [--quick]

Every peer does the same work, a signed message of 25 parameters in and the same TwiML out,
and has to give that answer before it is timed.  Peers take turns, round after round, so
that a busy machine is busy for all of them, and what is counted is CPU time, which other
programs do not use up.  Shown are medians; a ratio is the median of the rounds' ratios.  A
peer that is not installed is left out, and a line says so.

    inprocess   one call of the WSGI callable
    servers     messages a second, with one core for the server and one for the load
    start       from the start of the process to the first answer; imports; memory
    growth      longer messages, more fields, more connections, and the dearest request
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import logging
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import parse_qsl, urlencode
from wsgiref.util import request_uri, setup_testing_defaults

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import smsreply

TOKEN = "12345"
HOST = "abc.example"
FORGED = "A" * 27 + "="
SID = "MM0123456789abcdef0123456789abcdef"
ACCOUNT = "AC0123456789abcdef0123456789abcdef"
MEDIA = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages/{SID}/Media/ME"
# A text and two pictures, through a Messaging Service with an add-on.
FIELDS = {
    "ToCountry": "US", "MediaContentType0": "image/jpeg", "ToState": "CA", "SmsMessageSid": SID,
    "NumMedia": "2", "ToCity": "SAUSALITO", "FromZip": "94103", "SmsSid": SID, "FromState": "CA",
    "SmsStatus": "received", "FromCity": "", "Body": "Hello & <b>café</b> 😀 it’s 100%+1",
    "FromCountry": "US", "To": "+15558675310", "MediaUrl1": MEDIA + 32 * "b", "ToZip": "94965",
    "MediaContentType1": "image/png", "NumSegments": "2", "MessageSid": SID, "AccountSid": ACCOUNT,
    "MessagingServiceSid": "MG0123456789abcdef0123456789abcdef", "From": "+14017122661",
    "MediaUrl0": MEDIA + 32 * "a", "ApiVersion": "2010-04-01",
    "AddOns": '{"status":"successful","code":null,"results":{}}',
}  # fmt: skip
ADDED = (
    "MediaUrl0",
    "MediaUrl1",
    "MediaContentType0",
    "MediaContentType1",
    "MessagingServiceSid",
    "AddOns",
)
TEXT = {name: value for name, value in FIELDS.items() if name not in ADDED}
BEGIN, END = '<?xml version="1.0" encoding="UTF-8"?><Response><Message>', "</Message></Response>"
TWIML = f"{BEGIN}You said Hello &amp; &lt;b&gt;café&lt;/b&gt; 😀 it’s 100%+1{END}".encode()


# -------------------------------------------------------------------------- The peers


def ours(reply=lambda message: "You said " + message["Body"], **options):
    return smsreply.App(reply, **{"auth_token": TOKEN, **options})


def a_response(message):
    response = smsreply.MessagingResponse()
    response.message("You said " + message["Body"])
    return response


def counting(message):
    message.session["count"] = message.session.get("count", 0) + 1
    return "You said " + message["Body"]


def tutorial(check):
    """Return what Twilio's tutorials do with a form, in whatever framework."""
    from twilio.request_validator import RequestValidator
    from twilio.twiml.messaging_response import MessagingResponse

    validator = RequestValidator(TOKEN)

    def answer(form, url_and_signature):
        if check and not validator.validate(url_and_signature()[0], form, url_and_signature()[1]):
            return None
        response = MessagingResponse()
        response.message("You said " + form["Body"])
        return str(response)

    return answer


def flask_app(check):
    from flask import Flask, Response, request

    app, answer = Flask("bench"), tutorial(check)

    @app.post("/sms")
    def sms():
        xml = answer(
            request.form, lambda: (request.url, request.headers.get("X-Twilio-Signature", ""))
        )
        return Response(xml, mimetype="text/xml") if xml else ("", 403)

    return app


def bottle_app(check):
    from bottle import Bottle, HTTPResponse, request

    app, answer = Bottle(), tutorial(check)

    @app.post("/sms")
    def sms():
        form = request.forms.decode()
        xml = answer(form, lambda: (request.url, request.get_header("X-Twilio-Signature", "")))
        return HTTPResponse(xml or "", 200 if xml else 403, Content_Type="text/xml; charset=utf-8")

    return app


def falcon_app(check):
    import falcon

    class Sms:
        def on_post(self, req, resp):
            xml = answer(
                req.get_media(), lambda: (req.url, req.get_header("X-Twilio-Signature") or "")
            )
            resp.status, resp.text, resp.content_type = (
                200 if xml else 403,
                xml or "",
                "text/xml; charset=utf-8",
            )

    app, answer = falcon.App(), tutorial(check)
    app.add_route("/sms", Sms())
    return app


def constant():
    """What a server costs that reads the message, and says the same to everybody."""

    def app(environ, start_response):
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response(
            "200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(TWIML)))]
        )
        return [TWIML]

    return app


EXPRESS = f"""
const express = require("express"), twilio = require("twilio"), app = express();
const form = require("body-parser").urlencoded({{ extended: false }});
const xml = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
if (process.argv[3] == "checked") app.post("/sms", form, twilio.webhook("{TOKEN}"), (req, res) => {{
  const response = new twilio.twiml.MessagingResponse();
  response.message("You said " + req.body.Body);
  res.type("text/xml").send(response.toString());
}});
else app.post("/sms", form, (req, res) => {{
  res.type("text/xml").send('{BEGIN}' + xml("You said " + req.body.Body) + '{END}');
}});
app.listen(process.argv[2], "127.0.0.1");
"""
US, FLASK, FALCON, NOTHING = (
    "smsreply",
    "Flask + helper + validator",
    "Falcon + helper",
    "a constant answer",
)
CACHE, EXPRESS_STRING = "smsreply, a cache, new messages", "Express, a string"
PEERS = {
    US: ours,
    "smsreply, a MessagingResponse": lambda: ours(a_response),
    "smsreply, not verifying": lambda: ours(verify=False),
    "smsreply, a session": lambda: ours(counting),
    "smsreply, a cache, one repeated": lambda: ours(cache=smsreply.MemoryCache()),
    CACHE: lambda: ours(cache=smsreply.MemoryCache()),
    FLASK: lambda: flask_app(True),
    "Flask + helper": lambda: flask_app(False),
    "Bottle + helper + validator": lambda: bottle_app(True),
    "Bottle + helper": lambda: bottle_app(False),
    "Falcon + helper + validator": lambda: falcon_app(True),
    FALCON: lambda: falcon_app(False),
    NOTHING: constant,
}
UNCHECKED = (
    "smsreply, not verifying",
    "Flask + helper",
    "Bottle + helper",
    FALCON,
    NOTHING,
    EXPRESS_STRING,
)


def installed(peers):
    for name, make in peers.items():
        try:
            yield name, make()
        except ImportError as error:
            print(f"{name} is left out: {error}")


def __getattr__(name):
    """Make `bench:application`, for a server, the peer that the environment names."""
    if name == "application":
        return PEERS[os.environ["BENCH_PEER"]]()
    raise AttributeError(name)


# ------------------------------------------------------------------- Requests, rounds


def post(form, sign=True, **more):
    """Return a function that makes a fresh environ: of a POST, signed, with *form* as its body."""
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/sms", "QUERY_STRING": "", "HTTP_HOST": HOST}
    environ.update(CONTENT_LENGTH=str(len(body)), CONTENT_TYPE=smsreply.FORM_TYPE)
    environ.update(
        HTTP_USER_AGENT="TwilioProxy/1.1", HTTP_ACCEPT="*/*", HTTP_X_TWILIO_SIGNATURE=FORGED, **more
    )
    setup_testing_defaults(environ)
    environ["REQUEST_URI"] = environ.get(
        "REQUEST_URI", request_uri(environ)[len(f"http://{HOST}") :]
    )
    if sign:
        fields = parse_qsl(body.decode(), keep_blank_values=True)
        validator = smsreply.RequestValidator(TOKEN)
        url = f"http://{HOST}{environ['REQUEST_URI']}"
        environ["HTTP_X_TWILIO_SIGNATURE"] = validator.compute_signature(url, fields)
    return lambda: {**environ, "wsgi.input": io.BytesIO(body)}


def ask(app, environ):
    """Return the status, the headers and the body of an answer."""
    got = []
    body = b"".join(
        app(environ, lambda status, headers, exc_info=None: got.extend((status, dict(headers))))
    )
    return int(got[0][:3]), got[1], body


def call_of(name, app, make):
    """Return the call that is timed, of an *app* that was seen to answer right, and to refuse."""
    status, _, body = ask(app, make())
    assert (status, body) == (200, TWIML), f"{name} answers {status} {body!r}"
    status = ask(app, {**make(), "HTTP_X_TWILIO_SIGNATURE": FORGED})[0]
    assert status == (200 if name in UNCHECKED else 403), f"{name} answers a forgery with {status}"
    return asking(app, make)


def asking(app, make):
    return lambda: app(make(), ignore)


def ignore(status, headers, exc_info=None):
    """Be a start_response."""


def cpu():
    """Return the CPU time in seconds of this process, all its threads, and what it has run."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum([usage.ru_utime + usage.ru_stime for usage in usages])


def seconds(call, times):
    start = cpu()
    for _ in itertools.repeat(None, times):
        call()
    return (cpu() - start) / times


def interleaved(calls, rounds):
    """Return how many seconds each of *calls* took, in each of so many rounds."""
    for call in calls.values():
        call()  # whatever it does the first time only
    times = {name: 1 + int(0.02 / seconds(call, 1)) for name, call in calls.items()}
    took = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            took[name].append(seconds(call, times[name]))
    return took


def ratio(measured, name, to):
    return median([a / b for a, b in zip(measured[name], measured[to])])


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        cells = [
            cell if isinstance(cell, str) else f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"
            for cell in row
        ]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def goal(what, measured, wanted, most=False):
    verdict = "reached" if (measured <= wanted if most else measured >= wanted) else "MISSED"
    print(
        f"- {verdict}: {what}: {measured:.3f} ({'at most' if most else 'at least'} {wanted})",
        flush=True,
    )


# ------------------------------------------------------------------------ In process


def inprocess(quick):
    message, forgery, calls = post(FIELDS), post(FIELDS, sign=False), {}
    # A MemoryCache keeps 4,096 answers: of 5,000 messages each is forgotten when its turn comes.
    new = itertools.cycle([post({**FIELDS, "MessageSid": f"MM{n:032x}"}) for n in range(5000)])
    for name, app in installed(PEERS):
        cookie = ask(app, message())[1].get("Set-Cookie", "").partition(";")[0]
        make = (
            (lambda: next(new)())
            if name == CACHE
            else post(FIELDS, HTTP_COOKIE=cookie)
            if cookie
            else message
        )
        calls[name] = call_of(name, app, make)
        if name in (US, FLASK):
            calls[f"{name}, refusing (403)"] = asking(app, forgery)
    took = interleaved(calls, 15 if quick else 75)
    rows = [(name, median(took[name]) * 1e6, ratio(took, name, US)) for name in took]
    table(
        ("a message of 25 fields, in process", "µs", "times smsreply's"),
        sorted(rows, key=lambda row: row[1]),
    )
    plain = {
        name: call_of(name, app, post(TEXT))
        for name, app in installed({n: PEERS[n] for n in (US, FLASK, FALCON)})
    }
    text = interleaved(plain, 15 if quick else 75)
    rows = [(name, median(text[name]) * 1e6, ratio(text, name, US)) for name in text]
    table((f"a message of {len(TEXT)} fields", "µs", "times smsreply's"), rows)
    if FLASK in took:
        goal(f"times as fast as {FLASK}", ratio(took, FLASK, US), 13)
        goal(
            "the same with a MessagingResponse",
            ratio(took, FLASK, "smsreply, a MessagingResponse"),
            8,
        )
    if FALCON in took:
        goal(f"times as fast as {FALCON}, unchecked", ratio(took, FALCON, US), 1.5)


# --------------------------------------------------------------------------- Servers

BOT = "bench:application"
SERVERS = {
    "waitress": [
        "-m",
        "waitress",
        "--listen=127.0.0.1:PORT",
        "--threads=16",
        "--connection-limit=2000",
        BOT,
    ],
    "gunicorn": ["-m", "gunicorn", "--bind=127.0.0.1:PORT", "--worker-class=gthread", BOT],
    "granian": ["-m", "granian", "--interface=wsgi", "--port=PORT", "--no-log", BOT],
    "bjoern": ["-c", "import bench, bjoern; bjoern.run(bench.application, '127.0.0.1', PORT)"],
}


@contextlib.contextmanager
def serving(command, peer="", cwd=None):
    """Run a server on the first core until the block ends; yield its port, once it answers right."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "BENCH_PEER": peer,
        "NODE_ENV": "production",
        "PYTHONPATH": f"{HERE.parent}:{HERE}",
    }
    command = ["taskset", "-c", "0", *[part.replace("PORT", str(port)) for part in command]]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, env=environ, cwd=cwd, start_new_session=True, **quiet
    ) as process:
        try:
            message = post(FIELDS)()
            headers = {"Host": HOST, "Content-Type": smsreply.FORM_TYPE}
            headers["X-Twilio-Signature"] = message["HTTP_X_TWILIO_SIGNATURE"]
            while process.poll() is None:
                time.sleep(0.05)
                with contextlib.suppress(ConnectionError):
                    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    client.request("POST", "/sms", message["wsgi.input"].getvalue(), headers)
                    answer = client.getresponse()
                    assert (answer.status, answer.read()) == (200, TWIML), (
                        f"{command} answers {answer.status}"
                    )
                    break
            yield port, process.pid
        finally:
            process.terminate()


def cpu_of(session):
    """Return the CPU time in seconds of all processes of a *session*: a server and its workers."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # proc(5): what follows the name, in parentheses
            stat = file.read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12]) if int(stat[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def load(port, seconds, connections=16):
    """Have the server on *port* answer for some seconds; return how many messages, and wrk's report."""
    message = post(FIELDS)()
    script = f"""
        wrk.method, wrk.body = "POST", "{message["wsgi.input"].getvalue().decode()}"
        wrk.headers = {{["Host"] = "{HOST}", ["Content-Type"] = "{smsreply.FORM_TYPE}",
                        ["X-Twilio-Signature"] = "{message["HTTP_X_TWILIO_SIGNATURE"]}"}}"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        wrk = f"taskset -c 1 wrk -t1 -c{connections} -d{seconds}s --latency -s {file.name} http://127.0.0.1:{port}/sms"
        report = subprocess.run(wrk.split(), capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in report, report
    return int(re.search(r"(\d+) requests in", report)[1]), report


def commands(folder):
    """Yield a name, a command and a peer for each server that can be run."""
    for server, command in SERVERS.items():
        for _ in installed({server: lambda server=server: __import__(server)}):
            for peer, _ in installed(
                {peer: PEERS[peer] for peer in (NOTHING, US, "Flask + helper", FLASK)}
            ):
                yield f"{server}: {peer}", [sys.executable, *command], peer
    install = "npm install --silent --no-audit --no-fund express body-parser twilio"
    if (
        not shutil.which("npm")
        or subprocess.run(install.split(), cwd=folder, check=False).returncode
    ):
        print("Express is left out: npm did not install it")
        return
    Path(folder, "express.js").write_text(EXPRESS)
    yield EXPRESS_STRING, ["node", "express.js", "PORT"], ""
    yield "Express + helper + validator", ["node", "express.js", "PORT", "checked"], ""


def servers(quick):
    if not (shutil.which("wrk") and shutil.which("taskset")):
        print("The servers are left out: there is no wrk, or no taskset")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        found = {
            name: running.enter_context(serving(*how, folder)) for name, *how in commands(folder)
        }
        rates, whole = {name: [] for name in found}, {name: [] for name in found}
        length = 1 if quick else 3
        for name, (port, _) in found.items():
            load(port, 8 if "Express" in name else 1)  # V8 takes that long to compile what is hot
        for _ in range(3 if quick else 7):
            for name, (port, session) in found.items():
                before = cpu_of(session)
                answered = load(port, length)[0]
                rates[name].append(answered / length)
                whole[name].append(answered / (cpu_of(session) - before))
    rows = []
    for name, each in whole.items():
        alone = f"{name.partition(':')[0]}: {NOTHING}"
        to = [
            ratio(whole, name, other) if other in whole else "" for other in (alone, EXPRESS_STRING)
        ]
        rows.append((name, median(rates[name]), median(each), *to))
    head = (
        "through a server",
        "messages a second",
        "a CPU second",
        f"of {NOTHING}",
        f"of {EXPRESS_STRING}",
    )
    table(head, rows)
    goals = [
        (f"waitress: {US}", f"waitress: {NOTHING}", 0.7),
        (f"waitress: {US}", EXPRESS_STRING, 1),
    ]
    for name, to, wanted in [*goals, (f"bjoern: {US}", EXPRESS_STRING, 4)]:
        if name in whole and to in whole:
            goal(f"{name}, of {to}", ratio(whole, name, to), wanted)


# ---------------------------------------------------------------- Cold start, memory

IMPORTS = """from flask import Flask, request
from twilio.request_validator import RequestValidator
from twilio.twiml.messaging_response import MessagingResponse
"""
STARTS = {
    "Python alone": "",
    "import logging": "import logging",
    "import smsreply": "import smsreply",
    "import Flask, helper": IMPORTS,
    "smsreply's first answer": f"""import smsreply
app = smsreply.App(lambda message: "You said " + message["Body"], auth_token="{TOKEN}")""",
    "Flask's, with helper and validator": f"""{IMPORTS}
app = Flask("bench")
@app.post("/sms")
def sms():
    assert RequestValidator("{TOKEN}").validate(request.url, request.form, request.headers["X-Twilio-Signature"])
    response = MessagingResponse()
    response.message("You said " + request.form["Body"])
    return str(response)""",
}
# What smsreply imports only when it serves, plays Twilio, or is run as a program.
NOT_NEEDED = {
    "argparse",
    "http",
    "json",
    "socket",
    "socketserver",
    "ssl",
    "urllib.request",
    "wsgiref",
}


def start(quick):
    message = post(FIELDS)()
    body = message["wsgi.input"].getvalue()
    plain = {key: value for key, value in message.items() if isinstance(value, (str, bool, tuple))}
    answer = f"""
import io
environ = {{**{plain!r}, "wsgi.input": io.BytesIO({body!r}), "wsgi.errors": None}}
assert b"".join(app(environ, lambda *_: None)) == {TWIML!r}"""
    run = {name: code + answer if "app =" in code else code for name, code in STARTS.items()}
    took = interleaved(
        {name: lambda code=code: python(code) for name, code in run.items()}, 15 if quick else 60
    )
    beyond = {
        base: {
            name: median([a - b for a, b in zip(took[name], took[base])]) * 1000 for name in took
        }
        for base in ("Python alone", "import logging")
    }
    rows = [
        (name, median(took[name]) * 1000, *[beyond[base][name] for base in beyond]) for name in took
    ]
    table(("from the start of the process", "ms", "beyond Python alone", "beyond logging"), rows)
    for base, wanted in zip(beyond, (1 / 5, 1 / 8)):
        part = beyond[base]["import smsreply"] / beyond[base]["import Flask, helper"]
        goal(f"import of Flask + helper, beyond {base}", part, wanted, most=True)
    found = python("import sys, smsreply; print(*sys.modules)").split()
    goal(
        f"imported and not needed: {sorted(NOT_NEEDED & set(found))}",
        len(NOT_NEEDED & set(found)),
        0,
        most=True,
    )
    names = (US, "smsreply, a session", CACHE, FLASK)
    sizes = {
        name: python(f"import bench; bench.resident({name!r})").split()
        for name, _ in installed({n: PEERS[n] for n in names})
    }
    table(
        ("memory, MB", "at the start", "after 1,000", "after 10,000"),
        [(name, *sizes[name]) for name in sizes],
    )
    goal(
        "memory after 10,000 messages, of after 1,000",
        float(sizes[US][2]) / float(sizes[US][1]),
        1.02,
        most=True,
    )


def python(code):
    """Run *code* in a new Python, and leave that before it tidies up; return what was printed."""
    environ = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", f"{code}\nimport os, sys; sys.stdout.flush(); os._exit(0)"]
    return subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def resident(peer):
    """Print the memory of this process, in MB, before any message, after 1,000 and after 10,000."""
    app = PEERS[peer]()
    for n in range(10_001):
        if n in (0, 1_000, 10_000):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.1f}")
        ask(app, post({**FIELDS, "MessageSid": f"MM{n:032x}"})())


# ---------------------------------------------------------------------------- Growth


def fields(number, value=b"x" * 50):
    return b"From=1&Body=2&" + b"&".join([b"f%03d=%s" % (n, value) for n in range(number - 2)])


def growth(quick):
    rounds, length = (9, 1) if quick else (25, 3)
    short = dict(installed({US: lambda: ours(lambda message: "ok"), FLASK: PEERS[FLASK]}))
    forms = {f"{kB} kB": b"From=1&Body=" + b"word%21+" * (kB * 128 - 8) for kB in (1, 4, 16, 64)}
    forms.update({f"{number} fields": fields(number) for number in (10, 100, 1000)})
    rows = []
    for name, form in forms.items():
        took = interleaved(
            {peer: asking(app, post(form)) for peer, app in short.items()},
            rounds,
        )
        rows.append(
            (
                name,
                len(form),
                median(took[US]) * 1e6,
                median(took[US]) * 1e9 / len(form),
                ratio(took, FLASK, US) if FLASK in took else "",
            )
        )
    table(("longer messages", "bytes", "µs", "ns a byte", f"{FLASK}"), rows)
    dearest(rounds)
    if shutil.which("wrk") and dict(installed({"waitress": lambda: __import__("waitress")})):
        with serving([sys.executable, *SERVERS["waitress"]], US) as (port, _):
            rows = []
            for connections in (1, 10, 100, 1000):
                answered, report = load(port, length, connections)
                rows.append(
                    (
                        f"{connections}",
                        answered / length,
                        *re.findall(r"^ +(?:50|99)% +(\S+)", report, re.MULTILINE),
                    )
                )
        table(("connections, to waitress", "messages a second", "half within", "99 % within"), rows)


def requests(size):
    """Yield the dearest requests of about *size* bytes that we know: a name, and what `post` takes."""
    text, each = b"From=1&Body=", size // 999 - 6
    escapes, forged = b"%41" * (size // 3), {"sign": False}
    yield "one long text", text + b"x" * size, {}
    yield "all escapes", text + escapes, {}
    yield "all emoji", text + b"%F0%9F%98%80" * (size // 12), {}
    yield "999 fields", fields(999, b"x" * each), {}
    yield "999 fields, all escapes", fields(999, b"%41" * (each // 3)), {}
    yield "one field 999 times", b"&".join([b"From=" + b"x" * each] * 999), {}
    yield "one name 999 times", fields(999, b"x" * each).replace(b"&f", b"&f="), {}
    yield "the long way, all escapes", b"a&" + text + escapes, {}
    yield "the long way, 999 fields, all escapes", b"a&" + fields(998, b"%41" * (each // 3)), {}
    yield "all % (400)", b"%" * size, forged
    yield "malformed at the end (400)", text + escapes + b"%4", forged
    yield "not UTF-8 at the end (400)", text + escapes + b"%FF", forged
    yield "a long query", FIELDS, {"QUERY_STRING": "a=" + escapes.decode()}
    yield "a deep path", FIELDS, {"PATH_INFO": "/a" * (size // 2)}
    yield "a host all @[ (403)", FIELDS, {"HTTP_HOST": "@[" * (size // 2) + ":x", **forged}
    yield "cookies, all forged", FIELDS, {"HTTP_COOKIE": "smsreply=x;" * (size // 44)}
    yield "forged, 999 fields (403)", fields(999, b"x" * each), forged
    yield "forged and explained, all escapes (403)", text + escapes, forged
    yield "forged and explained, 999 fields (403)", fields(999, b"x" * each), forged
    yield "forged and explained, a short form (403)", FIELDS, forged
    yield (
        "forged and explained, a long query (403)",
        FIELDS,
        {"QUERY_STRING": "a=" + escapes.decode(), **forged},
    )
    yield (
        "forged and explained, a query of fields (403)",
        FIELDS,
        {"QUERY_STRING": fields(999).decode(), **forged},
    )
    yield (
        "forged and explained, a deep path (403)",
        FIELDS,
        {"PATH_INFO": "/a" * (size // 2), **forged},
    )


def dearest(rounds):
    calls, normal, half, full = {}, len(urlencode(FIELDS)), 31_500, 63_000
    calls["a normal message", full] = asking(ours(), post(FIELDS))
    for size in (half, full):
        for name, form, more in requests(size):
            app, make = ours(lambda message: "ok"), post(form, **more)
            # An App explains the first refusal in a second, so here a new one each time, or none.
            app._seldom.admits = lambda kind: False
            explained = name.startswith("forged and explained")
            calls[name, size] = lambda a=app, m=make, new=explained: (ours() if new else a)(
                m(), ignore
            )
    took = interleaved(calls, rounds)
    each = median(took.pop(("a normal message", full))) / normal
    growth = {name: ratio(took, (name, full), (name, half)) for name, size in took if size == full}
    rows = [
        (name, median(took[name, full]) * 1e6, median(took[name, full]) / full / each, growth[name])
        for name in growth
    ]
    table(
        (
            f"the dearest requests, {full:,} bytes",
            "µs",
            "a byte, of a normal one's",
            "of half the size",
        ),
        rows,
    )
    worst = max(growth, key=growth.get)
    goal(f"twice the size costs at most ({worst})", growth[worst], 2.5, most=True)


def main():
    parts = {"inprocess": inprocess, "servers": servers, "start": start, "growth": growth}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="all", choices=[*parts, "all"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: three minutes for all")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(
        f"Python {sys.version.split()[0]}, smsreply {smsreply.__version__}, {os.cpu_count()} cores"
    )
    for name, part in parts.items():
        if options.part in (name, "all"):
            part(options.quick)


if __name__ == "__main__":
    main()
