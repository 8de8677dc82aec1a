"""A message sent once more, as it was or with one thing broken, and what that shows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

from .errors import TwilioError
from .ledger import Hop, Ledger, Row
from .phone import Phone
from .request import Jar
from .transport import Times
from .urls import split_url
from .watch import TOKEN_HEADER, obey
from .wire import wire_bytes

if TYPE_CHECKING:
    from .wire import Request, Response

ANOTHER_URL = "https://another.example/sms"
# What can be done to a message that is sent again, and the words for it.
WHAT_IF = {
    "": "delivered again",
    "edited": "changed",
    "body": "what if the text is another",
    "broken": "what if the signature is broken",
    "unsigned": "what if there is no signature",
    "url": "what if it is signed for another URL",
    "twice": "what if it comes twice",
    "slowly": "what if it comes slowly",
}
FORGED = ("body", "broken", "unsigned", "url")
GOOD, BAD, OPEN = "good", "bad", "open"


class WrittenPhone(Phone):
    """A phone that writes each of its requests in a ledger."""

    PAUSE = 0.4  # seconds before each piece of a body that comes slowly

    def __init__(self, ledger: Ledger, webhook: str, **named: Any) -> None:
        super().__init__(webhook, **named)
        self._ledger = ledger
        self._here = threading.local()  # each message has a thread

    def send(
        self, row: Row, method: str | None, signature: str | None, slowly: bool = False
    ) -> None:
        """Send the message of *row*, and make all requests that follow from it."""
        self._here.row, self._here.slowly = row, slowly
        form = urlencode(row.exchange.params)
        self._converse(row.exchange, (self.url, method or self.method, form, "message"), signature)

    def send_bytes(self, row: Row, request: Request) -> None:
        """Send the recorded bytes of *request*, and do what one answer says."""
        times = Times(self.CONNECT_TIMEOUT, self.TIMEOUT, time.monotonic() + self.TIMEOUT)
        self._here.row, self._here.slowly = row, False
        row.exchange.requests.append(request)
        row.exchange.answers.append(None)
        try:
            row.exchange.answers[-1] = self._attempt(request, times)
            obey(row.exchange, row.hops[-1])
        except TwilioError as error:
            row.exchange.errors.append(error)

    def signature_of(self, params: dict[str, str], method: str, url: str = "") -> str:
        """Return the right signature of *params*; without a token, an empty one."""
        onward = url or self.url, method, urlencode(params), "message"
        return self._build(onward, Jar(), None).signature

    def _attempt(self, request: Request, times: Times, pause: float = 0.0) -> Response:
        hop, token = Hop(request), request.header(TOKEN_HEADER)
        row: Row = self._here.row
        if self._here.slowly and not row.hops:
            pause = self.PAUSE
        self._ledger.begin(row, hop, token)
        try:
            hop.answer = super()._attempt(request, times, pause)
        except TwilioError as error:
            hop.answer = error.answer
            raise
        finally:
            self._ledger.end(row, hop, token)
        return hop.answer


def recorded(first: Request, webhook: str) -> Request:
    """Return a request to the port of *webhook* with the very bytes of *first*.

    Only Twilio's idempotency token is added if there was none: by it the row is found.
    """
    scheme, _, host, _ = split_url(webhook)
    path = first.target if first.target.startswith("/") else split_url(first.target)[3]
    headers = [header for header in first.headers if header[0].title() != "Connection"]
    if not first.header(TOKEN_HEADER):
        headers.append((TOKEN_HEADER, str(uuid4())))
    headers.append(("Connection", "close"))
    wire = wire_bytes(first.wire.partition(b"\r\n")[0].decode("latin-1"), headers, first.body)
    return replace(
        first, target=f"{scheme}://{host}{path}", headers=tuple(headers), wire=wire, at=time.time()
    )


def changed(
    phone: WrittenPhone, params: dict[str, str], method: str, change: str
) -> tuple[dict[str, str], str | None]:
    """Return what to send instead of *params*, and the signature, unless it is the right one."""
    if change == "unsigned":
        return params, ""
    if change == "broken":  # where nothing was signed, it is a signature of nothing
        right = phone.signature_of(params, method) or "B" * 27 + "="
        return params, ("B" if right[0] == "A" else "A") + right[1:]
    if change == "url":
        return params, phone.signature_of(params, method, ANOTHER_URL)
    if change == "body":
        another = {**params, "Body": params.get("Body", "") + " (changed on the way)"}
        return another, phone.signature_of(params, method)
    return params, None


def finding(what: str, before: Row, after: Row) -> tuple[str, str]:
    """Return whether the webhook did what a good one does, and a sentence for a person."""
    first, answers = before.hops[0].answer, [hop.answer for hop in after.hops if hop.answer]
    if what in ("", "edited"):
        return "", ""
    if not answers:
        return OPEN, "No answer came, so nobody can tell."
    status = answers[0].status
    if what in FORGED:
        return forged(what, status, first.status if first else 0, before.hops[0].request.signed)
    if what == "slowly":
        if status < 400:
            return GOOD, "It waited for all of the body, as a good webhook does."
        return BAD, f"It answered {status} before all of the body was there (lesson, stage 2)."
    same = first and (first.status, first.body) == (answers[0].status, answers[0].body)
    if same:
        return GOOD, "The same answer once more, as of a good webhook. Was its work done once?"
    return BAD, "Another answer than the first time: its work was done twice (lesson, stage 6)."


def forged(what: str, status: int, before: int, signed: str) -> tuple[str, str]:
    stage = 5 if what == "url" else 4
    if status < 400 and not signed and what != "broken":
        return OPEN, f"It answered {status}; but nothing was signed before, as there is no token."
    if status < 400:
        return BAD, (
            f"It answered {status}. A good webhook refuses with 403: otherwise anybody who finds"
            f" the URL can send it messages (lesson, stage {stage})."
        )
    if status >= 500:
        return OPEN, f"It answered {status}, which tells nothing of signatures."
    if before >= 400:
        return OPEN, f"It refuses with {status}; but it refused the right one too, with {before}."
    return GOOD, f"It refuses with {status}, as a good webhook does."
