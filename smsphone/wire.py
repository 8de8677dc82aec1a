"""A request and an answer as values: what was on the wire, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class OnTheWire:
    """What a request and an answer have in common."""

    headers: tuple[tuple[str, str], ...]
    wire: bytes

    def __bytes__(self) -> bytes:
        return self.wire

    def header(self, name: str) -> str:
        """Return the last header of that *name*, or an empty string."""
        return {key.lower(): value for key, value in self.headers}.get(name.lower(), "")


@dataclass(frozen=True)
class Request(OnTheWire):
    """A request as Twilio makes it.

    *kind* is ``message``, ``retry``, ``redirect``, ``action``, ``fallback`` or ``status``.
    Twilio signs *url*, the public one.  The request goes to *target*, which differs if a
    tunnel or a proxy stands in front of the webhook.  *signed* is the string that *signature*
    is made of; without a token both are empty.  *at* is when it was sent, by `time.time`.
    """

    kind: str
    method: str
    url: str
    target: str
    fields: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    signed: str
    signature: str
    wire: bytes
    at: float


@dataclass(frozen=True)
class Response(OnTheWire):
    """An answer as it was on the wire, and what it says; *seconds* is how long it took.

    If the answer is not HTTP, or not whole, *status* is 0, and there are no headers.  *log*
    has the warnings and errors that a webhook in this process logged meanwhile, tracebacks
    included.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    wire: bytes
    seconds: float = 0.0
    log: tuple[str, ...] = ()


def wsgi_response(status: str, headers: list[tuple[str, str]], body: bytes) -> Response:
    """Return the answer of a WSGI callable, as a server sends it."""
    code = int(status[:3]) if status[:3].isdecimal() else 500
    return Response(code, tuple(headers), body, wire_bytes(f"HTTP/1.1 {status}", headers, body))


def check_piece(piece: object) -> None:
    """Raise TypeError unless *piece*, of an answer's body, is bytes (PEP 3333)."""
    if not isinstance(piece, bytes):
        raise TypeError(f"a piece of the answer is not bytes, but {type(piece).__name__}")


def wire_bytes(first_line: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    lines = [first_line, *[f"{name}: {value}" for name, value in headers], "", ""]
    # Only a cookie may have bytes beyond ASCII: it goes back just as it came.
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def utf16_units(text: str) -> int:
    """Return the length of *text* in UTF-16 units: an emoji, say, has two of them."""
    return len(text.encode("utf-16-le")) // 2


def sendable(text: str) -> str:
    """Return *text* as UTF-8 carries it: a lone surrogate becomes "?"."""
    return text.encode("utf-8", "replace").decode()
