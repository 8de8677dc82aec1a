"""An exchange: a message, and all that became of it."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from smsreply import printable

from .request import PHONE_NUMBER, YOUR_NUMBER

if TYPE_CHECKING:
    from .answer import SentMessage
    from .errors import TwilioError
    from .wire import Request, Response

# What a masked copy keeps: parameters whose values are Twilio's own words or numbers.
PLAIN = re.compile(
    "(NumMedia|NumSegments|ReferralNumMedia|ErrorCode)=[0-9]{1,6}"
    "|(SmsStatus|MessageStatus|MessageType)=[a-z]{1,15}"
    "|MediaContentType[0-9]+=(image|audio|video|text|application)/[a-z0-9.+-]{1,80}"
    "|OptOutType=(START|STOP|HELP)|ApiVersion=[0-9-]{10}"
)
PLAIN_NAME = re.compile("[A-Za-z][A-Za-z0-9]{0,60}")
PLAIN_URL = "https://abc.example/sms"  # a path may have a secret in it, and a host a name
PLAIN_HEADERS = ("content-type", "user-agent", "accept")
SID = re.compile("([A-Z]{2})[0-9a-f]{32}")


class Exchange:
    """A message, and all that became of it.

    *requests* are in the order in which they were made, and ``answers[i]`` answers
    ``requests[i]``; it is None where nothing came.  *messages* are what people get, and
    *errors* what Twilio would have logged, as `TwilioError`.
    """

    def __init__(self, params: dict[str, str]) -> None:
        self.params = params
        self.requests: list[Request] = []
        self.answers: list[Response | None] = []
        self.messages: list[SentMessage] = []
        self.errors: list[TwilioError] = []
        self.told: dict[str, int] = {}  # how many statuses of a sent message its action got

    @property
    def error(self) -> TwilioError | None:
        """The first error, or None."""
        return self.errors[0] if self.errors else None

    @property
    def seconds(self) -> float:
        """How long the webhook took for all its answers."""
        return sum([answer.seconds for answer in self.answers if answer])

    @property
    def reply(self) -> str:
        """The text of the one message that people get.

        If there is none, or if there are several, raise AssertionError with the story, the
        last answer, and all that a webhook in this process logged.
        """
        if len(self.messages) != 1:
            answers = [answer for answer in self.answers if answer]
            lines = [f"there are {len(self.messages)} messages: {self.story()}"]
            for answer in answers[-1:]:
                body = answer.body.decode("utf-8", "backslashreplace")
                lines.append(f"the last answer's body: {printable(repr(body), 500)}")
            lines += [text for answer in answers for text in answer.log]
            raise AssertionError("\n".join(lines))
        return self.messages[0].body

    def __repr__(self) -> str:
        return f"<Exchange {self.story()}>"

    def story(self) -> str:
        """Return in one line what happened, and what a webhook in this process logged.

        Of a traceback it has only the last line, which names the exception.
        """
        hops = [f"{r.kind}: {outcome(a)}" for r, a in zip(self.requests, self.answers)]
        if len(hops) > 8:  # a loop, say
            hops[4:-2] = [f"{len(hops) - 6} more like it"]
        told = [printable(repr(self.params.get("Body", "")), 60), *hops]
        told += [f"reply: {printable(repr(message.body), 60)}" for message in self.messages]
        told += [str(error) for error in self.errors]
        for text in [text for answer in self.answers if answer for text in answer.log]:
            first, *others = text.splitlines() or [""]
            last = ": " + others[-1].lstrip(" |") if others else ""
            told.append(f"the webhook logged: {first.rstrip(':')}{last}")
        return "; ".join(told)

    def wire(self) -> str:
        """Return both sides of the wire, and what was signed, fit for a terminal."""
        lines = []
        for request, answer in zip(self.requests, self.answers):
            text = request.wire.decode("utf-8", "backslashreplace")
            lines += [f"> {printable(line, 70_000)}" for line in text.split("\r\n")]
            signed = printable(request.signed, 70_000)
            lines.append(f"  signed: {signed or 'nothing, as there is no token'}")
            if answer is not None:
                text = answer.wire.decode("utf-8", "backslashreplace")
                lines += [f"< {printable(line, 70_000)}" for line in text.splitlines()]
                lines.append(f"  after {answer.seconds:.3f} s of 15")
        return "\n".join(lines)

    def save(self, file: str | os.PathLike[str], mask: bool = False) -> None:
        """Append the first request and its answer to *file*, as a line of JSON.

        `Phone.replay` reads the request.  The answer is there for people.  With *mask*, a copy
        keeps only values that name nobody, and neither host, path, cookies nor signature.
        """
        saved, answer = as_dict(self.requests[0], mask), self.answers[0]
        if answer is not None:
            saved["answer"] = {"status": answer.status}
            if not mask:
                saved["answer"]["body"] = answer.body.decode("utf-8", "backslashreplace")
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(saved) + "\n")


def as_dict(request: Request, mask: bool = False) -> dict[str, Any]:
    """Return *request* as `Exchange.save` writes it."""
    url, headers, body = request.url, request.headers, request.body.decode("utf-8", "replace")
    if mask:
        url, body = masked_url(url), masked_form(body)
        headers = tuple([header for header in headers if header[0].lower() in PLAIN_HEADERS])
    return {"method": request.method, "url": url, "headers": headers, "body": body}


def outcome(answer: Response | None) -> str:
    if answer is None:
        return "no answer"
    if not answer.status:
        return "an answer that cannot be read"
    return f"{answer.status} in {answer.seconds * 1000:.0f} ms"


def masked_url(url: str) -> str:
    query = url.partition("?")[2]
    # What has no "=" is no name, and often a key.
    query = re.sub("(?<![^&])[^=&]+(?![^&])", "x", query)
    return f"{PLAIN_URL}?{masked_form(query)}" if query else PLAIN_URL


def masked_form(form: str) -> str:
    """Return *form* with the same names, and only those values that name nobody."""
    pairs = parse_qsl(form, keep_blank_values=True)
    names = [name if PLAIN_NAME.fullmatch(name) else "x" for name, _ in pairs]
    return urlencode(list(zip(names, [masked(name, value) for name, value in pairs])))


def masked(name: str, value: str) -> str:
    """Return *value* if it names nobody, or else another one of the same kind."""
    if PLAIN.fullmatch(f"{name}={value}"):
        return value
    sid = SID.fullmatch(value)
    if sid:
        return sid[1] + "0" * 32
    number = re.fullmatch(r"(whatsapp:|rcs:)?\+\d+", value)
    if number:
        return (number[1] or "") + (YOUR_NUMBER if name == "To" else PHONE_NUMBER)
    return "x" if value else ""
