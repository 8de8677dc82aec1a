"""How fast smsreply is beside its peers: ratios, measured on your machine.

    python3 -m pip install '.[bench,production]'        # and Debian's wrk, Node and npm
    python3 tests/bench.py [inprocess | servers | start | growth | all] [--quick]

Every peer does the same work, a signed message of 25 parameters in and the same TwiML out.
It has to give that answer before it is timed, and to refuse a forgery unless it is called
unchecked.  Peers take turns, round after round, so that a busy machine is busy for all of
them, and what is counted is CPU time, which other programs do not use up.  Shown are medians;
a ratio is the median of the rounds' ratios.  What is not installed is left out, and said.

    inprocess   one call of the WSGI callable, on one core
    servers     messages in a second of CPU time, one core for the server, one for the load
    start       from the start of the process to the first answer; imports; memory
    growth      longer messages, more fields, accounts, connections and entries of a cache,
                and the dearest requests
"""

import argparse
import compileall
import contextlib
import http.client
import io
import itertools
import logging
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from inspect import getsource
from itertools import cycle
from pathlib import Path
from statistics import median
from urllib.parse import parse_qsl, urlencode
from wsgiref.util import request_uri, setup_testing_defaults

import bench_peers as peers
from bench_peers import (
    CACHE,
    CONSTANT,
    FALCON,
    FIELDS,
    FLASK,
    PEERS,
    REDIS,
    RESPONSE,
    SESSION,
    SQLITE,
    STRING,
    TWIML,
    US,
)

import smsreply

HERE = Path(__file__).resolve().parent
HOST, TOKEN, SIGNATURE = peers.HOST, peers.TOKEN, peers.SIGNATURE
FORGED = "A" * 27 + "="


def __getattr__(name):
    """Make `bench:application`, or `bench:asgi`, the peer that the environment names."""
    if name in ("application", "asgi"):
        of = PEERS if name == "application" else peers.ASGI_PEERS
        return of[os.environ["BENCH_PEER"]]()
    raise AttributeError(name)


# ----------------------------------------------------------- Requests, rounds, tables
def post(form, sign=True, **more):
    """Return a function that makes a fresh environ: of a POST of *form*, signed or forged."""
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/sms", "QUERY_STRING": "", "HTTP_HOST": HOST}
    environ.update(CONTENT_LENGTH=str(len(body)), CONTENT_TYPE=smsreply.FORM_TYPE, **more)
    setup_testing_defaults(environ)
    fields, url = parse_qsl(body.decode(), keep_blank_values=True), request_uri(environ)
    signature = smsreply.RequestValidator(TOKEN).compute_signature(url, fields) if sign else FORGED
    environ.update(REQUEST_URI=url[len(f"http://{HOST}") :], HTTP_X_TWILIO_SIGNATURE=signature)
    return lambda: {**environ, "wsgi.input": io.BytesIO(body)}


def asking(name, app, make, status=200, body=None):
    """Return the call that is timed, of an *app* that is seen to give the right answer."""
    got = []
    answer = b"".join(app(make(), lambda *start: got.extend(start)))
    right = int(got[0][:3]) == status and body in (None, answer)
    assert right, f"{name} answers {got[0]} {answer!r}"
    return lambda: app(make(), lambda *start: None)


def cpu():
    """Return the CPU time in seconds of this process, all its threads, and what it has run."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def interleaved(calls, rounds):
    """Return how many seconds each of *calls* took, in each of so many rounds."""
    times, took = dict.fromkeys(calls, 1), {name: [] for name in calls}
    for number in range(-2, rounds):  # two rounds more, to warm up, and to see what 20 ms hold
        for name, call in calls.items():
            start = cpu()
            for _ in range(times[name]):
                call()
            took[name].append((cpu() - start) / times[name])
            if number < 0:
                times[name] = 1 + int(0.02 / took[name].pop())
    return took


def ratio(measured, name, to):
    """Return the median of the rounds' ratios, or "" if one of the two was left out."""
    both = name in measured and to in measured
    return median([a / b for a, b in zip(measured[name], measured[to])]) if both else ""


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        cells = [cell if isinstance(cell, str) else f"{cell:,.2f}" for cell in row]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def goal(what, measured, wanted, most=False):
    if measured != "":
        reached = measured <= wanted if most else measured >= wanted
        limit = f"at {'most' if most else 'least'} {wanted}"
        print(f"- {'reached' if reached else 'MISSED'}: {what}: {measured:.3f} ({limit})")


# ------------------------------------------------------------------------ In process
@contextlib.contextmanager
def on_one_core():
    """Stay on one core: to wake a thread on another one may cost more than all its work."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if cores:
            os.sched_setaffinity(0, {min(cores)})
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


@on_one_core()
def inprocess(quick):
    message, forgery, calls, got = post(FIELDS), post(FIELDS, sign=False), {}, []
    peers.ours(peers.counting)(message(), lambda status, headers: got.extend(headers))
    cookie = dict(got)["Set-Cookie"].partition(";")[0]
    special = {SESSION: post(FIELDS, HTTP_COOKIE=cookie)}
    messages = [post({**FIELDS, "MessageSid": f"MM{n:032x}"}) for n in range(20_000)]
    for name in (CACHE, SQLITE, REDIS):
        special[name] = partial(anew, cycle(messages))
    for name, app in peers.installed(PEERS).items():
        refusing = asking(name, app, forgery, 200 if "unchecked" in name else 403)
        calls[name] = asking(name, app, special.get(name, message), 200, TWIML)
        if name in (US, FLASK):
            calls[f"{name}, refusing (403)"] = refusing
    calls.update(parts_of(message()))
    took = interleaved(calls, 15 if quick else 75)
    rows = [(name, median(took[name]) * 1e6, ratio(took, name, US)) for name in took]
    rows.sort(key=lambda row: row[1])
    table((f"a message of {len(FIELDS)} fields, in process", "µs", "times smsreply's"), rows)
    goal(f"times as fast as {FLASK}", ratio(took, FLASK, US), 16)
    goal("the same with a MessagingResponse", ratio(took, FLASK, RESPONSE), 9)
    goal(f"times as fast as {FALCON}", ratio(took, FALCON, US), 1.5)
    goal("a session, of a plain message", ratio(took, SESSION, US), 1.6, most=True)
    goal("MemoryCache and a new message, of it", ratio(took, CACHE, US), 2.8, most=True)


def parts_of(environ):
    """Return the parts that no answer in Python can do without, each alone."""
    body = environ["wsgi.input"].read()
    fields = smsreply.parse(body)
    string, signer = smsreply.signed_string(HOST, fields), smsreply.Signer(TOKEN.encode())
    return {
        "(a part: parse the form)": lambda: smsreply.parse(body),
        "(a part: sort and join the fields)": lambda: smsreply.signed_string(HOST, fields),
        "(a part: the HMAC)": lambda: signer.sign(string),
    }


# --------------------------------------------------------------------------- Servers
SIGNED = post(FIELDS)()["HTTP_X_TWILIO_SIGNATURE"]
HEADERS = {"Host": HOST, "Content-Type": smsreply.FORM_TYPE, SIGNATURE: SIGNED}
WAITRESS = "-m waitress --listen=127.0.0.1:PORT --threads=16 --connection-limit=2000"
SERVERS = {
    "waitress": f"{WAITRESS} bench:application",
    "gunicorn": "-m gunicorn --bind=127.0.0.1:PORT --worker-class=gthread bench:application",
    "granian": "-m granian --interface=wsgi --port=PORT --no-log bench:application",
    "uvicorn": "-m uvicorn --port=PORT --lifespan=off --no-access-log bench:asgi",
    "bjoern": "-c 'import bench, bjoern; bjoern.run(bench.application, \"127.0.0.1\", PORT)'",
}


@contextlib.contextmanager
def started(command, peer, folder=None):
    """Run a server on the first core; yield its port and its session."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{folder or HERE.parent}:{HERE}"
    environ = {**os.environ, "BENCH_PEER": peer, "NODE_ENV": "production", "PYTHONPATH": path}
    environ.update(TWILIO_AUTH_TOKEN=TOKEN, PYTHONDONTWRITEBYTECODE="1")
    command = shlex.split(f"taskset -c 0 {command.replace('PORT', str(port))}")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    with subprocess.Popen(command, env=environ, start_new_session=True, **quiet) as process:
        try:
            yield port, process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too


def client_of(port):
    """Return a client that is connected to a server that is just starting."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(1000):
        with contextlib.suppress(ConnectionError):
            client.connect()
            return client
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens at port {port}")


@contextlib.contextmanager
def serving(name, command):
    """Run a server on the first core; yield its port and session once it is right, and steady."""
    peer = name.rpartition(": ")[2]
    with started(command, peer) as (port, session):
        try:
            client = client_of(port)
        except TimeoutError as error:
            raise TimeoutError(f"{name}: {error}") from None
        client.request("POST", "/sms", urlencode(FIELDS), HEADERS)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, TWIML), f"{name}: {answer.status}"
        client.request("POST", "/sms", urlencode(FIELDS), {**HEADERS, SIGNATURE: FORGED})
        status = client.getresponse().status
        assert status == (200 if "unchecked" in peer else 403), f"{name}, forged: {status}"
        client.close()
        warm_up((port, session), *(5, 20) if "node" in command else (2, 2))
        yield port, session


def warm_up(server, least, most):
    """Load a server until it is steady: two seconds in a row differ by less than 5 %."""
    # V8 compiles what is hot when it sees fit, and two early seconds can be alike by chance.
    rates = [load(server, 1)[0] for _ in range(least)]
    while len(rates) < most and abs(rates[-1] / rates[-2] - 1) >= 0.05:
        rates.append(load(server, 1)[0])


def cpu_of(session):
    """Return the CPU time in seconds of all processes of a *session*: a server and its workers."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # proc(5): what follows the name, in parentheses
            stat = file.read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12]) if int(stat[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def load(server, seconds, connections=16):
    """Return how many messages a *server* answers in a second of CPU time, and wrk's report."""
    port, session = server
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method, wrk.body = 'POST', '{urlencode(FIELDS)}'")
        script.flush()
        wrk = f"taskset -c 1 wrk -t1 -c{connections} -d{seconds}s --latency -s {script.name}"
        command = [*wrk.split(), *[f"-H{name}: {value}" for name, value in HEADERS.items()]]
        before, url = cpu_of(session), f"http://127.0.0.1:{port}/sms"
        report = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in report, report
    return int(re.search(r"(\d+) requests in", report)[1]) / (cpu_of(session) - before), report


def commands(folder):
    """Return the command of each server that can be run."""
    apps = peers.installed((CONSTANT, US, FLASK, f"{FLASK}, unchecked"))
    found = peers.installed(SERVERS, __import__)
    python = {f"{s}: {p}": f"{sys.executable} {SERVERS[s]}" for s in found for p in apps}
    npm = f"npm install --silent --no-audit --prefix={folder} express body-parser twilio"
    if not shutil.which("npm") or subprocess.run(npm.split(), check=False).returncode:
        print("Express is left out: npm did not install it")
        return python
    Path(folder, "express.js").write_text(peers.EXPRESS)
    return {**python, **dict.fromkeys((STRING, peers.HELPER), f"node {folder}/express.js PORT")}


def servers(quick):
    if not (shutil.which("wrk") and shutil.which("taskset")):
        print("The servers are left out: there is no wrk, or no taskset")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        found = commands(folder).items()
        found = {name: running.enter_context(serving(name, command)) for name, command in found}
        rates = {name: [] for name in found}
        for _ in range(3 if quick else 7):
            for name, server in found.items():
                rates[name].append(load(server, 1 if quick else 3)[0])
    rows = []
    for name, each in rates.items():
        alone = ratio(rates, name, f"{name.partition(':')[0]}: {CONSTANT}")
        rows.append((name, median(each), alone, ratio(rates, name, STRING)))
    table(("through a server", "in a CPU second", f"of {CONSTANT}", f"of {STRING}"), rows)
    waitress, bjoern = f"waitress: {US}", f"bjoern: {US}"
    goals = (waitress, f"waitress: {CONSTANT}", 0.7), (waitress, STRING, 1), (bjoern, STRING, 4)
    # The last is less work, and cannot be slower: where it is, nothing here is to be believed.
    for name, to, wanted in (*goals, (STRING, peers.HELPER, 1)):
        goal(f"{name}, of {to}", ratio(rates, name, to), wanted)


# ---------------------------------------------------------------- Cold start, memory
BOT = "def reply(message): return 'You said ' + message['Body']\napplication = __import__('smsreply').App(reply)"
EVENT = {
    "version": "2.0", "rawPath": "/sms", "rawQueryString": "", "body": urlencode(FIELDS),
    "requestContext": {"http": {"method": "POST"}},
    "headers": {"host": HOST, "content-type": smsreply.FORM_TYPE},
}  # fmt: skip
EVENT["headers"][SIGNATURE.lower()] = post(FIELDS, **{"wsgi.url_scheme": "https"})()[
    "HTTP_X_TWILIO_SIGNATURE"
]
LAMBDA = f"import aws_lambda; assert aws_lambda.lambda_handler({EVENT!r}, None)['body'] == {TWIML.decode()!r}"
PRODUCTION = "-m smsreply serve --production"
STARTS = {
    "smsreply.py serve": "smsreply.py serve --no-phone --port=PORT bot:reply",
    "-m smsreply serve": "-m smsreply serve --no-phone --port=PORT bot:reply",
    "smsreply.py serve --production": "smsreply.py serve --production --port=PORT bot:reply",
    PRODUCTION: f"{PRODUCTION} --port=PORT bot:reply",
    "Flask + helper, waitress": f"{WAITRESS} bench:application",
}
ALONE, IMPORT, THEIRS = "Python alone", "import smsreply", "import Flask, helper"
NAMES = f"TOKEN, SIGNATURE = {TOKEN!r}, {SIGNATURE!r}\n"
THEIR_SOURCE = getsource(peers.tutorial) + getsource(peers.flask_app)
CODES = {
    ALONE: "",
    "logging": "import logging",
    IMPORT: "import smsreply",
    THEIRS: "import flask, twilio.request_validator, twilio.twiml.messaging_response",
    "smsreply's first answer": f"import smsreply\n{NAMES}{getsource(peers.ours)}app = ours()",
    "Flask's": f"{NAMES}{THEIR_SOURCE}app = flask_app(True)",
}
# What smsreply imports only when it serves, plays Twilio, or is run as a program.
NOT_NEEDED = {"argparse", "http", "json", "socket", "ssl", "urllib.request", "wsgiref"}


def start(quick):
    environ = {**post(FIELDS)(), "wsgi.errors": None, "wsgi.file_wrapper": None}
    environ["wsgi.input"], body = None, environ["wsgi.input"].read()
    answer = f"""
import io
environ = {{**{environ!r}, "wsgi.input": io.BytesIO({body!r})}}
assert b"".join(app(environ, lambda *start: None)) == {TWIML!r}"""
    codes = {name: code + answer if "app =" in code else code for name, code in CODES.items()}
    calls = {name: partial(python, code) for name, code in codes.items()}
    took = interleaved(calls, 15 if quick else 60)

    def beyond(base, name):
        return median([a - b for a, b in zip(took[name], took[base])]) * 1000

    rows = [(n, median(took[n]) * 1000, beyond(ALONE, n), beyond("logging", n)) for n in took]
    table(("from the start of the process", "ms", "beyond Python alone", "beyond logging"), rows)
    for base, wanted in ((ALONE, 1 / 5), ("logging", 1 / 8)):
        part = beyond(base, IMPORT) / beyond(base, THEIRS)
        goal(f"import, of Flask's and the helper's, beyond {base}", part, wanted, most=True)
    found = NOT_NEEDED & set(python("import sys, smsreply; print(*sys.modules)").split())
    goal(f"imported and not needed: {sorted(found)}", len(found), 0, most=True)
    names = peers.installed((US, SESSION, CACHE, FLASK))
    sizes = {name: python(f"import bench; bench.resident({name!r})").split() for name in names}
    head = "memory, MB", "at the start", "after 1,000", "after 10,000"
    table(head, [(name, *size) for name, size in sizes.items()])
    grown = float(sizes[US][2]) / float(sizes[US][1])
    goal("memory after 10,000 messages, of after 1,000", grown, 1.02, most=True)
    first_answers(quick)
    if shutil.which("wrk") and peers.installed(["waitress"], __import__):
        memory_served(quick)


def first_answers(quick):
    """Show what it takes from the start of a process to its first answer, over a socket or not."""
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as compiled:
        for folder in (plain, compiled):
            for file in ("smsreply.py", "examples/hosts/aws_lambda.py"):
                shutil.copy(HERE.parent / file, folder)
            Path(folder, "bot.py").write_text(BOT)
        compileall.compile_dir(compiled, quiet=1)
        calls = {
            f"a function's cold start, {kind}": partial(python, code, folder)
            for kind, folder, code in (
                ("Python alone", plain, ""),
                (".py", plain, LAMBDA),
                (".pyc", compiled, LAMBDA),
            )
        }
        if peers.installed((FLASK,)) and peers.installed(["waitress"], __import__):
            for name, command in STARTS.items():
                calls[name] = partial(first_answer, command, compiled)
        took = interleaved(calls, 9 if quick else 30)
    rows = [(name, median(took[name]) * 1000) for name in took]
    table(("from the start to the first answer", "ms of CPU time"), rows)


def first_answer(command, folder):
    """Run a server until it has answered one message."""
    command = f"{sys.executable} {command}"
    with (
        started(command, FLASK, folder) as (port, _),
        contextlib.closing(client_of(port)) as client,
    ):
        client.request("POST", "/sms", urlencode(FIELDS), HEADERS)
        assert client.getresponse().read() == TWIML


def memory_served(quick):
    """Show the memory of a server at the start, and after many messages."""
    rows, most = [], 10_000 if quick else 100_000
    for name in (PRODUCTION, "Flask + helper, waitress"):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(HERE.parent / "smsreply.py", folder)
            Path(folder, "bot.py").write_text(BOT)
            with started(f"{sys.executable} {STARTS[name]}", FLASK, folder) as server:
                client_of(server[0]).close()
                before, count = memory(server[1]), 0
                while count < most:
                    count += int(re.search(r"(\d+) requests in", load(server, 5)[1])[1])
                rows.append((name, before, memory(server[1]), f"{count:,}"))
    table(("memory of a server, MB", "at the start", "after", "so many messages"), rows)


def memory(process):
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def python(code, folder=""):
    """Run *code* in a new Python, and leave that before it tidies up; return what was printed."""
    path = folder or f"{HERE.parent}:{HERE}"
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": folder}
    environ["TWILIO_AUTH_TOKEN"] = TOKEN
    command = [sys.executable, "-c", f"{code}\nimport os, sys; sys.stdout.flush(); os._exit(0)"]
    return subprocess.run(command, env=environ, stdout=-1, text=True, check=True).stdout


def resident(peer):
    """Print the memory of this process, in MB, before any message, after 1,000 and after 10,000."""
    app = PEERS[peer]()
    for n in range(10_001):
        if n in (0, 1_000, 10_000):
            print(f"{memory('self'):.1f}")
        asking(peer, app, post({**FIELDS, "MessageSid": f"MM{n:032x}"}))


# ---------------------------------------------------------------------------- Growth
def kinds(size):
    """Return a request of about *size* bytes of each kind that is dear: status, form, and more."""
    few, escapes, number = b"From=1&Body=2&", b"%41" * (size // 3), range(size // 63 - 3)
    fields, forged = few + b"&".join([b"f%03d=" % n + b"x" * 57 for n in number]), {"sign": False}
    query, path = {"QUERY_STRING": "a=" + escapes.decode()}, {"PATH_INFO": "/a" * (size // 2)}
    return {
        "a long text": (200, few + b"a=" + b"word%21+" * (size // 8), {}),
        "fields of 63 bytes": (200, fields, {}),
        "all escapes": (200, few + b"a=" + escapes, {}),
        "all emoji": (200, few + b"a=" + b"%F0%9F%98%80" * (size // 12), {}),
        "one name, over and over": (200, few + b"&".join([b"f=%061d" % n for n in number]), {}),
        'the long way: a field has no "="': (200, b"a&" + fields.replace(b"xxx", b"%41"), {}),
        "malformed at the end": (400, few + b"a=" + escapes + b"%4", forged),
        "a long query": (200, FIELDS, query),
        "a deep path": (200, FIELDS, path),
        "cookies, all forged": (200, FIELDS, {"HTTP_COOKIE": "smsreply=x;" * (size // 44)}),
        "explained: a short form": (403, FIELDS, forged),
        "explained: fields of 63 bytes": (403, fields, forged),
        "explained: a long query": (403, FIELDS, {**query, **forged}),
        "explained: a deep path": (403, FIELDS, {**path, **forged}),
    }


def growth(quick):
    sizes = dict.fromkeys(kinds(0), (31_500, 63_000))
    sizes["a long text"] = (1_000, 4_000, 16_000, 31_500, 63_000)
    sizes["fields of 63 bytes"] = (630, 6_300, 31_500, 63_000)
    apps, two = peers.installed((US, FLASK)), (peers.XML % "You said 2").encode()
    calls, rows = {"normal": asking(US, apps[US], post(FIELDS))}, []
    # An App explains the first forgery of a second: here each, in a new App, or none at all.
    apps[US]._seldom.suffix_for = lambda kind: None
    apps["explained"] = lambda environ, start: peers.ours()(environ, start)
    for name, size in [(kind, size) for kind, each in sizes.items() for size in each]:
        status, form, more = kinds(size)[name]
        body = None if status > 200 else TWIML if form is FIELDS else two
        app = apps.get(name.partition(":")[0], apps[US])
        calls[US, name, size] = asking(name, app, post(form, **more), status, body)
        if FLASK in apps and len(sizes[name]) > 2:
            calls[FLASK, name, size] = asking(FLASK, apps[FLASK], post(form), status, body)
    took = interleaved(calls, 9 if quick else 25)
    normal = median(took["normal"]) / len(urlencode(FIELDS))
    for peer, name, size in [key for key in took if key[0] == US]:
        key, cost = (peer, name, size), median(took[peer, name, size])
        twice = ratio(took, key, (US, name, size // 2))
        flask = ratio(took, (FLASK, name, size), key)
        rows.append((name, f"{size:,}", cost * 1e6, cost / size / normal, twice, flask))
    head = "longer and dearer messages", "bytes", "µs", "a byte, of a normal one's"
    table((*head, "of half the size", f"{FLASK}, times"), rows)
    worst, name = max([(row[4], row[0]) for row in rows if row[4] != ""])
    goal(f"twice the size costs at most ({name})", worst, 2.5, most=True)
    accounts_and_entries(quick)
    if shutil.which("wrk") and peers.installed(["waitress"], __import__):
        connections(1 if quick else 3)


def accounts_and_entries(quick):
    """Show what a message costs with many accounts, and with a long memory."""
    calls, folder = {}, tempfile.TemporaryDirectory()
    for number in (1, 10, 100, 1000):
        sids = [f"AC{n:032x}" for n in range(number)]
        app = peers.ours(auth_token=dict.fromkeys(sids, TOKEN))
        messages = cycle([post({**FIELDS, "AccountSid": sid}) for sid in sids])
        calls[f"{number:,} accounts, in turns"] = asking(
            US, app, partial(anew, messages), 200, TWIML
        )
    new = (post({**FIELDS, "MessageSid": f"MM{n:032x}"}) for n in itertools.count())
    for power in range(3, 6 if quick else 7):
        cache = smsreply.SQLiteCache(os.path.join(folder.name, str(power)))
        for n in range(10**power):
            cache.set(f"a{n:064x}", ["n", "r", "200 OK", [], TWIML.decode("latin-1")], 3600)
        app = peers.ours(cache=cache)
        calls[f"SQLiteCache, {10**power:,} answers kept"] = asking(US, app, partial(anew, new), 200)
        full = smsreply.MemoryCache(entries=10**power)
        for n in range(10**power):
            full.set(f"a{n:064x}", "")
        app = peers.ours(cache=full)
        calls[f"MemoryCache, full of {10**power:,} values"] = asking(
            US, app, partial(anew, new), 200
        )
    took = interleaved(calls, 9 if quick else 25)
    first = {name: next(key for key in took if key[-6:] == name[-6:]) for name in took}
    rows = [(n, median(took[n]) * 1e6, ratio(took, n, first[n])) for n in took]
    table(("more accounts, and a longer memory", "µs", "of the fewest"), rows)
    folder.cleanup()


def anew(messages):
    return next(messages)()


def connections(seconds):
    rows = []
    with serving(f"waitress: {US}", f"{sys.executable} {SERVERS['waitress']}") as server:
        for number in (1, 10, 100, 1000):
            rate, report = load(server, seconds, number)
            within = re.findall(r"^ +(?:50|99)% +(\S+)", report, re.MULTILINE)
            rows.append((f"{number}", rate, *within))
    table(("connections, to waitress", "in a CPU second", "half within", "99 % within"), rows)


def main():
    parts = {"inprocess": inprocess, "servers": servers, "start": start, "growth": growth}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", default="all", choices=[*parts, "all"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: four minutes for all")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    versions = f"Python {sys.version.split()[0]}, smsreply {smsreply.__version__}"
    print(f"{versions}, {os.cpu_count()} cores")
    for name in parts if options.part == "all" else [options.part]:
        parts[name](options.quick)


if __name__ == "__main__":
    main()
