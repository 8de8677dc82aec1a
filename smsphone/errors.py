"""Twilio's error codes: what each one means, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smsreply import printable

if TYPE_CHECKING:
    from .wire import Response

ERROR, WARNING = "ERROR", "WARNING"
STATUS = "see the server's log; a 403 is the signature, and a 404 the path"

# Each of Twilio's codes, with its level, its meaning and the cure.  The phone reports the
# errors that it can see.  The others need Twilio's network: smsreply explain CODE tells them.
ERRORS: dict[int, tuple[str, str, str]] = {
    11100: (ERROR, "the URL has an invalid format", "give the whole URL, https:// included"),
    11200: (ERROR, "the URL could not be retrieved", f"open it in a browser; {STATUS}"),
    11201: (ERROR, "no connection in time", "start the server; let Twilio through its firewall"),
    11202: (ERROR, "the connection was refused", "start the server; check the port"),
    11203: (ERROR, "no answer in the time that the URL's #tt sets", "answer sooner, or raise tt"),
    11205: (ERROR, "no whole answer came", "answer within 15 s, or give App a cache; do not hang up"),
    11206: (ERROR, "not HTTP, or an illegal cookie", "look at the answer's first bytes and its cookies"),
    11210: (ERROR, "no such host", "check the host's name in the URL, and its DNS"),
    11215: (ERROR, "too many redirects of HTTP", "end the loop: some redirect must lead to an answer"),
    11217: (ERROR, "the answer's status is an error", STATUS),
    11220: (ERROR, "the TLS handshake failed", "check that this port serves https, with TLS 1.2 or newer"),
    11235: (ERROR, "the certificate is for another host", "get one for the URL's host"),
    11236: (ERROR, "the certificate has expired", "renew it"),
    11237: (ERROR, "no known authority signed the certificate", "install the intermediate certificates too"),
    11310: (ERROR, "the URL's scheme is not supported", "use http:// or https://"),
    11320: (ERROR, "the method is neither GET nor POST", "use GET or POST"),
    11321: (WARNING, "the webhook's URL is malformed", "give the whole URL, https:// included"),
    11322: (WARNING, "the webhook's method is wrong", "use GET or POST"),
    11750: (ERROR, "the answer is over 64 kB", "answer with less"),
    12100: (ERROR, "the answer is not well-formed XML", "escape & and <; put nothing before <?xml"),
    12200: (WARNING, "the answer is XML, but not TwiML", "use Twilio's verbs and attributes, case and all"),
    12300: (ERROR, "the answer's Content-Type is missing or unusable", "send text/xml"),
    14101: (ERROR, "the attribute 'to' is not a phone number", "use a number like +14017122661"),
    14102: (ERROR, "the attribute 'from' is not one of your numbers", "leave it out, or use one of yours"),
    14103: (ERROR, "a message is empty or too long", "send 1 to 1600 characters, and at most 10 media"),
    14105: (WARNING, "the statusCallback is not a URL", "use a URL, absolute or relative"),
    14106: (ERROR, "more than 50 TwiML documents for one message", "end the loop: a <Redirect> leads to itself"),
    14107: (ERROR, "too many replies in a chain", "do not reply to an automatic reply"),
    14108: (ERROR, "the number in the attribute 'from' cannot send this", "use a number that can send SMS or MMS"),
    14109: (ERROR, "more than 10 messages in reply to one", "send at most 10; a long text counts as several"),
    14110: (WARNING, "a verb for calls, such as <Say>, in reply to a message", "use <Message> and <Redirect> only"),
    21408: (ERROR, "the account may not send to this country", "enable it under Geo Permissions"),
    21610: (ERROR, "the person has opted out (STOP)", "do not send until they text START"),
    21611: (ERROR, "the number's queue is full", "send slower, or from more numbers"),
    21614: (ERROR, "the recipient's number cannot receive texts", "send to a mobile phone"),
    30003: (ERROR, "the person's phone is off or unreachable", "try again later"),
    30004: (ERROR, "the message was blocked", "the person or the carrier blocks it"),
    30005: (ERROR, "the recipient's number is unknown", "check the number"),
    30006: (ERROR, "the number is a landline, or its carrier cannot be reached", "send to a mobile phone"),
    30007: (ERROR, "a carrier filtered the message", "see Twilio's guide on message filtering"),
    30008: (ERROR, "an unknown error on the carrier's side", "try again; ask Twilio if it happens again"),
    30034: (ERROR, "the number is not registered for A2P 10DLC", "register your campaign"),
    57012: (ERROR, "Twilio could not sign with the SharedKey", "check the Setting that names the key"),
    63016: (ERROR, "WhatsApp: the person wrote more than 24 hours ago", "use an approved template"),
}  # fmt: skip
NOT_SENT = {11201, 11202, 11210}  # there was no connection
UNREADABLE = {*range(11200, 11238), 11750, 12100, 12300}  # what the fallback URL is for


class TwilioError(Exception):
    """What Twilio would log: *code*, *level*, *meaning*, *cure*, and a *detail* of this case.

    *answer* is the `Response` that was no good, or None if nothing came.
    """

    def __init__(self, code: int, detail: str = "", answer: Response | None = None) -> None:
        self.code = code
        self.level, self.meaning, self.cure = ERRORS[code]
        self.detail = printable(detail, 300)
        self.answer = answer
        more = f" ({self.detail})" if detail else ""
        super().__init__(f"{code}: {self.meaning}{more}: {self.cure}")
