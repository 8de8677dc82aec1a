"""Whatever stops or dies, whoever has connected is answered, and each message once.

With SMSREPLY_SLOW=1, and in CI, stops under load and a death at each second are tried too.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MESSAGE, PYTHON, ROOT, TOKEN, free_port, running, slow
from test_cluster import BOT, Servers, assert_each_was_handled_once, deliver_thrice_at_once
from test_serve import raw
from texter import Texter, over_http

pytest.importorskip("waitress")

SCRIPT = ROOT / "smsreply.py"
QUICK = """
import time

def reply(message):
    until = time.thread_time() + float(message.body)
    while time.thread_time() < until:
        sum(range(1000))
    return "done"
"""


@contextlib.contextmanager
def serving(folder, threads=64, source=QUICK):
    (folder / "bot.py").write_text(source)
    port = free_port()
    command = [PYTHON, SCRIPT, "serve", "bot:reply", "--production", "--host", "127.0.0.1"]
    command += ["--threads", threads, "--port", port, "--public-url", "http://abc.example"]
    with running(*command, port=port, env={"TWILIO_AUTH_TOKEN": TOKEN}, cwd=folder) as process:
        # It listens a moment before it minds a signal: once it has answered, it does.
        assert Client(port).send().status() == 200
        yield port, process


class Client:
    """Somebody who connects, and may wait before they say what they want."""

    number = 0

    def __init__(self, port, work="0"):
        Client.number += 1
        sid = f"SM{Client.number:032x}"
        self.request = raw({**MESSAGE, "MessageSid": sid, "Body": work})
        self.connection = socket.create_connection(("127.0.0.1", port), 20)

    def send(self, keep=False):
        kept = self.request.replace(b"Connection: close\r\n", b"")
        self.connection.sendall(kept if keep else self.request)
        return self

    def status(self, keep=False):
        """Return the status of the answer: 0 if there is none."""
        try:
            with contextlib.closing(http.client.HTTPResponse(self.connection)) as answer:
                answer.begin()
                return answer.status if b"done" in answer.read() else -answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            if not keep:
                self.connection.close()


def connect(port, count):
    return [Client(port) for _ in range(count)]


@pytest.mark.parametrize("threads", [pytest.param(1, marks=slow), 64])
def test_whoever_has_connected_when_sigterm_comes_is_answered(tmp_path, threads):
    with serving(tmp_path, threads) as (port, process):
        kept = [client.send(keep=True) for client in connect(port, 20)]
        assert [client.status(keep=True) for client in kept] == [200] * 20
        silent = connect(port, 20)
        time.sleep(0.3)  # they are accepted, and say nothing
        os.kill(process.pid, signal.SIGSTOP)
        queued = [client.send() for client in connect(port, 50)]  # in the kernel's queue
        written = [client.send() for client in kept]
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.5)
        late = [client.send() for client in silent]
        assert [client.status() for client in queued + written + late] == [200] * 90
        assert process.wait(20) == 0


@slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_each_signal_that_ends_it_lets_what_is_in_flight_be_answered(tmp_path, name):
    with serving(tmp_path) as (port, process):
        client = Client(port, work="0.4").send()
        time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        if name != "SIGINT":  # a second Ctrl-C ends it at once
            process.send_signal(getattr(signal, name))
        assert client.status() == 200
        assert process.wait(10) == 0


def stop(folder, threads, clients, pause=0.0):
    """Have *clients* connect and send, end the server, and return who was not answered."""
    with serving(folder, threads) as (port, process), ThreadPoolExecutor(64) as pool:
        statuses = clients(port, process, pool)
        assert process.wait(40) == 0
        return [status for status in statuses if status != 200]


def sent(port, process, pool):
    each = [client.send() for client in connect(port, 50)]
    process.terminate()
    return list(pool.map(Client.status, each))


def one_by_one(port, process, pool):
    threading.Timer(0.02, process.terminate).start()
    each = []
    with contextlib.suppress(ConnectionError):  # who cannot connect is for Twilio to retry
        for _ in range(50):
            each.append(Client(port).send())
            time.sleep(0.001)
    return list(pool.map(Client.status, each))


def silent(port, process, pool):
    each = connect(port, 50)
    process.terminate()
    time.sleep(1)
    return [client.send().status() for client in each]


def kept(port, process, pool):
    each = [client.send(keep=True) for client in connect(port, 50)]
    for client in each:
        client.status(keep=True)
        client.send()
    process.terminate()
    return list(pool.map(Client.status, each))


def under_load(port, process, pool):
    """Forty messages a second, each with 10 ms of the CPU, for a second and a half."""
    threading.Timer(1, process.terminate).start()
    asked = []
    with contextlib.suppress(ConnectionError):
        for _ in range(60):
            asked.append(pool.submit(Client(port, work="0.01").send().status))
            time.sleep(1 / 40)
    return [future.result() for future in asked]


@slow
@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("clients", [sent, one_by_one, silent, kept, under_load])
def test_in_twelve_stops_nobody_who_connected_is_lost(tmp_path, clients, threads):
    folders = [tmp_path / str(number) for number in range(12)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda one: stop(one, threads, clients), folders)) == [[]] * 12


# ----------------------------------------------------------------------- a machine dies

SHARED = 'cache = smsreply.SQLiteCache("messages.sqlite")'


class Retrying(Texter):
    """Twilio with ``#rc=2&rp=all``, behind a load balancer that drops who does not answer.

    All tries of a request share its 15 seconds.
    """

    def __init__(self, ports, **options):
        super().__init__(0, **options)
        self.ports = ports

    def _ask(self, method, url, headers, body):
        until = time.monotonic() + 15
        for _ in range(3):
            try:
                target = url.removeprefix(self.public)
                headers = {**headers, "Host": "abc.example"}
                left = until - time.monotonic()
                return over_http(self.ports[0], method, target, headers, body, timeout=left)
            except (OSError, http.client.HTTPException):
                self.ports = self.ports[1:] or self.ports
        return 0, {}, b""


def two_servers(servers, patience=10, claim_age=0):
    source = BOT.format(cache=SHARED, patience=patience, claim_age=claim_age)
    (servers.folder / "bot.py").write_text(source)


@pytest.fixture
def servers(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Servers(tmp_path, stack)


def death(servers, other, second, sid, **options):
    """Kill a server so many seconds after its message came; return what the person gets."""
    phone = servers.start("bot:application")
    process = servers.processes[-1]
    same = dict.fromkeys(("MessageSid", "SmsSid", "SmsMessageSid"), sid)
    retrying = Retrying([phone.webhook, other], target="/sms?first=60&next=1", **options)
    threading.Timer(second, process.kill).start()
    return retrying.text("Hi", **same, From=f"+1401{int(sid[-7:], 16):07d}")


@slow
def test_a_message_of_a_server_that_was_killed_is_answered_by_another(servers):
    two_servers(servers, patience=1, claim_age=2)
    other = servers.start("bot:application").webhook
    texted = death(servers, other, 0.4, f"SM{1:032x}")
    assert texted.reply == f"Hi by {servers.processes[0].pid}"


@slow
@pytest.mark.parametrize("first", [0, 10], ids=["the first round", "a later one"])
def test_a_death_at_each_second_of_a_round_loses_no_message(servers, first):
    two_servers(servers)
    other = servers.start("bot:application").webhook
    with ThreadPoolExecutor(15) as pool:
        started = [
            pool.submit(death, servers, other, first + second + 0.5, f"SM{second:032x}")
            for second in range(15)
        ]
        texts = [future.result().texts for future in started]
    assert texts == [[f"Hi by {servers.processes[0].pid}"]] * 15
    assert servers.runs() == {f"SM{second:032x}": 2 for second in range(15)}


@slow
def test_a_pause_of_a_process_makes_no_message_run_twice(servers):
    two_servers(servers)
    phones = [servers.start("bot:application") for _ in range(2)]

    def pause():
        for process in servers.processes * 2:
            process.send_signal(signal.SIGSTOP)
            time.sleep(3)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.3)

    pausing = threading.Thread(target=pause)
    pausing.start()
    exchanges = deliver_thrice_at_once(phones, 300, abreast=8)
    pausing.join()
    assert_each_was_handled_once(exchanges, servers)
