"""What the page shows: a row for each exchange, the newest last.

Each change has a number.  So a page that was away gets what has changed since it left.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from smsreply import printable, signed_string

from .answer import parse_xml
from .errors import TwilioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .exchange import Exchange
    from .wire import Request, Response


class Line:
    """A line that the program logged, and the traceback below it."""

    LONGEST = 4000  # characters

    def __init__(self, level: str, logger: str, text: str) -> None:
        first, _, rest = text[:20_000].partition("\n")
        self.level, self.logger = level, logger
        self.text = printable(first, self.LONGEST)
        # smsreply puts a bar before each line of a traceback.
        lines = [line.removeprefix("    | ") for line in rest.splitlines()]
        self.trace = [printable(line, self.LONGEST) for line in lines]

    def failure(self) -> str:
        """Return what was raised, and where, if the line tells of it."""
        raised = next((line for line in reversed(self.trace) if line[:1].strip()), "")
        places = [re.fullmatch(r'\s+File "(.+)", line (\d+), in .*', line) for line in self.trace]
        found = [place for place in places if place]
        if not raised or not found:
            return ""
        return f"{raised} ({os.path.basename(found[-1][1])}, line {found[-1][2]})"

    def json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "logger": self.logger,
            "text": self.text,
            "trace": "\n".join(self.trace),
        }


class Hop:
    """One request, its answer, and what the program logged meanwhile.

    *verdict* is the kind of the signature, and a sentence for a person.  Only a request that
    the watched program got has one; *watched* says so.
    """

    LINES = 200

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Response | None = None
        self.row: Row | None = None
        self.done = self.watched = False
        self.unread = 0  # bytes of the body that the program did not read
        self.verdict = ("", "")
        self.lines: list[Line] = []

    def failure(self) -> str:
        return next((line.failure() for line in self.lines if line.failure()), "")

    def signature_line(self) -> tuple[str, str]:
        """Return whether the program checked the signature, and what came of it: good or wrong."""
        kind, why = self.verdict
        if kind == "genuine":
            return (
                ("", f"genuine, but {why}") if why else ("good", "genuine: your program checked it")
            )
        if kind == "refused":
            return "wrong", f"refused: {why or 'looking for the reason …'}"
        if kind == "accepted":
            return "wrong", f"not genuine, and answered all the same: {why}"
        if kind or not self.request.signature:
            return "", why or "nothing: there is no signature"
        return "", "with your auth token; a what if shows whether your program checks it"

    def brief(self) -> dict[str, Any]:
        """Return what a line of a list says of it."""
        request, answer = self.request, self.answer
        return {
            "kind": request.kind,
            "method": request.method,
            "url": request.url.partition("?")[0],
            "status": answer.status if answer else 0,
            "seconds": answer.seconds if answer else 0,
            "done": self.done,
            "failed": self.failure(),
            "said": dict(request.fields).get("MessageStatus", ""),
        }

    def json(self) -> dict[str, Any]:
        """Return all of it."""
        request, answer = self.request, self.answer
        told: dict[str, Any] = {
            **self.brief(),
            "at": request.at,
            "url": request.url,
            "target": request.target,
            "fields": request.fields,
            "wire": wire_text(request.wire),
            "sent": len(request.wire),
            "signed": parts_of(request),
            "signature": request.signature,
            "settings": request.header("X-Twilio-Webhooks-Signature-Settings"),
            "checked": self.signature_line(),
            "watched": self.watched,
            "unread": self.unread,
            "lines": [line.json() for line in self.lines],
        }
        if answer is not None:
            told.update(
                type=answer.header("content-type"),
                answer=wire_text(answer.wire),
                received=len(answer.body),
                twiml=indented(answer.body),
            )
        return told


class Row:
    """An exchange as it is kept: *number* names it, *version* is that of its last change.

    *source* says who sent it.  If it repeats another row, *again* is that row's number, *how*
    says what was changed, and *finding* what that showed.
    """

    def __init__(self, number: int, exchange: Exchange, source: str) -> None:
        self.number, self.exchange, self.source = number, exchange, source
        self.at = time.time()
        self.how, self.again = "", 0
        self.finding: tuple[str, str] = ("", "")
        self.hops: list[Hop] = []
        self.done = False
        self.version = 0

    def title(self) -> str:
        """Return what was asked, in a line."""
        params = self.exchange.params
        pictures = params.get("NumMedia", "0")
        if params.get("Body"):
            return params["Body"].strip().partition("\n")[0][:300]
        if pictures not in ("", "0"):
            return "1 picture" if pictures == "1" else f"{pictures[:3]} pictures"
        if "MessageStatus" in params:
            return f"status: {params['MessageStatus'][:30]}"
        first = self.hops[0].request if self.hops else None
        if first and first.kind == "other":
            return f"{first.method} {re.sub('^[a-z]+://[^/]*', '', first.url)[:300]}"
        return "no text"

    def trouble(self) -> str:
        """Return Twilio's error, and its cure in one sentence."""
        if not self.exchange.errors:
            return ""
        error = self.exchange.errors[0]
        failures = [hop.failure() for hop in self.hops if hop.failure()]
        doubts = [hop.verdict[1] for hop in self.hops if hop.verdict[0] == "refused"]
        if failures:
            return f"Your program failed: {failures[0]}. Step 5 has its log."
        if doubts and doubts[0]:
            return f"Refused: {doubts[0]}."
        detail = f" ({error.detail})" if error.detail else ""
        return f"{error.meaning[0].upper()}{error.meaning[1:]}{detail}. What helps: {error.cure}."

    def size(self) -> int:
        answers = [hop.answer.wire for hop in self.hops if hop.answer]
        return sum(map(len, [*answers, *[hop.request.wire for hop in self.hops]]))

    def brief(self, here: Callable[[str], str]) -> dict[str, Any]:
        """Return what a row, and a bubble, say of it; *here* is where a URL is on this machine."""
        params = self.exchange.params

        def pictures(urls: Any) -> list[dict[str, str]]:
            return [{"url": url, "here": here(url)} for url in urls]

        media = [name for name in params if re.fullmatch("MediaUrl[0-9]+", name)]
        return {
            "number": self.number,
            "version": self.version,
            "at": self.at,
            "source": self.source,
            "how": self.how,
            "again": self.again,
            "finding": self.finding,
            "title": self.title(),
            "trouble": self.trouble(),
            "done": self.done,
            "from": params.get("From", ""),
            "to": params.get("To", ""),
            "body": params.get("Body", ""),
            "media": pictures([params[name] for name in media]),
            "hops": [hop.brief() for hop in self.hops],
            "messages": [
                {
                    "body": message.body,
                    "media": pictures(message.media),
                    "to": message.to,
                    "from": message.from_,
                }
                for message in self.exchange.messages
            ],
            "errors": [
                {name: getattr(error, name) for name in ("code", "meaning", "cure", "detail")}
                for error in self.exchange.errors
            ],
        }

    def json(self, here: Callable[[str], str]) -> dict[str, Any]:
        return {
            **self.brief(here),
            "params": self.exchange.params,
            "hops": [hop.json() for hop in self.hops],
        }


class Ledger:
    """The newest rows, and the lines of the log that belong to no row.

    Each change is made within ``with ledger.changed:``, and ends with `touch`.
    """

    LIMIT = 1000  # exchanges
    BYTES = 64_000_000  # of all of them on the wire

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.epoch = os.urandom(4).hex()  # a new one begins when rows are cleared or brought back
        self.rows: dict[int, Row] = {}
        self.dropped = 0
        self.version = 1
        self.server: deque[Line] = deque(maxlen=100)
        self._server_version = 0
        self._expected: dict[str, Hop] = {}
        self._count = self._bytes = 0
        self._cleared: tuple[dict[int, Row], int] | None = None

    def add(self, exchange: Exchange, source: str, how: str = "", again: int = 0) -> Row:
        """Return a new row; the oldest one goes, if there are too many."""
        with self.changed:
            self._count += 1
            row = self.rows[self._count] = Row(self._count, exchange, source)
            row.how, row.again = how, again
            while len(self.rows) > self.LIMIT or (self._bytes > self.BYTES and len(self.rows) > 1):
                self._bytes -= self.rows.pop(next(iter(self.rows))).size()
                self.dropped += 1
            self.touch(row)
            return row

    def touch(self, row: Row | None = None) -> None:
        """Say that *row* has changed, or something that is in no row."""
        self.version += 1
        if row:
            row.version = self.version
        self.changed.notify_all()

    def begin(self, row: Row, hop: Hop, expected: str = "") -> None:
        """Add *hop* to *row*; the watched program will get it with the token *expected*."""
        with self.changed:
            row.hops.append(hop)
            hop.row, row.done = row, False
            if expected:
                self._expected[expected] = hop
            self.touch(row)

    def claim(self, token: str) -> Hop | None:
        """Return the hop that was expected with *token*, once."""
        with self.changed:
            return self._expected.pop(token, None) if token else None

    def end(self, row: Row, hop: Hop, expected: str = "") -> None:
        """Mark *hop* as done; only lines of the log may follow."""
        with self.changed:
            hop.done = True
            self._expected.pop(expected, None)
            if row.number in self.rows:
                self._bytes += len(hop.request.wire) + (len(hop.answer.wire) if hop.answer else 0)
            self.touch(row)

    def row_of_message(self, sid: str) -> Row | None:
        """Return the row of the message *sid*, if it came from outside before."""
        rows = [row for row in list(self.rows.values()) if row.source and sid]
        return next((r for r in reversed(rows) if r.exchange.params.get("MessageSid") == sid), None)

    def say(self, line: Line, hop: Hop | None) -> None:
        """Keep a line of the log: *hop*'s, or the server's."""
        with self.changed:
            if hop is None:
                self.server.append(line)
                self._server_version = self.version + 1
                self.touch()
            elif len(hop.lines) < hop.LINES:
                hop.lines.append(line)
                self.touch(hop.row)

    def clear(self) -> None:
        """Begin again, with no rows; `undo` takes that back."""
        with self.changed:
            self._cleared = self.rows, self.dropped
            self._begin({}, 0)

    def undo(self) -> None:
        """Bring back what was cleared last; what has come since stays."""
        with self.changed:
            rows, dropped = self._cleared or ({}, 0)
            self._cleared = None
            self._begin({**rows, **self.rows}, dropped + self.dropped)

    def _begin(self, rows: dict[int, Row], dropped: int) -> None:
        self.rows, self.dropped = rows, dropped
        self._bytes = sum([row.size() for row in rows.values()])
        self.epoch = os.urandom(4).hex()
        self.touch()

    def since(self, epoch: str, version: int, here: Callable[[str], str]) -> dict[str, Any]:
        """Return what has changed since *version*; all there is, if the epoch is another."""
        with self.changed:
            fresh = epoch != self.epoch
            told: dict[str, Any] = {
                "reset": fresh,
                "rows": [
                    row.brief(here) for row in self.rows.values() if fresh or row.version > version
                ],
                "first": next(iter(self.rows), self._count + 1),
                "dropped": self.dropped,
            }
            if fresh or self._server_version > version:
                told["server"] = [line.json() for line in self.server]
            return told


def parts_of(request: Request) -> list[list[str]]:
    """Return what was signed in its parts: the URL, then names and values in their order."""
    fields = sorted(set(request.fields)) if request.method == "POST" else []
    if not request.signed:
        return []
    url = request.signed.removesuffix(signed_string("", fields))
    if signed_string(url, fields) != request.signed:
        return [[request.signed]]
    return [[url], *[list(field) for field in fields]]


def wire_text(wire: bytes) -> str:
    """Return bytes as lines to look at: what is not a character is escaped."""
    lines = re.split("\r?\n", wire.decode("utf-8", "backslashreplace"))
    return "\n".join([printable(line, len(line)) for line in lines])


def indented(document: bytes) -> str:
    """Return an XML document with an element a line, or nothing if it is none.

    Only white space between elements is added, so each text stands as it was sent.
    """
    try:
        root = parse_xml(document)
    except TwilioError:
        return ""
    if root.find("*/*/*/*") is not None:  # TwiML has three levels, and each one is indented more
        return ""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")
