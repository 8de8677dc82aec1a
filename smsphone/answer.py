"""The answer as Twilio reads it: which types it takes, verbs, and limits.

One table, `smsreply.ELEMENTS`, says which elements TwiML has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from smsreply import ELEMENTS, MAX_MESSAGE

from .errors import TwilioError
from .urls import absolute
from .wire import utf16_units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .wire import Response

# Twilio knows these verbs too, but only in a call.
VOICE = set(
    "Connect Dial Enqueue Gather Hangup Leave Pause Pay Play Prompt Queue Record Refer"  # noqa: SIM905
    " Reject Say Sim Siprec Start Stop Stream Transcription".split()
)
MAX_MEDIA = 10
# A number, a short code, or a channel and an address: whatsapp:+14017122661.
ADDRESS = re.compile(r"\+?[\d ().-]{3,30}|[a-z]+:.+")


@dataclass(frozen=True)
class SentMessage:
    """A message that somebody gets: a text, URLs of media, two numbers, and its SID."""

    body: str
    media: tuple[str, ...]
    to: str
    from_: str
    sid: str = ""
    status_callback: str = ""


def verbs_of(answer: Response) -> list[ElementTree.Element]:
    """Return the verbs of an answer; plain text is one <Message>.

    The whole document is checked before the phone obeys any verb of it.
    """
    kind = answer.header("content-type").partition(";")[0].strip().lower()
    if answer.status == 204:
        return []
    if kind == "text/plain" and answer.status == 200:
        message = ElementTree.Element("Message")
        message.text = answer.body.decode("utf-8", "replace")
        return [message] if message.text else []
    if kind not in ("text/xml", "application/xml", "text/html"):
        raise TwilioError(12300, f"it is {kind!r}" if kind else "there is none", answer)
    response = parse_xml(answer.body)
    check_element(response, ("Response",), "is the root")
    for verb in response:
        check(verb)
    return list(response)


def check(verb: ElementTree.Element) -> None:
    """Raise `TwilioError` unless *verb*, all that is in it included, is Twilio's."""
    if verb.tag == "Sms":  # the older name of <Message>
        verb.tag = "Message"
    if verb.tag in VOICE:
        raise TwilioError(14110, f"<{verb.tag}>")
    check_element(verb, ELEMENTS["Response"].holds, "is in <Response>")
    if verb.get("method", "POST").upper() not in ("GET", "POST"):
        raise TwilioError(12200, f"the method {verb.get('method')!r} is neither GET nor POST")
    for noun in verb:
        check_element(noun, ELEMENTS[verb.tag].holds, f"is in <{verb.tag}>")
        for inner in noun:
            check_element(inner, ELEMENTS[noun.tag].holds, f"is in <{noun.tag}>")


def check_element(element: ElementTree.Element, known: tuple[str, ...], where: str) -> None:
    """Raise error 12200 unless *element* and its attributes are *known*."""
    if element.tag not in known:
        there = ", ".join(known) or "nothing"
        raise TwilioError(12200, f"<{element.tag}> {where}, where Twilio knows {there}")
    for name in element.attrib:
        if name not in ELEMENTS[element.tag].attributes:
            raise TwilioError(12200, f"<{element.tag}> has an attribute {name!r}")


def parse_xml(document: bytes) -> ElementTree.Element:
    class NoDoctype(ElementTree.TreeBuilder):
        """Refuses a document type, whose entities can make a few bytes fill the memory."""

        def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
            raise TwilioError(12100, "it has a document type")

    try:
        return ElementTree.fromstring(document, ElementTree.XMLParser(target=NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise TwilioError(12100, str(error)) from error


def message_of(
    verb: ElementTree.Element, url: str, params: Mapping[str, str], sid: str
) -> SentMessage:
    """Return the message that the verb <Message> sends, in reply to *params*.

    Its text is the verb's own, followed by that of each <Body>.
    """
    bodies = [noun.text or "" for noun in verb if noun.tag == "Body"]
    pictures = [(noun.text or "").strip() for noun in verb if noun.tag == "Media"]
    media = [absolute(url, picture) for picture in pictures if picture]
    if len(media) > MAX_MEDIA:
        raise TwilioError(14103, f"{len(media)} media")
    text = verb.text or ""
    if len(verb):  # white space between elements is there for its reader
        text = "".join([text.strip(), *bodies, *[(noun.tail or "").strip() for noun in verb]])
    to, from_ = verb.get("to") or params.get("From", ""), verb.get("from") or params.get("To", "")
    if verb.get("to") and not ADDRESS.fullmatch(to.strip()):
        raise TwilioError(14101, f"it is {to!r}")
    if not (text.strip() or media):
        raise TwilioError(14103, "neither text nor media")
    units = utf16_units(text)
    if units > MAX_MESSAGE:
        raise TwilioError(14103, f"{units} characters")
    return SentMessage(text, tuple(media), to, from_, sid)
