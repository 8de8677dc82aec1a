"""Copies of an exchange: a command for curl, a test, a line for ``smsreply text --replay``."""

from __future__ import annotations

import json
import keyword
import re
import shlex
from typing import TYPE_CHECKING

from .exchange import as_dict
from .urls import split_url

if TYPE_CHECKING:
    from .ledger import Row
    from .wire import Request

TEST = """\
import smsreply
from bot import reply  # your handler
from smsphone import Phone

phone = Phone(smsreply.App(reply, auth_token="any"), auth_token="any")


def test_{name}():
    exchange = phone.text({arguments})
    assert {expected}
"""
# What phone.text() makes by itself; the other parameters are written out.
MADE = re.compile(
    "Body|From|To|NumMedia|NumSegments|Media(Url|ContentType)[0-9]+|(From|To)(City|State|Zip|Country)"
    "|(Sms|SmsMessage|Message|Account)Sid|SmsStatus|ApiVersion|WaId|ExternalUserId|MessageType"
    "|ReferralNumMedia|ProfileName"
)
# Names that Python, or phone.text(), has for something else.
NO_ARGUMENTS = {*keyword.kwlist, "self", "body", "media", "from_", "to"}


def as_curl(request: Request, webhook: str) -> str:
    """Return a command that sends the same bytes to the webhook's own port."""
    url = request.target
    if url.startswith("/"):
        scheme, _, host, _ = split_url(webhook)
        url = f"{scheme}://{host}{url}"
    own = split_url(url)[2]
    parts = ["curl" if request.method == "GET" else f"curl -X {request.method}", shlex.quote(url)]
    for name, value in request.headers:
        if name.lower() not in ("content-length", "connection") and (name, value) != ("Host", own):
            parts.append(f"-H {shlex.quote(f'{name}: {value}')}")
    if request.body:
        parts.append(f"--data-raw {shlex.quote(request.body.decode('utf-8', 'replace'))}")
    return " \\\n  ".join([" ".join(parts[:2]), *parts[2:]]) + "\n"


def as_test(row: Row) -> str:
    """Return a test in Python that says what became of the message."""
    exchange = row.exchange
    params = exchange.params
    arguments = [repr(params.get("Body", "")), f"from_={params.get('From', '')!r}"]
    media = [value for name, value in params.items() if re.fullmatch("MediaUrl[0-9]+", name)]
    arguments += [f"media={media!r}"] if media else []
    arguments += [
        f"{name}={value!r}"
        for name, value in params.items()
        if not MADE.fullmatch(name) and name.isidentifier() and name not in NO_ARGUMENTS
    ]
    bodies = [message.body for message in exchange.messages]
    expected = f"[message.body for message in exchange.messages] == {bodies!r}"
    if exchange.error:
        expected = f"exchange.error.code == {exchange.error.code}"
    elif len(bodies) == 1:
        expected = f"exchange.reply == {bodies[0]!r}"
    name = re.sub("[^a-z0-9]+", "_", params.get("Body", "").lower()).strip("_")[:40]
    return TEST.format(name=name or "message", arguments=", ".join(arguments), expected=expected)


def copies(row: Row, webhook: str) -> dict[str, str]:
    """Return all three; of a row without a request, nothing."""
    if not row.hops:
        return {}
    first = row.hops[0].request
    saved = json.dumps(as_dict(first)) + "\n"
    return {"curl": as_curl(first, webhook), "test": as_test(row), "saved": saved}
