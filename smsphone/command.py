"""The phone on the terminal: the commands text, phone, explain and check."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from smsreply import (
    MAX_BODY,
    PATH,
    PHONE_PORT,
    PORT,
    UsageError,
    listening,
    log_to_terminal,
    port_number,
    printable,
    told_in_a_line,
)

from .errors import ERRORS
from .explain import NOTHING_WRONG, explain
from .phone import Phone
from .request import PHONE_NUMBER, YOUR_NUMBER, message_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from .exchange import Exchange


def main(
    argv: list[str] | None = None,
    *,
    _serve: Callable[[Any], None] = lambda server: server.serve_forever(),
) -> int:
    """Run the command line *argv* and return its exit status."""
    options = command_line().parse_args(sys.argv[1:] if argv is None else argv)
    options.serve = _serve
    show_all_characters()
    try:
        status = int(options.command(options))
        print(end="", flush=True)  # not sys.stdout.flush(): it is None where it was closed
        return status
    except BrokenPipeError:  # the program that reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 141  # as a shell calls SIGPIPE
    except UsageError as error:
        print(f"smsreply: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def command_line() -> argparse.ArgumentParser:
    """Return the parser; each command names the function that runs it."""
    parser = argparse.ArgumentParser(prog="smsreply", description="Play Twilio, offline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_text(commands)
    phone = commands.add_parser("phone", help="serve the phone's page, for any webhook")
    phone.set_defaults(command=run_phone)
    add_webhook(phone)
    phone.add_argument(
        "--port", type=port_number, default=PHONE_PORT, help=f"the port of the page ({PHONE_PORT})"
    )
    add_explain(commands)
    check = commands.add_parser("check", help="check an exercise of the lesson")
    check.set_defaults(command=run_check)
    check.add_argument("file", help="the program of a stage, or your own version of it")
    return parser


def add_webhook(parser: argparse.ArgumentParser) -> None:
    default = f"http://localhost:{PORT}{PATH}"
    add = parser.add_argument
    add("--webhook", metavar="URL", default=default, help=f"the webhook's URL ({default})")
    add(
        "--public-url",
        metavar="URL",
        help="the URL that Twilio signs, if a tunnel or a proxy changes it ($SMSREPLY_PUBLIC_URL)",
    )


def add_text(commands: Any) -> None:
    text = commands.add_parser("text", help="text a webhook as Twilio would; print the reply")
    text.set_defaults(command=run_text)
    add_webhook(text)
    add = text.add_argument
    add("body", nargs="?", help="the text; without it, each line of standard input is a text")
    for option, name, default, whose in (
        ("--from", "number", PHONE_NUMBER, "the person's number"),
        ("--to", "to", YOUR_NUMBER, "your number"),
    ):
        add(option, dest=name, default=default, metavar="NUMBER", help=f"{whose} ({default})")
    for option, name, what in (
        ("--media", "URL", "the URL of a picture, say; give it again for more"),
        ("--param", "NAME=VALUE", "another parameter, or another value; give it again for more"),
    ):
        add(option, action="append", default=[], metavar=name, help=what)
    settings = "sign with a SharedKey: key=…,algorithm=HMAC_SHA256; TWILIO_AUTH_TOKEN is its secret"
    add("--signature-settings", metavar="SETTINGS", help=settings)
    add("--get", action="store_true", help="send a GET, and not a POST")
    add("--replay", metavar="FILE", help="send the messages that Exchange.save wrote to FILE")
    add("--verbose", action="store_true", help="print each request and answer as on the wire")


def add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="say what an error code means, or why a signature does not match",
        description="Say what an error code means, or why a signature does not match. With --url, "
        "TWILIO_AUTH_TOKEN has the auth token, and standard input the body, as the server got it.",
    )
    parser.set_defaults(command=run_explain)
    add = parser.add_argument
    add("code", nargs="?", type=error_code, help="one of Twilio's error codes: 11200, say")
    add("--url", help="the whole URL, as the server saw it")
    add("--signature", default="", help="the value of the header X-Twilio-Signature")
    for option, name, what in (
        ("--param", "NAME=VALUE", "a field, in place of a body; give it again for more"),
        ("--header", "NAME:VALUE", "another header of the request; give it again for more"),
    ):
        add(option, action="append", default=[], metavar=name, help=what)


def error_code(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an error code: these are numbers")
    return int(text)


def show_all_characters() -> None:
    """Escape what the terminal cannot show, and replace what it cannot send."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def public_url_of(options: Any) -> str | None:
    return options.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")


def run_text(options: Any) -> int:
    """Send a message, or each line of standard input; return 0 if all were answered."""
    if options.replay and (options.body is not None or options.media or options.param):
        raise UsageError("--replay sends what FILE has: leave out the text, --media and --param")
    try:
        phone = Phone(
            options.webhook,
            public_url=public_url_of(options),
            number=options.number,
            to=options.to,
            method="GET" if options.get else "POST",
            signature_settings=options.signature_settings,
        )
        if options.replay:
            return max(
                [show(exchange, options) for exchange in phone.replay(options.replay)] or [0]
            )
    except OSError as error:
        raise UsageError(f"cannot read {printable(options.replay)}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(printable(str(error))) from error
    params = dict(name_and_value(param, "=") for param in options.param)

    def text(body: str) -> int:
        # Not phone.text(): a --param may well be named "body".
        message = message_params(phone.number, phone.to, body, options.media, params)
        return show(phone.deliver(message), options)

    if options.body is not None or options.media:
        return text(options.body or "")
    status = 0
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return status
        status = max(status, text(line.rstrip("\r\n")))


def show(exchange: Exchange, options: Any) -> int:
    """Print what people would get, and return the exit status."""
    if options.verbose:
        print(exchange.wire())
    for message in exchange.messages:
        if message.to != exchange.params.get("From"):
            print(f"(to {printable(message.to, 60)})")
        for line in message.body.splitlines() or [""]:
            print(printable(line, 10_000))
        for url in message.media:
            print(printable(url))
    for error in exchange.errors:
        print(f"smsreply: {error}", file=sys.stderr)
    return 1 if exchange.errors else 0


def run_phone(options: Any) -> int:
    """Serve the phone alone, for a webhook that somebody else serves."""
    from . import page

    with told_in_a_line(ValueError), listening("127.0.0.1", options.port):
        server = page.serve(options.webhook, public_url_of(options), options.port)
    print(f"Phone at http://localhost:{server.server_address[1]}/ (Ctrl-C stops it)", flush=True)
    try:
        options.serve(server)
    finally:
        server.server_close()
    return 0


def run_explain(options: Any) -> int:
    """Print what a code means, or why a signature does not match; return 1 if it does not."""
    if options.code is not None and options.url:
        raise UsageError("explain needs an error code or --url, and not both")
    if options.code is not None:
        return explain_code(options.code)
    if not options.url:
        raise UsageError("explain needs an error code, or --url")
    token = os.environ.get("TWILIO_AUTH_TOKEN", "")
    if not token.strip():
        raise UsageError("set TWILIO_AUTH_TOKEN to the token that the request is signed with")
    headers = dict(name_and_value(header, ":") for header in options.header)
    body = b"" if options.param or sys.stdin.isatty() else sys.stdin.buffer.read(MAX_BODY)
    params: Any = [name_and_value(param, "=") for param in options.param] or body
    why = explain(token, options.url, params, options.signature, headers=headers)
    print(why)
    return 0 if why.startswith(NOTHING_WRONG) else 1


def explain_code(code: int) -> int:
    if code not in ERRORS:
        raise UsageError(f"{code} is not an error code that a webhook for messages can meet")
    level, meaning, cure = ERRORS[code]
    print(f"{code} ({level}): {meaning}\nWhat to do: {cure}")
    return 0


def run_check(options: Any) -> int:
    from . import check

    log_to_terminal(40)
    return check.check(options.file)


def name_and_value(text: str, mark: str) -> tuple[str, str]:
    name, found, value = text.partition(mark)
    if not found or not name.strip():
        raise UsageError(f"{printable(text, 80)!r} is not like NAME{mark}VALUE")
    return name.strip(), value.strip() if mark == ":" else value
