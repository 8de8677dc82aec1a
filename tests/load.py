"""Load: one production server, and what 1, 100 and 1000 connections see of it.

    python tests/load.py                    # ten seconds at each level
    python tests/load.py 600                # seconds
    python tests/load.py 60 100 1000        # and connections

Nothing leaves 127.0.0.1, and all of it ends by itself.  After the levels come those who
mean harm, for a minute at most, and beside each of them ten connections that mean none:
slow senders, bodies that never come, clients that leave before the answer, and floods of
forged requests.
The figures are a table in Markdown.  Client and server share the machine: the server
alone would be faster.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qsl

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from conftest import PYTHON, ROOT, free_port, wait_for_port
from oracles import SID, SMS, TOKENS, sign

BOT = "def reply(message):\n    return 'You said ' + message.body\n"
TIMEOUT = 15  # seconds, as Twilio has it
SLOW, HONEST = 500, 10  # connections


def request(port, sid, token=TOKENS[0]):
    """Return the bytes of an SMS as Twilio sends it."""
    form = SMS.replace(SID, sid)
    fields = "".join([n + v for n, v in sorted(set(parse_qsl(form, keep_blank_values=True)))])
    signature = sign(token, f"http://127.0.0.1:{port}/sms{fields}")
    head = (
        f"POST /sms HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Twilio-Signature: {signature}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n"
    )
    return f"{head}\r\n{form}".encode()


class Figures:
    """What was seen: seconds for each right answer, and all else, counted."""

    def __init__(self):
        self.seconds, self.errors, self.count = [], {}, 0
        self.each_second = {}  # how many were answered in it

    def error(self, what):
        self.errors[what] = self.errors.get(what, 0) + 1

    def answered(self, started):
        now = time.monotonic()
        self.seconds.append(now - started)
        self.each_second[int(now)] = self.each_second.get(int(now), 0) + 1

    def slowest(self):
        """Return how many were answered in the worst whole second: a stall would show."""
        begin, end = min(self.each_second, default=0), max(self.each_second, default=0)
        return min([self.each_second.get(second, 0) for second in range(begin + 1, end)], default=0)

    def row(self, name, seconds, memory):
        times = sorted(self.seconds) or [float("nan")]
        median, late = (1000 * times[int(len(times) * share)] for share in (0.5, 0.99))
        errors = ", ".join([f"{count} {what}" for what, count in self.errors.items()]) or "none"
        before, after = memory
        return (
            f"| {name} | {len(self.seconds)} | {len(self.seconds) / seconds:.0f} | {self.slowest()} "
            f"| {errors} | {median:.1f} | {late:.1f} | {before:.1f} | {after:.1f} |"
        )


async def answer(reader):
    """Read one answer; return its status and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    size = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
    return int(head.split(" ")[1]), await reader.readexactly(size)


async def honest(port, number, end, figures):
    """Send signed messages over one connection until *end*, each when the last is answered."""
    writer, count = None, 0
    while time.monotonic() < end:
        data = request(port, f"SM{number:08x}{count:024x}")
        count += 1
        started = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                status, body = await answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            figures.error(type(error).__name__)
            if writer:
                writer.close()
            writer = None
            continue
        if status == 200 and b"<Message>You said Hello &amp; &lt;b&gt;" in body:
            figures.answered(started)
        else:
            figures.error(str(status))
    if writer:
        writer.close()


async def connected(port, work):
    """Open a connection, do *work* with it, close it; whatever happens is no matter."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.1)
        return
    try:
        await work(reader, writer)
    except (OSError, EOFError, TimeoutError):
        pass
    finally:
        writer.close()


async def slow_sender(port, number, end, figures):
    """Send a byte a second."""

    async def work(reader, writer):
        for byte in request(port, SID):
            if time.monotonic() > end:
                return
            writer.write(bytes([byte]))
            figures.count += 1
            await asyncio.sleep(1)

    await connected(port, work)


async def no_body(port, number, end, figures):
    """Announce a body, and send none of it."""

    async def work(reader, writer):
        writer.write(request(port, SID).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        figures.count += 1
        await asyncio.sleep(max(0, end - time.monotonic()))

    await connected(port, work)


async def leaver(port, number, end, figures):
    """Send a whole message, and leave before it is answered."""

    async def work(reader, writer):
        writer.write(request(port, f"SM{number:08x}{figures.count:024x}"))
        await writer.drain()
        figures.count += 1
        writer.transport.abort()

    while time.monotonic() < end:
        await connected(port, work)
        await asyncio.sleep(0.05)


async def forger(port, number, end, figures):
    """Send messages with a wrong signature, as fast as they are refused."""
    forged = [request(port, f"SM{number:032x}", token="guess")]
    # And what costs most to explain: many fields, and five ways to order the query.
    form = "&".join([f"f{field}=" for field in range(900)])
    forged.append(
        f"POST /sms?a=1&b=2&c=3&d=4&e=5 HTTP/1.1\r\nHost: {'[@' * 8000}x:y\r\n"
        f"X-Twilio-Signature: {'x' * 28}\r\nContent-Length: {len(form)}\r\n\r\n{form}".encode()
    )
    forged.append(forged[1].replace(b"[@" * 8000 + b"x:y", b"127.0.0.1"))

    async def work(reader, writer):
        while time.monotonic() < end:
            writer.write(forged[figures.count % 3])
            figures.count += 1
            async with asyncio.timeout(TIMEOUT):
                status, _ = await answer(reader)
            if status == 200:
                figures.error("FORGED AND ANSWERED")
            elif status not in (400, 403):
                figures.error(f"forged: {status}")

    while time.monotonic() < end:
        await connected(port, work)


LEVELS = {
    "slow senders": (slow_sender, SLOW),
    "bodies that never come": (no_body, SLOW),
    "clients that leave": (leaver, 50),
    "forgers": (forger, 50),
}


def memory(process):
    """Return how many MiB *process* has in memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def level(port, process, seconds, name, honest_ones, others=()):
    """Run one level; print its row."""
    figures, harm = Figures(), Figures()
    before, end = memory(process), time.monotonic() + seconds
    work = [honest(port, number, end, figures) for number in range(honest_ones)]
    for kind, count in others:
        work += [kind(port, number, end, harm) for number in range(count)]
    await asyncio.gather(*work)
    for what, count in harm.errors.items():
        figures.errors[what] = count
    if others:
        unit = "bytes" if others[0][0] is slow_sender else "times"
        name += f" ({others[0][1]} connections, {harm.count} {unit})"
    print(figures.row(name, seconds, (before, memory(process))), flush=True)


async def levels(port, process, seconds, connections):
    print(
        "| | answered | a second | worst second | errors | median ms | 99 % ms | MiB before | after |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for count in connections:
        await level(port, process, seconds, f"{count} connections", count)
    seconds = min(seconds, 60)
    for name, other in LEVELS.items():
        await level(port, process, seconds, f"{HONEST} connections, beside {name}", HONEST, [other])
    await level(port, process, seconds, f"{HONEST} connections, after all that", HONEST)


def main(arguments):
    seconds, *connections = [int(argument) for argument in arguments] or [10]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    environ = {**os.environ, "TWILIO_AUTH_TOKEN": TOKENS[0], "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        Path(folder, "bot.py").write_text(BOT)
        command = f"-m smsreply serve bot:reply --production --host 127.0.0.1 --port {port}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [PYTHON, *command.split()], cwd=folder, env=environ, stdout=file, stderr=file
            )
        try:
            wait_for_port(port, process)
            asyncio.run(levels(port, process, seconds, connections or [1, 100, 1000]))
            print(f"\nthe log: {len(log.read_text().splitlines())} lines", flush=True)
        finally:
            process.terminate()
            try:
                print(f"SIGTERM: ended with {process.wait(40)}")
            except subprocess.TimeoutExpired:
                process.kill()
                print("SIGTERM: did not end in 40 s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
