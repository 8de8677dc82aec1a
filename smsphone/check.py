"""The exercises of the lesson: run a program, play Twilio, and say what was seen."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from smsreply import UsageError, printable

from .ledger import parts_of
from .phone import Phone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .exchange import Exchange

TOKEN = "12345"
PUBLIC_URL = "https://abc.example"
START = 5  # seconds for the program to listen


class Program:
    """A program that serves at a port of its own, and phones to text it with."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/sms"
        self.phone = Phone(self.url, auth_token=TOKEN)


def seen(exchange: Exchange) -> str:
    """Return what happened; where that was a 403, with what Twilio had signed."""
    answer, request = exchange.answers[-1], exchange.requests[-1]
    lines = [exchange.story()]
    if answer is not None and answer.status == 403 and request.signed:
        lines.append("  Twilio signed, with nothing between the lines:")
        lines += ["    " + printable("".join(part)) for part in parts_of(request)]
    return "\n".join(lines)


def replies(program: Program, public_url: str = "") -> str:
    for target in ("/sms", "/sms?shop=1", "/orders"):
        url = public_url + target if public_url else None
        phone = Phone(program.origin + target, auth_token=TOKEN, public_url=url)
        exchange = phone.text("Hello")
        if not exchange.messages:
            return f"a text to {url or target} got no reply: {seen(exchange)}"
    return ""


def public_url(program: Program) -> str:
    return replies(program, PUBLIC_URL) or refuses_unsigned(program) or refuses_forged(program)


def comes_back(program: Program, text: str, rule: str) -> str:
    exchange = program.phone.text(text)
    for message in exchange.messages:
        if text in message.body and f"['{text}']" not in message.body:
            return ""
    return f"{rule}: {seen(exchange)}"


def repeats(program: Program) -> str:
    rule = "the reply should have in it what the person wrote, as it is"
    return comes_back(program, f"Grüße für {random.randrange(1000)} €", rule)


def escapes(program: Program) -> str:
    rule = "a text with <, & and ]]> should come back in the reply as it is"
    return comes_back(program, "<Fish> & chips ]]> 2", rule)


def control_characters(program: Program) -> str:
    exchange = program.phone.text("Hello\1")
    return "" if exchange.messages else f"a text with U+0001 should get a reply: {seen(exchange)}"


def refused(program: Program, token: str, what: str) -> str:
    program.phone.text("Hello")
    exchange = Phone(program.url, auth_token=token).text("Hello")
    answer = exchange.answers[-1]
    if answer is None or answer.status != 403:
        return f"{what} should get 403: {exchange.story()}"
    return is_second_order(program, f"{what} gets 403, and was an order all the same")


def is_second_order(program: Program, otherwise: str) -> str:
    """Return *otherwise*, and what was said, if the next order is not the second."""
    for message in program.phone.text("Hello").messages:
        if "order" in message.body and "order 2" not in message.body:
            return f"{otherwise}: the next reply is {message.body!r}"
    return ""


def refuses_unsigned(program: Program) -> str:
    return refused(program, "", "a request without a signature")


def refuses_forged(program: Program) -> str:
    return refused(program, "another token", "a request that somebody else signed")


def answers_once(program: Program) -> str:
    first = program.phone.text("Hello")
    again = program.phone.repeat(first)
    other = program.phone.text("Hello")
    texts = [[message.body for message in each.messages] for each in (first, again, other)]
    if not texts[0] or texts[0] != texts[1]:
        return f"a message that comes twice should get the same reply twice, and not {texts[:2]}"
    if texts[2] == texts[0]:
        return f"another message with the same text is another order, and got {texts[2]} again"
    answer = Phone(program.url, auth_token="").deliver(first.params).answers[-1]
    if answer is None or answer.status != 403:
        return "the answer that is kept is Twilio's alone: a copy that nobody signed should get 403"
    return ""


def outlives_timeout(program: Program) -> str:
    exchange = program.phone.text("slow")
    kinds = [request.kind for request in exchange.requests]
    if not exchange.messages or "redirect" not in kinds:
        return f"a slow reply should come after a <Redirect>: {seen(exchange)}"
    # What the last round may have started is over then.
    time.sleep(float(os.environ.get("SLOW", "25")))
    return is_second_order(program, "the slow order was taken more than once")


def remembers(program: Program) -> str:
    strangers = program.phone.text("Who am I?")
    program.phone.text("My name is Ada")
    exchange = program.phone.text("Who am I?")
    others = program.phone.text("Who am I?", from_="+15005550009")
    if not any("Ada" in message.body for message in exchange.messages):
        return f"after 'My name is Ada', 'Who am I?' should get a reply with Ada: {seen(exchange)}"
    for each in (strangers, others):
        if not each.messages or "Ada" in each.messages[0].body:
            return f"whoever has not said a name should get a reply without Ada: {seen(each)}"
    return ""


CHECKS: dict[str, Callable[[Program], str]] = {
    "replies": replies,
    "repeats": repeats,
    "escapes": escapes,
    "control-characters": control_characters,
    "refuses-unsigned": refuses_unsigned,
    "refuses-forged": refuses_forged,
    "public-url": public_url,
    "answers-once": answers_once,
    "outlives-timeout": outlives_timeout,
    "remembers": remembers,
}


def check(file: str) -> int:
    """Play the checks that *file* names in a comment, ``# check: replies, escapes``.

    Print a line for each; return 0 if all of them hold, else 1.
    """
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            found = re.search(r"^# check: (.+)$", source.read(), re.M)
    except OSError as error:
        raise UsageError(f"cannot read {printable(file)}: {error.strerror}") from error
    names = [name.strip() for name in found[1].split(",")] if found else []
    unknown = [name for name in names if name not in CHECKS]
    if not names or unknown:
        raise UsageError(
            f"{printable(file)} needs a comment like '# check: replies, escapes'; there are"
            f" {', '.join(CHECKS)}"
        )
    solved = True
    for name in names:
        environment = {"PUBLIC_URL": PUBLIC_URL} if name == "public-url" else {}
        if name == "outlives-timeout":
            print("(this takes up to a minute)", flush=True)
        with running(file, environment) as program:
            trouble = CHECKS[name](program)
        solved = solved and not trouble
        print(f"{name}: {trouble or 'yes'}", flush=True)
    return 0 if solved else 1


@contextlib.contextmanager
def running(file: str, environment: dict[str, str]) -> Iterator[Program]:
    """Run *file*, and wait until it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    known = {name: value for name, value in os.environ.items() if name != "PUBLIC_URL"}
    path = os.pathsep.join(filter(None, [root, known.get("PYTHONPATH")]))
    known.update(environment, PORT=str(port), TWILIO_AUTH_TOKEN=TOKEN, PYTHONPATH=path)
    process = subprocess.Popen([sys.executable, file], env=known, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process, file)
        yield Program(port)
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], file: str) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    ended = process.poll()
    why = "does not listen" if ended is None else f"ended with status {ended}, and did not listen"
    raise UsageError(f"{printable(file)} {why} at the port that PORT names ({port})")
