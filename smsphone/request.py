"""A message as Twilio sends it: parameters by channel, headers, cookies, the signature."""

from __future__ import annotations

import binascii
import hashlib
import mimetypes
import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

from smsreply import (
    FORM_TYPE,
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
    signature_algorithm,
    signed_string,
)

from .errors import TwilioError
from .urls import split_url
from .wire import Request, Response, utf16_units, wire_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PHONE_NUMBER, YOUR_NUMBER = "+15005550001", "+15005550006"
ACCOUNT = "AC" + "0123456789abcdef" * 2
COOKIE_AGE = 4 * 60 * 60  # seconds: Twilio keeps no cookie for longer, whatever its Max-Age
PLACES = ("FromCity", "FromState", "FromZip", "FromCountry", "ToCity", "ToState", "ToZip", "ToCountry")  # fmt: skip

# What each channel sends besides the fields that all channels send.  In a value, {digits} are
# the number's, {user} is WhatsApp's ID of the person, {type} is the message's.
CHANNELS: dict[str, dict[str, str]] = {
    # A US number whose place Twilio does not know.
    "": {name: "US" if name.endswith("Country") else "" for name in reversed(PLACES)},
    "whatsapp": {
        "ProfileName": "Ada",
        "WaId": "{digits}",
        "ExternalUserId": "{user}",
        "MessageType": "{type}",
        "ReferralNumMedia": "0",
    },
    "rcs": {},
}
# A WhatsApp message's type: a parameter decides it, or else the type of its media.
TYPES_BY_PARAMETER = {"Latitude": "location", "ButtonText": "button", "ButtonPayload": "button"}
TYPES_BY_MEDIA = {
    "image/webp": "sticker",
    "image/": "image",
    "audio/": "audio",
    "video/": "video",
    "text/vcard": "contacts",
    "text/x-vcard": "contacts",
    "": "document",
}

# GSM 03.38: the alphabet of 7 bits is printable ASCII without the backtick, and the other
# characters here.  Those in GSM_TWICE count double.
GSM_7 = re.compile(r"[\n\r -_a-~£¥èéùìòÇØøÅåΔΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà€]*")
GSM_TWICE = "^{}\\[~]|€"


def new_sid(prefix: str) -> str:
    return prefix + os.urandom(16).hex()


def message_params(
    number: str, to: str, body: str, media: Iterable[Any], more: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the parameters that Twilio sends for a message, those of *more* among them.

    *media* are URLs, or pairs of a URL and a content type.  In *more*, None leaves a
    parameter out.
    """
    for text in (number, to, body):
        if not isinstance(text, str):
            raise TypeError(f"a text and its two numbers are of the type str, and not {text!r}")
    pictures = typed_media(media)
    sid = new_sid("MM" if pictures else "SM")
    channel = number.partition(":")[0] if ":" in number else ""
    params = {
        **channel_params(channel, number, pictures, more),
        "SmsMessageSid": sid,
        "SmsSid": sid,
        "SmsStatus": "received",
        "Body": body,
        "NumMedia": str(len(pictures)),
        "NumSegments": segments(body, len(pictures)),
    }
    for index, (url, content_type) in enumerate(pictures):
        params[f"MediaUrl{index}"] = url
        params[f"MediaContentType{index}"] = content_type
    prefix = f"{channel}:" if channel else ""
    params.update(To=to if to.startswith(prefix) else prefix + to, From=number)
    params.update(MessageSid=sid, AccountSid=ACCOUNT, ApiVersion="2010-04-01")
    params.update({name: str(value) for name, value in more.items() if value is not None})
    return {name: value for name, value in params.items() if more.get(name, "") is not None}


def channel_params(
    channel: str, number: str, pictures: list[tuple[str, str]], more: Mapping[str, str | None]
) -> dict[str, str]:
    """Return what only this *channel* sends."""
    name = number.partition(":")[2]
    hidden = bool(re.match("[A-Z]{2}[.]", name))  # a person with a username, and no number
    digits = "" if hidden else name.lstrip("+")
    user = name if hidden else f"US.{int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)}"
    kinds = [kind for parameter, kind in TYPES_BY_PARAMETER.items() if more.get(parameter)]
    kinds += [media_kind(content_type) for _, content_type in pictures[:1]]
    values = {"digits": digits, "user": user, "type": (kinds or ["text"])[0]}
    found = CHANNELS.get(channel, {})
    params = {name: value.format(**values) for name, value in found.items()}
    return {name: value for name, value in params.items() if not (hidden and name == "WaId")}


def media_kind(content_type: str) -> str:
    return next(kind for start, kind in TYPES_BY_MEDIA.items() if content_type.startswith(start))


def typed_media(media: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the URL and the content type of each; a type that is not given is guessed."""
    pairs = []
    for one in [media] if isinstance(media, str) else media:
        try:
            url, content_type = (one, None) if isinstance(one, str) else one
        except TypeError:  # not a pair
            url = content_type = None
        if not (isinstance(url, str) and isinstance(content_type, (str, type(None)))):
            raise TypeError(
                f"media are URLs, or pairs of a URL and a content type, and not {one!r}"
            )
        guessed = mimetypes.guess_type(re.split("[?#]", url)[0])[0]
        pairs.append((url, content_type or guessed or "image/jpeg"))
    return pairs


def segments(body: str, pictures: int) -> str:
    """Return how many segments a text has; for a picture message, how many pictures."""
    # GSM 03.40: 160 characters of 7 bits, or 70 of UCS-2.  In a longer text, each segment has
    # a header, and so fewer characters.
    if GSM_7.fullmatch(body):
        alone, joined, units = 160, 153, len(body) + sum(map(body.count, GSM_TWICE))
    else:
        alone, joined, units = 70, 67, utf16_units(body.encode("utf-8", "replace").decode())
    return str(pictures or (1 if units <= alone else -(-units // joined)))


class Signature:
    """What the phone signs with: a token, and for a SharedKey its settings.

    Raise ValueError if the algorithm is unknown, or if a header cannot carry the settings.
    """

    def __init__(self, tokens: list[bytes], settings: str | None, given: str | None = None) -> None:
        for text in (settings, given):
            if not (text is None or (isinstance(text, str) and text.isprintable())):
                raise ValueError(f"{text!r} cannot be in a header")
        self.settings = settings or ""
        self._given = given  # a signature to send instead of the right one
        self._validator = RequestValidator(tokens[:1]) if tokens else None
        self._algorithm = signature_algorithm(settings)
        RequestValidator("any").compute_signature("", {}, self._algorithm)

    def of(self, url: str, fields: list[tuple[str, str]]) -> tuple[str, str]:
        """Return the string that is signed, and its signature; without a token, both are empty."""
        if self._validator is None:
            return "", self._given or ""
        signature = self._validator.compute_signature(url, fields, self._algorithm)
        return signed_string(url, fields), signature if self._given is None else self._given


class Jar:
    """The cookies that Twilio keeps for a pair of numbers, as RFC 6265 has browsers do it.

    A cookie goes back to the host that set it, whatever its Domain, and below its Path.
    """

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], tuple[str, bool, str, float]] = {}

    def keep(self, answer: Response, url: str) -> None:
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                self._keep(value, split_url(url.partition("#")[0])[2], answer)

    def _keep(self, cookie: str, host: str, answer: Response) -> None:
        pair, *attributes = cookie.split(";")
        name, equals, value = [part.strip() for part in pair.partition("=")]
        if not name or not equals or not cookie.isprintable():
            raise TwilioError(11206, f"Set-Cookie: {cookie}", answer)
        options = {
            k.strip().lower(): v.strip() for k, _, v in [a.partition("=") for a in attributes]
        }
        end = min(expiry(options), time.time() + COOKIE_AGE)
        path = options.get("path", "")
        path = path if path.startswith("/") else "/"  # RFC 6265, section 5.2.4
        self._cookies[host, name] = (value, "secure" in options, path, end)

    def header(self, url: str) -> str:
        """Return the ``Cookie`` header for a request to *url*."""
        scheme, _, host, rest = split_url(url)
        path = rest.partition("?")[0]
        return "; ".join(
            [
                f"{name}={value}"
                for (of, name), (value, secure, under, end) in list(self._cookies.items())
                if of == host
                and end > time.time()
                and (scheme == "https" or not secure)
                and (path + "/").startswith(under.rstrip("/") + "/")
            ]
        )


def expiry(options: Mapping[str, str]) -> float:
    """Return when a cookie ends.  RFC 6265, section 5.3: Max-Age is before Expires."""
    if re.fullmatch(r"-?\d{1,12}", options.get("max-age", "")):
        return time.time() + int(options["max-age"])
    try:
        return parsedate_to_datetime(options["expires"].replace("-", " ")).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return float("inf")


def make_request(
    kind: str, method: str, url: str, target: str, form: str, sign: Signature, cookies: str
) -> Request:
    """Return the request for *url*, signed; the fields of a GET are in the URL already."""
    body = form.encode() if method == "POST" else b""
    fields = parse_qsl(body.decode(), keep_blank_values=True, separator="&", errors="replace")
    signed, signature = sign.of(url, fields)
    headers = request_headers(target, signature, sign.settings, cookies)
    if method == "POST":
        headers.append(("Content-Type", FORM_TYPE + "; charset=UTF-8"))
        headers.append(("Content-Length", str(len(body))))
    headers.append(("Connection", "close"))
    wire = wire_bytes(f"{method} {split_url(target)[3]} HTTP/1.1", headers, body)
    return Request(
        kind, method, url, target, tuple(fields), tuple(headers), body, signed, signature, wire,
        time.time(),
    )  # fmt: skip


def request_headers(
    target: str, signature: str, settings: str, cookies: str
) -> list[tuple[str, str]]:
    """Return the headers that all of Twilio's requests have."""
    _, credentials, host, _ = split_url(target)
    headers = [("Host", host), ("User-Agent", "TwilioProxy/1.1"), ("Accept", "*/*")]
    if credentials:
        login = binascii.b2a_base64(unquote(credentials).encode(), newline=False).decode()
        headers.append(("Authorization", f"Basic {login}"))
    headers += [("I-Twilio-Idempotency-Token", str(uuid4())), ("X-Home-Region", "us1")]
    headers += [(SIGNATURE_HEADER, signature)] if signature else []
    headers += [(SIGNATURE_SETTINGS_HEADER, settings)] if settings else []
    headers += [("Cookie", cookies)] if cookies else []
    return headers
