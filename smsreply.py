#!/usr/bin/env python3
"""Answer text messages: the whole of your side of a Twilio webhook.

Somebody texts your number.  Twilio makes an HTTP request to your URL with the
message in it, and what you answer, a small XML document called TwiML, is what the
person gets back.  You write a function from the message to the reply:

    import smsreply

    def reply(message):
        return f"You said {message.body!r}."

    application = smsreply.App(reply)

``application`` is a WSGI callable (PEP 3333): any WSGI host serves it.  For the rest,
read on: the path of every message is this file's first part, and ``App.__call__`` is
its summary.

    1. Read         the fields of the form, or of the query, within limits.
    2. Verify       that Twilio signed exactly this URL and these fields.
    3. Understand   the fields as a message, with its media and its session.
    4. Write        the handler's return value as TwiML.
    5. Answer       with it: one WSGI callable, one door for all that goes wrong.

    6. Remember     each message, to answer it once, and for longer than 15 seconds.
    7. Explain      why a signature does not match.
    8. Serve        with wsgiref in development, with waitress in production.
    9. Phone        Twilio's side of it, offline: in a test, a terminal, a browser.
   10. Command line smsreply serve, text, phone and explain.

It needs nothing but Python.  It sends no message by itself (that takes Twilio's REST
API), answers no voice call, and keeps nothing on a disk.

Where the rules are written: Twilio's documentation, "Messaging webhooks", "TwiML for
Programmable Messaging" and "Webhooks security"; PEP 3333 (WSGI); RFC 3986 (URLs);
RFC 9112 (HTTP/1.1); RFC 6265 (cookies); XML 1.0, section 2.2 (characters).
"""

from __future__ import annotations

import binascii
import contextlib
import contextvars
import hashlib
import hmac
import itertools
import logging
import os
import queue
import re
import sys
import threading
import time
from urllib.parse import parse_qs, parse_qsl, quote, quote_plus, unquote, unquote_plus, urlencode

TYPE_CHECKING = False  # typing itself is not needed to run, and takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Protocol, Union
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
    from xml.etree import ElementTree

    from typing_extensions import Self, TypeGuard

    class Cache(Protocol):
        """What `App` asks of a cache: four methods of Django's, and of cachelib's."""

        def get(self, key: str) -> Any: ...
        def set(self, key: str, value: Any, timeout: int) -> Any: ...
        def add(self, key: str, value: Any, timeout: int) -> Any: ...
        def delete(self, key: str) -> Any: ...

    Pairs = list[tuple[str, str]]
    Fields = Union[dict[str, str], Pairs]  # pairs only if a name comes twice
    Reply = Union[
        None, str, bytes, "MessagingResponse", "Message", "Redirect",
        "list[Union[None, str, Message, Redirect]]",
        "tuple[Union[None, str, Message, Redirect], ...]",
    ]  # fmt: skip
    Handler = Callable[["IncomingMessage"], Reply]
    Inbox = queue.SimpleQueue[Callable[[], None]]  # what a thread of the pool is to run

__version__ = "1.0.0"
__all__ = [
    "App",
    "Body",
    "IncomingMessage",
    "Media",
    "MemoryCache",
    "Message",
    "MessagingResponse",
    "Phone",
    "RawTwiML",
    "Redirect",
    "RequestValidator",
    "TwiMLException",
    "__version__",
    "application",
    "main",
]

log = logging.getLogger("smsreply")


# ------------------------------------------------------------------ What can go wrong


class Refused(Exception):
    """A request that gets no TwiML.  Its text is the one line that is answered.

    That line never quotes the sender, and never says how to do better at forging.
    """

    status = "400 Bad Request"
    headers: tuple[tuple[str, str], ...] = ()

    def reason(self) -> str:
        """Return what the log says."""
        return str(self)


class NotFound(Refused):
    """*answered* are the paths that are answered, for the log."""

    status = "404 Not Found"

    def __init__(self, text: str, answered: Iterable[str] = ()) -> None:
        super().__init__(text)
        self._answered = answered

    def reason(self) -> str:
        paths = ", ".join([printable(path or "/", 100) for path in self._answered])
        return f"{self}; answered are, below the mount: {paths}" if paths else str(self)


class MethodNotAllowed(Refused):
    status = "405 Method Not Allowed"
    headers = (("Allow", "GET, POST"),)  # RFC 9110, 15.5.6: a 405 must have it


class LengthRequired(Refused):
    status = "411 Length Required"


class TooLarge(Refused):
    status = "413 Content Too Large"


class NotAForm(Refused):
    status = "415 Unsupported Media Type"


class NotSigned(Refused):
    """*explain* is called only if the reason is logged: finding it takes a while."""

    status = "403 Forbidden"

    def __init__(self, explain: Callable[[], str]) -> None:
        super().__init__("this was not signed by Twilio")
        self._explain = explain

    def reason(self) -> str:
        return self._explain()


class NoToken(Refused):
    status = "500 Internal Server Error"

    def reason(self) -> str:
        return (
            "there is no auth token, so nothing is answered: set TWILIO_AUTH_TOKEN, or pass"
            " auth_token=…; verify=False answers what anybody sends"
        )


class Busy(Refused):
    status = "503 Service Unavailable"


def printable(text: str, limit: int = 2000) -> str:
    r"""Return *text* fit for one line of a log or a terminal, cut at *limit* characters.

    Whatever is not printable is escaped, so that nobody can forge a line, hide one, or
    colour it:

    >>> printable("Hi\n\x1b[31mERROR all is lost")
    'Hi\\n\\x1b[31mERROR all is lost'
    """
    text = text if len(text) <= limit else text[:limit] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def traceback_text(error: BaseException) -> str:
    """Return the traceback of *error*, each line indented, and escaped."""
    lines: list[str] = []
    try:
        lines.extend(traceback_lines(error, set()))
    except Exception as broken:  # whatever an exception has of its own may raise another one
        lines.append(f"{type(error).__name__}: no more can be told: {type(broken).__name__}")
    return "\n".join(["    " + printable(line) for line in lines])


def traceback_lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Yield the lines that Python prints of *error*, and before it of what led to it.

    Not `traceback.format_exception`: a file's name, an exception's text and its notes may
    be the sender's, with line ends in them.  At most 20 linked exceptions are told, and of
    each the last 20 frames.
    """
    import traceback

    def untold(other: BaseException) -> bool:
        return id(other) not in seen and len(seen) < 20

    seen.add(id(error))
    if error.__cause__ and untold(error.__cause__):
        yield from traceback_lines(error.__cause__, seen)
        yield "The above exception was the direct cause of the following exception:"
    elif error.__context__ and untold(error.__context__) and not error.__suppress_context__:
        yield from traceback_lines(error.__context__, seen)
        yield "During handling of the above exception, another exception occurred:"
    yield "Traceback (most recent call last):"
    for frame in traceback.extract_tb(error.__traceback__, limit=-20):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"    {frame.line}"
    yield "".join(traceback.format_exception_only(type(error), error)).strip()
    parts = getattr(error, "exceptions", ())  # an ExceptionGroup's; or some other thing
    for part in parts if isinstance(parts, tuple) else ():
        yield from traceback_lines(part, seen) if untold(part) else ()


class Seldom:
    """Let through, for each kind of log line, one a second; count the others.

    A flood of bad requests then costs no more than refusing them.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def admits(self, kind: str) -> str | None:
        """Return None for a line that is held back; else what to append: how many were."""
        now = time.monotonic()
        last, held_back = self._seen.get(kind, (now - 1, 0))
        if now - last < 1:
            self._seen[kind] = (last, held_back + 1)
            return None
        self._seen[kind] = (now, 0)
        return f" (and {held_back} more since the last such line)" if held_back else ""


# ---------------------------------------------------------------------------- 1. Read

# In bytes.  A text is at most 1,600 characters, each of up to 12 bytes as it is percent-
# encoded; the other fields need some 5 KiB with ten pictures; the rest is room for new ones.
MAX_BODY = 64 * 1024
MAX_QUERY = 64 * 1024
# Twilio sends about 25, and some 60 with media; each one costs time to sort and sign.
MAX_FIELDS = 1000

FORM_TYPE = "application/x-www-form-urlencoded"
MALFORMED_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
# A form's four marks, and what `parse_at_once` puts for them: quoted-printable's "=" and
# space, and U+0000 between texts.  (A form that has it in a text goes the long way.)
FORM_MARKS = bytes.maketrans(b"%+&=", b"= \x00\x00")
# Bytes that it takes as they come.  Left are & and =, whose order it checks, and what it
# takes none of: ends of lines, which quoted-printable may join, and bytes beyond ASCII,
# which may be a letter only together with an escape.
PLAIN = bytes(set(range(128)) - set(b"&=\r\n"))

# Scheme, credentials, host (IPv6 in brackets), port, and from the path to the end.
URL_PARTS = re.compile(
    r"(https?)://(?:([^/?#]*)@)?(\[[^\]/?#@]*\]|[^/?#:@]*)(?::(\d*))?([/?].*)?", re.I | re.S
)
# RFC 3986, section 3.3: what may stand in a path as it is.  wsgiref.util.request_uri
# quotes ":" and "@" too, which Twilio did not.
PATH_CHARACTERS = "/:@!$&'()*+,;=~"


def read(environ: WSGIEnvironment) -> tuple[Fields, Fields, str]:
    """Return the fields of the message, those of the query, and the request's target.

    Twilio sends the message as the form that is the body of a POST, or in the query of
    a GET.  A body of at most `MAX_BODY` bytes is taken, and no byte is waited for that
    was not announced.  Whatever is wrong is a `Refused`.
    """
    method = environ["REQUEST_METHOD"]
    if method not in ("GET", "POST"):
        raise MethodNotAllowed("only GET and POST are answered")
    check_type(environ.get("CONTENT_TYPE", ""))
    target = request_target(environ)
    query_string = target.partition("?")[2]
    if len(query_string) > MAX_QUERY:
        raise TooLarge(f"the query is longer than {MAX_QUERY} bytes")
    body = read_body(environ) if method == "POST" else b""
    # PEP 3333, "Unicode Issues": an environ's str has a byte in each character.
    query = parse(query_string.encode("latin-1", "replace")) if query_string else {}
    return (parse(body) if method == "POST" else query), query, target


def request_target(environ: WSGIEnvironment) -> str:
    """Return the path and the query, as raw as the server has them.

    Twilio signs them so.  And what is read from the query is read from here, lest it be
    something else than what was signed.
    """
    target: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or rebuilt_target(environ)
    target = target.partition("#")[0]  # never signed, so it must not be read either
    if target.startswith("/"):
        return target
    # The absolute form (RFC 9112, 3.2.2).  Scheme and host are still the server's to say,
    # which knows its proxy.  Of any other form, servers take this or that for the path.
    absolute = URL_PARTS.fullmatch(target)
    if not absolute:
        raise Refused("the request's target is neither a path nor a URL")
    rest: str = absolute[5] or ""
    return rest if rest.startswith("/") else "/" + rest


def rebuilt_target(environ: WSGIEnvironment) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query = environ.get("QUERY_STRING")
    target = quote(path.encode("latin-1", "replace"), safe=PATH_CHARACTERS) or "/"
    return f"{target}?{query}" if query else target


def check_type(content_type: str) -> None:
    # wsgiref invents a bare text/plain where the request names no type.
    if content_type in ("", "text/plain", FORM_TYPE):
        return
    if content_type.partition(";")[0].strip().lower() != FORM_TYPE:
        raise NotAForm(f"the type of a message is {FORM_TYPE}")


def read_body(environ: WSGIEnvironment) -> bytes:
    """Return the whole body, and block for no byte that was not announced."""
    length = environ.get("CONTENT_LENGTH", "")
    if environ.get("HTTP_TRANSFER_ENCODING") or not length:
        # Some servers decode chunks, and say so by this key: then the input has an end.
        # With the others it has none, and to read it blocks for ever.
        if environ.get("wsgi.input_terminated"):
            return read_to_end(environ)
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise LengthRequired("this server does not decode chunks: send a Content-Length")
        return b""
    # int() takes more than a length may be (" 5", "+5", "1_0"), and raises ValueError for
    # 5,000 digits.  No length that anybody means has over 19.
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise Refused("the Content-Length is not a number")
    size = int(length)
    # Before a byte is read, and so before the signature is checked: anybody may have sent it.
    if size > MAX_BODY:
        raise TooLarge(f"the body is longer than {MAX_BODY} bytes")
    body = read_up_to(environ, size)
    if len(body) < size:
        raise Refused("the body is shorter than its Content-Length, or was read before")
    return body


def read_to_end(environ: WSGIEnvironment) -> bytes:
    body = read_up_to(environ, MAX_BODY + 1)  # the one byte more tells that it is too long
    if len(body) > MAX_BODY:
        raise TooLarge(f"the body is longer than {MAX_BODY} bytes")
    return body


def read_up_to(environ: WSGIEnvironment, size: int) -> bytes:
    """Return *size* bytes of the input, or as many as there are."""
    stream = environ["wsgi.input"]
    try:
        body = stream.read(size)
        while len(body) < size:  # some servers return what has come so far
            more = stream.read(size - len(body))
            if not more:
                break
            body += more
    except Exception as error:  # the client left, sent nothing for long, or sent bad chunks
        raise Refused("the body did not come") from error
    return bytes(body)


def parse(form: bytes) -> Fields:
    """Return the names and values of *form*, blank ones too: pairs if a name comes twice.

    >>> parse(b"From=%2B14017122661&FromZip=&Body=Caf%C3%A9+%26+cake")
    {'From': '+14017122661', 'FromZip': '', 'Body': 'Café & cake'}
    """
    marks = form.translate(None, PLAIN)  # &, =, and what calls for the long way
    if marks.count(b"&") >= MAX_FIELDS:
        raise Refused(f"there are over {MAX_FIELDS} fields")
    try:
        return parse_at_once(form, marks) or parse_each(form)
    except UnicodeDecodeError as error:
        raise Refused("the form is not UTF-8") from error


def parse_at_once(form: bytes, marks: bytes) -> dict[str, str]:
    """Return what `parse_each` does, at a tenth of the cost; {} where that is not sure.

    The whole form is decoded in one go, as quoted-printable, which has ``=2B`` for
    ``%2B``: of ``a=%2B+1&b=``, ``a0=2B 10b0`` is made (0 is U+0000), and of that
    ``a0+ 10b0``.  It is sure if each field has one "=", every escape took two bytes off,
    the U+0000 that stand for marks are all there are, and no name comes twice.
    """
    if marks != b"=&" * (len(marks) // 2) + b"=":
        return {}
    plain = binascii.a2b_qp(form.translate(FORM_MARKS))
    texts = plain.decode().split("\0")
    each = iter(texts)
    fields = dict(zip(each, each))  # in twos: a name, its value
    if len(form) - len(plain) != 2 * form.count(b"%"):
        return {}
    return fields if len(texts) == len(marks) + 1 == 2 * len(fields) else {}


def parse_each(form: bytes) -> Fields:
    text = form.decode()
    if MALFORMED_ESCAPE.search(text):
        raise Refused("the form has a % that is not followed by two hex digits")
    pairs = parse_qsl(text, keep_blank_values=True, errors="strict", separator="&")
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else pairs


# -------------------------------------------------------------------------- 2. Verify

HMAC_SHA1 = "HMAC_SHA1"
HMAC_SHA256 = "HMAC_SHA256"
HASHES = {HMAC_SHA1: "sha1", HMAC_SHA256: "sha256"}


def request_url(environ: WSGIEnvironment, target: str, public_url: str | None = None) -> str:
    """Return the URL that Twilio requested, as far as this server can know.

    *public_url* stands for the scheme, the host and the stripped path prefix that only
    a proxy has seen.  ``X-Forwarded-*`` headers are not read: anybody can send them.
    """
    if not target.isascii():
        target = target.encode("latin-1", "replace").decode("utf-8", "replace")
    return (public_url or server_origin(environ)) + target


def server_origin(environ: WSGIEnvironment) -> str:
    """Return the scheme, host and port by which the server was asked, with no slash at the end."""
    scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST")
    if host:
        # Otherwise "Host: abc.example/other?" would put a path of the sender's into the URL
        # that is checked, while the path of the request is the one that is answered.
        if "/" in host or "?" in host or "#" in host or "@" in host or "\\" in host:
            raise Refused("the Host is more than a host")
    else:
        name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
        host = f"[{name}]" if ":" in name and name[0] != "[" else name
        if port != {"https": "443", "http": "80"}.get(scheme):
            host = f"{host}:{port}"
    return f"{scheme}://{host}"


def other_spellings(uri: str) -> Iterator[str]:
    """Yield the other forms in which Twilio may have signed *uri*, the likeliest first.

    It signs some requests with the default port in the URL and some without, drops
    credentials or keeps them, and puts "/" where there is no path or does not.  All of them name
    the same resource: a signature of one says no more than a signature of another.
    """
    parts = URL_PARTS.fullmatch(uri)
    if not parts:
        return
    scheme, credentials, host, port, rest = parts.groups(default="")
    port = port or {"https": "443", "http": "80"}[scheme.lower()]
    path, mark, query = rest.partition("?")
    for user in ("", f"{credentials}@") if credentials else ("",):
        for name in (host, f"{host}:{port}"):
            for steps in ("", "/") if path in ("", "/") else (path,):
                spelled = f"{scheme}://{user}{name}{steps}{mark}{query}"
                if spelled != uri:
                    yield spelled


def signed_string(uri: str, fields: dict[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """Return what Twilio signs: the URL, then each name and value, sorted, no delimiters.

    A value that a name has twice counts once.  As nothing stands between them, ``A=bc``
    and ``Ab=c`` are signed alike: no receiver can tell such forms apart.

    >>> signed_string("https://abc.example/sms", [("To", "b"), ("From", "a"), ("To", "b")])
    'https://abc.example/smsFromaTob'
    """
    if isinstance(fields, dict):  # where no name comes twice, the names alone give the order
        return uri + "".join([name + fields[name] for name in sorted(fields)])
    return uri + "".join([name + value for name, value in sorted(set(fields))])


class Signer:
    """A token that signs.  The HMAC is keyed once, and copied for each string."""

    def __init__(self, token: bytes) -> None:
        self._begun = {name: hmac.new(token, digestmod=digest) for name, digest in HASHES.items()}

    def sign(self, string: str, algorithm: str = HMAC_SHA1) -> bytes:
        """Return the signature of *string* in base64."""
        begun = self._begun[algorithm].copy()
        # A lone surrogate has no UTF-8 and was never signed; any bytes will do for it.
        begun.update(string.encode("utf-8", "surrogatepass"))
        return binascii.b2a_base64(begun.digest(), newline=False)


def signature_algorithm(settings: str | None) -> str:
    """Return the algorithm that X-Twilio-Webhooks-Signature-Settings names.

    >>> signature_algorithm("key=SK1,algorithm=HMAC_SHA256")
    'HMAC_SHA256'
    """
    for part in (settings or "").split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip()
    return HMAC_SHA1


def to_bytes(value: str | bytes | bytearray) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)


def sendable(text: str) -> str:
    """Return *text* as UTF-8 carries it: a lone surrogate becomes "?"."""
    return text.encode("utf-8", "replace").decode()


def to_pairs(params: Any) -> Pairs:
    """Return the fields of *params*, whatever a framework holds them in.

    A dict, also of lists; a MultiDict or QueryDict (``getall``, ``getlist``); pairs; a
    form's body as str or bytes; None.
    """
    if not params:
        return []
    if isinstance(params, (str, bytes, bytearray)):
        form = to_bytes(params).decode("utf-8", "replace")
        return parse_qsl(form, keep_blank_values=True, separator="&")
    values_of = getattr(params, "getall", None) or getattr(params, "getlist", None)
    if values_of is not None:
        return [(name, str(value)) for name in set(params) for value in values_of(name)]
    pairs = []
    for name, value in params.items() if hasattr(params, "items") else params:
        values = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
        pairs += [(str(name), one if isinstance(one, str) else str(one)) for one in values]
    return pairs


def to_tokens(auth_token: str | bytes | Iterable[str | bytes] | None) -> list[bytes]:
    """Return the tokens, in order, without the blank ones."""
    if auth_token is None or isinstance(auth_token, (str, bytes)):
        auth_token = [auth_token or ""]
    return [to_bytes(token) for token in auth_token if token and token.strip()]


class RequestValidator:
    """Twilio's signature, with the interface of its helper library's class of this name.

    *token* is the account's auth token, or the secret of a SharedKey, or several of
    them: each is accepted, and the first one signs.  For App's own use of it see
    `App._verify`; `explain` says why a signature does not match.

    One of Twilio's published examples:

    >>> validator = RequestValidator("12345")
    >>> url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    >>> params = {"CallSid": "CA1234567890ABCDE", "Caller": "+14158675309",
    ...           "Digits": "1234", "From": "+14158675309", "To": "+18005551212"}
    >>> validator.compute_signature(url, params)
    'RSOYDt4T1cUTdK1PDd93/VVr8B8='
    >>> validator.validate(url, params, "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    True
    """

    def __init__(self, token: str | bytes | Iterable[str | bytes]) -> None:
        self.tokens = to_tokens(token)
        if not self.tokens:
            raise ValueError("the token is blank: a signature made with it proves nothing")
        self._signers = [Signer(token) for token in self.tokens]

    def compute_signature(self, uri: str, params: Any = None, algorithm: str | None = None) -> str:
        """Return the signature of a request for *uri* with the form fields *params*.

        *algorithm* is ``HMAC_SHA1`` (the default) or ``HMAC_SHA256``; any other is a
        ValueError.
        """
        algorithm = (algorithm or HMAC_SHA1).upper()
        if algorithm not in HASHES:
            raise ValueError(f"{printable(algorithm, 40)!r} is neither of {', '.join(HASHES)}")
        uri = uri.partition("#")[0]  # never requested, so never signed
        return self._signers[0].sign(signed_string(uri, to_pairs(params)), algorithm).decode()

    def compute_hash(self, body: str | bytes | bytearray) -> str:
        """Return the SHA-256 of *body* in hex, as ``bodySHA256`` has it for a JSON body."""
        return hashlib.sha256(to_bytes(body)).hexdigest()

    def validate(
        self, uri: str, params: Any, signature: str | bytes | None, algorithm: str | None = None
    ) -> bool:
        """Return whether Twilio signed a request for *uri* with *params*.

        *uri* is the whole URL, query included, as Twilio requested it.  *params* are the
        fields of a POST's form (see `to_pairs`), the body as str or bytes where the URL
        has a ``bodySHA256``, and None or empty for a GET.  Whatever text *signature* and
        *algorithm* are, there is no exception.
        """
        if (algorithm or HMAC_SHA1).upper() not in HASHES:
            log.warning("%r is not an algorithm known here", printable(str(algorithm), 40))
        if isinstance(params, (str, bytes, bytearray)):
            claimed = body_hash(uri)
            if claimed:
                computed = self.compute_hash(params)
                if not hmac.compare_digest(to_bytes(computed), to_bytes(claimed)):
                    return False
                params = None
        uri = uri.partition("#")[0]  # never requested, so never signed
        return self.matches(uri, signed_string("", to_pairs(params)), signature or "", algorithm)

    def matches(
        self, uri: str, signed_fields: str, signature: str | bytes, algorithm: str | None = None
    ) -> bool:
        """Return whether a token signed *uri*, in any spelling, with *signed_fields* after it.

        *signed_fields* is what `signed_string` makes of the fields.  *uri* has no fragment.
        """
        given = to_bytes(signature)
        algorithm = algorithm.upper() if algorithm else HMAC_SHA1
        if algorithm not in HASHES:
            return False
        if self._accepts(given, uri + signed_fields, algorithm):  # nearly always
            return True
        return any(self._accepts(given, u + signed_fields, algorithm) for u in other_spellings(uri))

    def _accepts(self, signature: bytes, string: str, algorithm: str) -> bool:
        for signer in self._signers:
            if hmac.compare_digest(signer.sign(string, algorithm), signature):
                return True
        return False

    def explain(
        self,
        uri: str,
        params: Any,
        signature: str | bytes | None,
        algorithm: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return why `validate` refuses these, in words, and what to do about it.

        *headers* are the request's, if you have them: they may tell what a proxy saw.
        """
        found = Diagnosis(self.tokens, uri, params, signature, algorithm, headers or {})
        return "\n".join(found.why())


def body_hash(uri: str) -> str:
    """Return the ``bodySHA256`` in the query of *uri*, or an empty string."""
    query = uri.partition("#")[0].partition("?")[2]
    return parse_qs(query, separator="&").get("bodySHA256", [""])[0]


# ---------------------------------------------------------------------- 3. Understand


class IncomingMessage(dict[str, str]):
    """A text message: a dict of Twilio's own parameter names and values, all of them.

    Where a name comes twice, the last value counts.  Twilio adds parameters without
    notice, so look them up by name: ``message.get("ProfileName", "")``.

    *url* is the URL as Twilio requested it; *query* a dict of its query (what somebody
    added to the webhook's URL, and by GET the message too); and *session* a dict of JSON
    values, kept for this pair of numbers for up to four hours (see `Sessions`).

    >>> message = IncomingMessage({"From": "+14017122661", "Body": "Hello", "NumMedia": "0"})
    >>> message.from_, message.body, message.media
    ('+14017122661', 'Hello', ())
    """

    def __init__(
        self,
        fields: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        url: str = "",
        query: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        session: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        super().__init__(fields)
        self.url = url
        self.query: dict[str, str] = dict(query) if query else {}
        self.session: dict[str, Any] = dict(session) if session else {}

    @property
    def sid(self) -> str:
        """Twilio's name for the message: ``SM`` or ``MM``, and 32 hex digits."""
        return self.get("MessageSid") or self.get("SmsSid") or ""

    @property
    def from_(self) -> str:
        """Who sent it: ``+14017122661``, ``whatsapp:+14017122661``."""
        return self.get("From", "")

    @property
    def to(self) -> str:
        """Your number that got it."""
        return self.get("To", "")

    @property
    def body(self) -> str:
        """The text; an empty string if there is none."""
        return self.get("Body", "")

    @property
    def media(self) -> tuple[tuple[str, str], ...]:
        """Each picture or other attachment as ``(url, content_type)``, not fetched."""
        found: list[tuple[str, str]] = []
        while (url := self.get(f"MediaUrl{len(found)}")) is not None:
            found.append((url, self.get(f"MediaContentType{len(found)}", "")))
        return tuple(found)


COOKIE_AGE = 4 * 60 * 60  # in seconds: as long as Twilio keeps one


def understand(fields: Fields, url: str, query: Fields) -> IncomingMessage:
    """Return the message that *fields* are; raise `Refused` if nobody sent it."""
    message = IncomingMessage(fields, url=url, query=query)
    if not message.get("From"):
        raise Refused("there is no From")
    if log.isEnabledFor(logging.DEBUG):
        if "MessageStatus" in message:  # a status callback
            told = "Status of the message to %s: %s", message.to, message["MessageStatus"]
        else:
            told = "Incoming message from %s: %s", message.from_, message.body
        log.debug(told[0], *[printable(text) for text in told[1:]])
    return message


class Sessions:
    """What a conversation remembers, in a cookie: no database, any number of machines.

    Twilio keeps cookies for each pair of numbers, for at most four hours, and sends them
    with the pair's next message.  Twilio's signature does not cover them, so a signature
    stands in the cookie:

        1.TIME.base64(JSON).base64(HMAC-SHA256(key, "1.TIME.base64(JSON)" NUL from NUL to))

    with a key derived from the token (without verification, a random one of this
    process).  It is signed, not encrypted: Twilio can read it.
    One that anybody tampered with, that is older than four hours or another pair's, is
    an empty session.
    """

    NAME = "smsreply"
    MAX_COOKIE = 4096  # bytes, name and attributes included: RFC 6265, section 6.1

    def __init__(self, tokens: list[bytes]) -> None:
        keys = [hmac.digest(token, b"smsreply session", "sha256") for token in tokens]
        self._signers = [Signer(key) for key in keys]

    def read(self, message: IncomingMessage, cookies: str | None) -> str:
        """Fill in the session of *message*; return its JSON, to tell whether it changed."""
        if not cookies or len(cookies) > 4 * self.MAX_COOKIE:
            return ""
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.NAME and (text := self._opened(message, value)):
                import json

                try:
                    message.session = json.loads(text)
                except RecursionError:  # as deep as it could be written, with less stack left
                    return ""
                return text
        return ""

    def _opened(self, message: IncomingMessage, value: str) -> str:
        """Return the JSON in a cookie's *value*; an empty string if it is not genuine."""
        content, _, signature = value.rpartition(".")
        given = to_bytes(signature)
        if not any(
            hmac.compare_digest(self._sign(signer, content, message), given)
            for signer in self._signers
        ):
            return ""
        # Only what this program wrote comes as far as here, but a newer version may have.
        version, *rest = content.split(".")
        if version != "1":
            return ""
        written, text = rest
        if time.time() - int(written) > COOKIE_AGE:
            return ""
        return binascii.a2b_base64(text).decode()

    @staticmethod
    def _sign(signer: Signer, content: str, message: IncomingMessage) -> bytes:
        return signer.sign("\0".join((content, message.from_, message.to)), HMAC_SHA256)

    def write(self, message: IncomingMessage, before: str) -> str:
        """Return the ``Set-Cookie`` for the session of *message*; "" if it did not change.

        Raise TypeError for what is not JSON, and ValueError for too much of it.
        """
        if not (message.session or before):
            return ""
        secure = "; Secure" if message.url.startswith("https:") else ""
        if not message.session:
            return f"{self.NAME}=; Path=/; Max-Age=0; HttpOnly{secure}"
        text = json_of(message.session)
        if text == before:
            return ""
        content = (
            f"1.{int(time.time())}.{binascii.b2a_base64(text.encode(), newline=False).decode()}"
        )
        value = f"{content}.{self._sign(self._signers[0], content, message).decode()}"
        cookie = f"{self.NAME}={value}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly{secure}"
        if len(cookie) > self.MAX_COOKIE:
            sizes = {key: len(json_of({key: value})) for key, value in message.session.items()}
            key = max(sizes, key=sizes.__getitem__)
            raise ValueError(
                f"the session takes a cookie of {len(cookie)} bytes, and {self.MAX_COOKIE} is the most:"
                f" keep less in it; session[{key!r}] is its largest part"
            )
        return cookie


def json_of(session: dict[str, Any]) -> str:
    import json

    for key, value in session.items():
        if not isinstance(key, str):
            raise TypeError(
                f"a key of the session has the type {type(key).__name__}: in JSON it is a str"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"session[{key!r}] cannot be kept as JSON: {error}") from None
    return json.dumps(session, separators=(",", ":"))


# --------------------------------------------------------------------------- 4. Write

# In bytes: Twilio refuses a longer document (error 11750).
MAX_TWIML = 64 * 1024
# In UTF-16 units, the safe side: Twilio refuses a longer message (error 14103).
MAX_MESSAGE = 1600

# XML 1.0, section 2.2.  ElementTree writes these as they are, and then the document is
# not XML: error 12100.
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Twilio's names are all ASCII.  ElementTree checks none.
XML_NAME = re.compile(r"(?:xml:)?[A-Za-z_][A-Za-z0-9_.-]*")

XML_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'


class TwiMLException(Exception):
    """TwiML that cannot be written."""


class RawTwiML(str):
    """TwiML as a document, to be sent as it is; a plain str is text.

    ``str(response)`` makes one.  By hand: ``RawTwiML("<Response>…</Response>")``; then
    escaping is up to you.
    """

    __slots__ = ()


def xml_text(text: str) -> str:
    """Return *text*, as a plain str, without the characters that XML cannot carry."""
    text = text if type(text) is str else str.__str__(text)  # lest a subclass say otherwise
    return text if text.isprintable() else NOT_XML.sub("", text)  # printable is always XML


def xml_name(name: str) -> str:
    if not isinstance(name, str) or not XML_NAME.fullmatch(name):
        raise TwiMLException(f"{printable(str(name), 80)!r} is not a name in TwiML")
    return name


def attribute_name(keyword: str) -> str:
    """Return the attribute that Twilio's helper libraries make of a keyword argument.

    >>> [attribute_name(keyword) for keyword in ("to", "from_", "status_callback")]
    ['to', 'from', 'statusCallback']
    """
    keyword = {"xml_lang": "xml:lang", "interpret_as": "interpret-as"}.get(keyword, keyword)
    if "_" not in keyword:
        return keyword
    camel = "".join([word.title() for word in keyword.split("_")])
    return camel[:1].lower() + camel[1:]


class TwiML:
    """An element: a name, attributes, a text, and in order what is nested in it.

    The interface, and every byte written, are those of Twilio's helper library, but where
    that loses data or writes what is not XML.
    """

    name = "Response"

    def __init__(self, **attributes: Any) -> None:
        self._value: Any = None
        self.verbs: list[TwiML | str] = []
        self.attrs: dict[str, Any] = {
            xml_name(attribute_name(k)): v for k, v in attributes.items() if v is not None
        }

    @property
    def value(self) -> Any:
        """The text: a str, a dict (written as JSON), or None."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None and not isinstance(value, (str, dict)):
            raise TwiMLException(
                f"the text of <{self.name}> is a str, and not a {type(value).__name__}"
            )
        self._value = value

    def __str__(self) -> str:
        return self.to_xml()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let an exception through."""

    def append(self, verb: TwiML | str) -> Self:
        """Append *verb*, an element or a text; return this element."""
        self.nest(verb)
        return self

    def nest(self, verb: Any) -> Any:
        """Append *verb*, an element or a text; return *verb*."""
        if not isinstance(verb, (TwiML, str)):
            raise TwiMLException(
                f"only TwiML and str can be put into <{self.name}>, and not a {type(verb).__name__}"
            )
        self.verbs.append(verb)
        return verb

    def comment(self, text: str) -> Self:
        """Append a comment, which Twilio ignores; return this element."""
        self.nest(Comment(text))
        return self

    def add_child(self, name: str, value: Any = None, **attributes: Any) -> TwiML:
        """Append an element of any *name*; return the new element."""
        child = TwiML(**attributes)
        child.name = xml_name(name)
        child.value = value
        self.nest(child)
        return child

    def xml(self) -> ElementTree.Element:
        """Return an ElementTree element."""
        from xml.etree import ElementTree  # a reply that is one text needs none

        return self._element(ElementTree)

    def _element(self, tree: Any) -> ElementTree.Element:
        element: ElementTree.Element = tree.Element(xml_name(self.name))
        for name, value in sorted(self.attrs.items()):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            element.set(xml_name(name), xml_text(text))
        element.text = self._text()
        last = None
        for verb in self.verbs:
            if isinstance(verb, TwiML):
                last = verb._element(tree)
                element.append(last)
            elif last is None:
                element.text = (element.text or "") + xml_text(verb)
            else:
                last.tail = (last.tail or "") + xml_text(verb)
        return element

    def _text(self) -> str | None:
        if isinstance(self.value, dict) and self.value:
            import json

            return xml_text(json.dumps(self.value))
        return xml_text(self.value) if self.value else None

    def to_xml(self, xml_declaration: bool = True) -> RawTwiML:
        """Return the document; without *xml_declaration*, the element alone."""
        from xml.etree import ElementTree

        xml = ElementTree.tostring(self.xml(), encoding="unicode")
        return RawTwiML(XML_DECLARATION + xml if xml_declaration else xml)


class Comment(TwiML):
    """``<!-- text -->``, in which a ``-`` cannot stand beside another, nor at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        if not isinstance(text, str):
            raise TwiMLException(f"a comment is a str, and not a {type(text).__name__}")
        self.value = text

    def _element(self, tree: Any) -> ElementTree.Element:
        # ElementTree writes it as it is.
        text = re.sub("-(?=-|$)", "- ", xml_text(self.value or ""))
        comment: ElementTree.Element = tree.Comment(text)
        return comment


class MessagingResponse(TwiML):
    """``<Response>``: what is done with a message, verb by verb.

    >>> response = MessagingResponse()
    >>> response.message("Fish & chips").media("https://abc.example/fish.jpg").name
    'Media'
    >>> print(response.to_xml(xml_declaration=False))
    <Response><Message>Fish &amp; chips<Media>https://abc.example/fish.jpg</Media></Message></Response>
    """

    def message(
        self,
        body: str | None = None,
        to: str | None = None,
        from_: str | None = None,
        action: str | None = None,
        method: str | None = None,
        status_callback: str | None = None,
        **attributes: Any,
    ) -> Message:
        """Add a `Message`, and return it.

        *to* is the sender by default, *from_* the number that got the message.  Twilio
        tells *action* (a URL, requested by *method*) what became of the message, and
        does what that answers, instead of what follows this verb;
        *status_callback* is its older name.
        """
        attributes.update(to=to, from_=from_, action=action, method=method)
        message = Message(body, status_callback=status_callback, **attributes)
        self.nest(message)
        return message

    def redirect(self, url: str, method: str | None = None, **attributes: Any) -> Redirect:
        """Add a `Redirect`, and return it."""
        redirect = Redirect(url, method=method, **attributes)
        self.nest(redirect)
        return redirect


class Message(TwiML):
    """``<Message>``: a text, or `Body` and up to ten `Media`, for one person."""

    name = "Message"

    def __init__(self, body: str | None = None, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.value = body

    def body(self, message: str, **attributes: Any) -> Body:
        """Add a `Body`, and return it."""
        body = Body(message, **attributes)
        self.nest(body)
        return body

    def media(self, url: str, **attributes: Any) -> Media:
        """Add a `Media`, and return it."""
        media = Media(url, **attributes)
        self.nest(media)
        return media


class Body(TwiML):
    """``<Body>``: a text in a `Message`; several are one text."""

    name = "Body"

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.value = message


class Media(TwiML):
    """``<Media>``: the URL of a picture, say, that Twilio fetches and sends."""

    name = "Media"

    def __init__(self, url: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.value = url


class Redirect(TwiML):
    """``<Redirect>``: ask *url* instead; what follows it is not reached."""

    name = "Redirect"

    def __init__(self, url: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.value = url


# The commonest answers, to the byte as ElementTree writes them: nothing, and one text.
EMPTY = f"{XML_DECLARATION}<Response />".encode()
BEFORE_TEXT, AFTER_TEXT = f"{XML_DECLARATION}<Response><Message>", "</Message></Response>"


def twiml(reply: Reply) -> bytes:
    """Return the document that Twilio gets for *reply*, what a handler returned.

    >>> twiml("Fish & chips").decode()
    '<?xml version="1.0" encoding="UTF-8"?><Response><Message>Fish &amp; chips</Message></Response>'
    """
    if isinstance(reply, RawTwiML):
        return reply.encode()
    if isinstance(reply, str):
        texts = split_text(xml_text(reply))
        return one_message(texts[0]) if len(texts) == 1 else respond(texts)
    if reply is None:
        return EMPTY
    if isinstance(reply, bytes):
        return bytes(reply)  # PEP 3333: none of its subclasses
    if isinstance(reply, MessagingResponse):
        return str(reply).encode()
    return respond(reply if isinstance(reply, (list, tuple)) else [reply])


def one_message(text: str) -> bytes:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{BEFORE_TEXT}{text}{AFTER_TEXT}".encode()


def respond(replies: Iterable[Any]) -> bytes:
    response = MessagingResponse()
    for reply in replies:
        if isinstance(reply, (Message, Redirect)):
            response.nest(reply)
        elif isinstance(reply, str) and not isinstance(reply, RawTwiML):
            for text in split_text(xml_text(reply)):
                response.message(text)
        elif reply is not None:
            raise TypeError(
                f"a handler returned a {type(reply).__name__}, which cannot be a reply: None, a str,"
                " a MessagingResponse, a Message, a Redirect, a list or tuple of None, str, Message and"
                " Redirect, RawTwiML or bytes can (what media() and body() return is a part of one)"
            )
    return str(response).encode()


def split_text(text: str) -> list[str]:
    """Return *text* in pieces of at most `MAX_MESSAGE` units, cut after white space.

    Together they are the text; only a piece that is all white space is left out, as it
    cannot be sent.

    >>> [len(piece) for piece in split_text("word " * 500)]
    [1600, 900]
    """
    if len(text) > MAX_TWIML:
        raise ValueError(f"the text has {len(text)} characters, and {MAX_TWIML} bytes are the most")
    if len(text) <= MAX_MESSAGE // 2:
        return [text] if text.strip() else []
    pieces = []
    while utf16_units(text) > MAX_MESSAGE:
        # An emoji of two units that the end falls into goes to the next piece.
        most = text.encode("utf-16-le")[: 2 * MAX_MESSAGE].decode("utf-16-le", "ignore")
        word = re.split(r"\s", most)[-1]  # which may go on after the cut
        cut = len(most) - len(word) or len(most)  # a word that fills it all is cut itself
        pieces.append(text[:cut])
        text = text[cut:]
    pieces.append(text)
    return [piece for piece in pieces if piece.strip()]


def utf16_units(text: str) -> int:
    """Return the length of *text* in UTF-16 units: an emoji, say, has two of them."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


# -------------------------------------------------------------------------- 5. Answer

OK = "200 OK"
# Signs the sessions of an App that verifies nothing, or has not had a request yet.
PROCESS_KEY = os.urandom(32)
# What is appended to the query of the URL that Twilio is told to come back to.
COME_BACK = re.compile(r"[?&]smsreply=([0-9a-f]{64})\.([1-9])\Z")


class Answer:
    """What goes back: with 200 it is TwiML, with any other status one line of text."""

    __slots__ = ("body", "extra", "status")

    def __init__(
        self, body: bytes, status: str = OK, extra: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.body = body
        self.status = status
        self.extra = extra

    def headers(self) -> list[tuple[str, str]]:
        # Twilio texts a 200 in text/plain to the sender, and no other status.
        kind = "text/xml" if self.status == OK else "text/plain"
        size = str(len(self.body))
        return [("Content-Type", kind + "; charset=utf-8"), ("Content-Length", size), *self.extra]


class App:
    """A WSGI callable that answers text messages with what *reply* returns for them.

    *reply* is a function from an `IncomingMessage` to a reply (see `twiml`); it answers at
    every path below the host's mount.  Or a dict from paths, below the mount point, to such
    functions; other paths get 404.

    *auth_token* is Twilio's, or several of them, all accepted; by default the
    environment variable ``TWILIO_AUTH_TOKEN`` at the first request.  Without one, no
    message is answered.  ``verify=False`` answers what anybody sends.

    *public_url* is the scheme, the host and, if a proxy strips one, the path prefix of
    the URL that Twilio was given: ``"https://abc.example"``.

    With a *cache* (see `Memory`) each message is handled once, and a handler that takes
    longer than *patience*, in seconds, is waited for in rounds.
    """

    def __init__(
        self,
        reply: Handler | Mapping[str, Handler],
        *,
        auth_token: str | Iterable[str] | None = None,
        verify: bool = True,
        public_url: str | None = None,
        cache: Cache | None = None,
        patience: float = 10.0,
    ) -> None:
        self._find = finder(reply)
        self._auth_token = auth_token if auth_token is None else to_tokens(auth_token)
        self.verifies = verify is not False  # only that itself: None or "" may be an accident
        self.public_url = checked_public_url(public_url) if public_url else None
        self._validator: RequestValidator | None = None
        self._sessions = Sessions([PROCESS_KEY])
        self._memory = None if cache is None else Memory(cache, patience)
        self._seldom = Seldom()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request, as PEP 3333 has it."""
        fields: Fields = {}
        genuine = False
        try:
            handler = self._find(environ)
            fields, query, target = read(environ)  # 1. Read
            url = request_url(environ, target, self.public_url)
            signed_fields = self._verify(environ, url, fields)  # 2. Verify
            genuine = self.verifies
            message = understand(fields, url, query)  # 3. Understand
            session_json = self._sessions.read(message, environ.get("HTTP_COOKIE"))
            answer = self._answer(handler, message, session_json, signed_fields)  # 4. Write
            if log.isEnabledFor(logging.DEBUG):
                log_answer(message, answer)
        except Refused as refused:
            answer = self._refuse(environ, refused, fields, genuine)
        start_response(answer.status, answer.headers())  # 5. Answer
        return [answer.body]

    def _verify(self, environ: WSGIEnvironment, url: str, fields: Fields) -> str:
        """Return the fields as Twilio signs them; raise `NotSigned` if the signature is not its.

        Where nothing is verified or remembered, an empty string will do.
        """
        if not self.verifies and self._memory is None:
            return ""
        # Of a GET the fields are in the URL already.
        signed_fields = signed_string("", fields if environ["REQUEST_METHOD"] == "POST" else ())
        if self.verifies:
            validator = self._validator or self._first_request()
            signature = environ.get("HTTP_X_TWILIO_SIGNATURE", "")
            settings = environ.get("HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS")
            algorithm = signature_algorithm(settings) if settings else None
            if not validator.matches(url, signed_fields, signature, algorithm):
                raise NotSigned(lambda: why_not_signed(validator, environ, url, fields))
        return signed_fields

    def _first_request(self) -> RequestValidator:
        tokens = self.tokens()
        if not tokens:
            raise NoToken("this server is not set up yet")
        self._sessions = Sessions(tokens)
        self._validator = RequestValidator(tokens)
        return self._validator

    def tokens(self) -> list[bytes]:
        """Return the auth tokens.  Without one, nothing is answered.

        Those of the first request that finds any are used from then on.
        """
        if self._auth_token is None:
            return to_tokens(os.environ.get("TWILIO_AUTH_TOKEN"))
        return self._auth_token

    def _answer(
        self, handler: Handler, message: IncomingMessage, session_json: str, signed_fields: str
    ) -> Answer:
        """Return the answer to *message*: from the cache, later, or from the handler now."""
        if self._memory is None or not message.get("MessageSid"):
            return self._handle(handler, message, session_json)
        came_back = COME_BACK.search(message.url)
        if came_back:
            key, round_ = came_back[1], int(came_back[2])
            message.url = message.url[: came_back.start()]
            message.query.pop("smsreply", None)
            message.pop("smsreply", None)
        else:
            key, round_ = message_key(message.url, signed_fields), 0
        context = contextvars.copy_context()  # the handler runs in another thread
        answer = self._memory.answer(
            key, round_, lambda: context.run(self._handle, handler, message, session_json)
        )
        return answer or come_back(message, key, round_ + 1)

    def _handle(self, handler: Handler, message: IncomingMessage, session_json: str) -> Answer:
        """Run the handler.  Whatever it does, but for a Ctrl-C, there is an answer."""
        try:
            body = twiml(handler(message))
            if len(body) > MAX_TWIML:
                raise ValueError(f"the TwiML is over {MAX_TWIML} bytes, and Twilio would refuse it")
            cookie = self._sessions.write(message, session_json)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, CancelledError, a Timeout of gevent's
            log.error(
                "message %s is not answered: its handler failed\n%s",
                printable(message.sid, 64) or "without a MessageSid",
                traceback_text(error),
            )
            return FAILED
        return Answer(body, OK, (("Set-Cookie", cookie),) if cookie else ())

    def _refuse(
        self, environ: WSGIEnvironment, refused: Refused, fields: Fields, genuine: bool
    ) -> Answer:
        """Log why there is no TwiML, and return what the sender gets instead.

        Each message that was *genuine*, that is signed, is in the log.  What anybody can
        send is there once a second.
        """
        kind = refused.status
        if isinstance(refused, NotSigned) and "HTTP_X_TWILIO_SIGNATURE" in environ:
            kind += ", signed"  # apart: a flood without signatures must not hide Twilio's own
        more = "" if genuine else self._seldom.admits(kind)
        if more is not None:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            request = f"{environ['REQUEST_METHOD']} {path or '/'}"
            sid = dict(fields).get("MessageSid")
            log.warning(
                "%s for %s%s: %s%s",
                refused.status,
                printable(request, 200),
                f", message {printable(sid, 64)}" if sid else "",
                refused.reason(),
                more,
            )
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f"{refused}\n".encode()
        return Answer(body, refused.status, refused.headers)


FAILED = Answer(b"the message could not be answered\n", "500 Internal Server Error")


def finder(reply: Handler | Mapping[str, Handler]) -> Callable[[WSGIEnvironment], Handler]:
    """Return a function from an environ to the handler of its path."""
    if callable(reply):
        return lambda environ: reply
    if not (hasattr(reply, "items") and all(callable(handler) for handler in reply.values())):
        raise TypeError("reply is a function, or a dict from paths to functions")
    if not reply or any(path and not path.startswith("/") for path in reply):
        raise ValueError(
            f"reply has the paths {list(reply)}: each begins with a slash, and one is needed"
        )
    # PEP 3333: in PATH_INFO each character is a byte of the path.
    handlers = {(path or "/").encode().decode("latin-1"): f for path, f in reply.items()}

    def find(environ: WSGIEnvironment) -> Handler:
        try:
            return handlers[environ.get("PATH_INFO") or "/"]
        except KeyError:
            raise NotFound("no messages are answered at this path", reply) from None

    return find


def checked_public_url(public_url: str) -> str:
    """Return *public_url* without a slash at its end; raise ValueError if it is not one.

    >>> checked_public_url("https://abc.example/")
    'https://abc.example'
    """
    parts = URL_PARTS.fullmatch(public_url)
    if not parts or not parts[3] or re.search(r"[?#\s]", public_url):
        raise ValueError(f"public_url={public_url!r} is not like https://abc.example")
    return public_url.rstrip("/")


def from_path_on(url: str) -> str:
    return url[url.index("/", url.index("://") + 3) :]


def message_key(url: str, signed_fields: str) -> str:
    """Return what two deliveries of a message have in common, and no two messages have.

    Of the URL only the path and the query: two of our hosts may get the same message.
    """
    return hashlib.sha256(to_bytes(from_path_on(url) + signed_fields)).hexdigest()


def log_answer(message: IncomingMessage, answer: Answer) -> None:
    """Log what each delivery is answered with, be it from the cache or a redirect."""
    shown = answer.body.decode("utf-8", "replace").replace(XML_DECLARATION, "").strip()
    log.debug("Answered %s with: %s", printable(message.from_), printable(shown))


def come_back(message: IncomingMessage, key: str, round_: int) -> Answer:
    """Return the answer that has Twilio ask again for the one to *message*."""
    if round_ > Memory.ROUNDS:
        log.error(
            "message %s is not answered: Twilio came back %d times, and its handler is not done",
            printable(message.sid, 64),
            Memory.ROUNDS,
        )
        return FAILED
    if POOL.ends:
        log.warning(
            "message %s: this process is ending, and its handler is not done: Twilio is told to"
            " come back, which will reach another process",
            printable(message.sid, 64),
        )
    path = from_path_on(message.url)
    # A reference that begins with two slashes would name a host.
    path = message.url if path.startswith("//") else path
    again = f"{path}{'&' if '?' in path else '?'}smsreply={key}.{round_}"
    return Answer(twiml(Redirect(again, method="POST")))


# ------------------------------------------------------------------------ 6. Remember


FORKED = threading.Lock()  # held while the first message in a fork makes its `Memory` anew


class Memory:
    """Answers each message once, and lets its handler take longer than Twilio waits.

    The handler of a message runs in a thread of its own, and all deliveries of it wait
    for that one run: in this process by its `Run`, in others by three entries of the
    cache, named by a letter and the message's key:

        aKEY    the answer, kept for an hour.
        eKEY    how a run ended that is not to be repeated: it failed, or redirects.  A
                delivery that waited gets it; for a new one, the handler runs again.
        cKEY    the claim: some process handles the message now.  It is renewed, so that
                it ends soon after its process does.

    A cache that fails is as good as none: the message is answered all the same.
    """

    ROUNDS = 6
    LONGEST = 14  # seconds of patience once the process is ending: nobody can come back to it
    ANSWER_AGE = 3600  # in seconds, as are the others
    END_AGE = 60
    CLAIM_AGE = 15
    RENEWAL = 5
    POLL = 0.1
    SLOW = 0.5  # a call that takes longer to fail has the cache left alone
    BACK_OFF = 5  # for so long
    HANGS = 2  # and one that has not returned for so long, until it returns

    def __init__(self, cache: Cache, patience: float) -> None:
        if not 0 <= patience < 15:
            raise ValueError(f"patience={patience!r}: Twilio waits for 15 s and no longer")
        self._cache = cache
        self._patience = patience
        self._running: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._renewing = False
        self._resumes = 0.0
        self._asked: dict[int, float] = {}  # since when, by the thread that waits; oldest first
        self._seldom = Seldom()
        self._process = os.getpid()  # last: whoever sees it sees all of the above

    def answer(self, key: str, round_: int, handle: Callable[[], Answer]) -> Answer | None:
        """Return the answer to the message *key*, or None if it takes longer than patience."""
        if self._process != os.getpid():  # a fork, which has none of its parent's threads
            with FORKED:
                if self._process != os.getpid():
                    self.__init__(self._cache, self._patience)  # type: ignore[misc]
        deadline = time.monotonic() + self._patience
        latest = max(deadline, time.monotonic() + self.LONGEST)
        waited = round_ > 0
        while True:
            mine = Run(handle)
            # Atomic: of all the deliveries that are here at once, one leads.
            run = self._running.setdefault(key, mine)
            if run is mine:
                self._lead(key, run, waited, deadline)
            if run.wait(deadline) and run.answer is not None:
                return run.answer
            # Not over, or given up by a delivery that led it and had no time left.
            if time.monotonic() >= deadline:
                if not POOL.ends or deadline == latest:
                    return None
                deadline = latest
            waited = True

    def _lead(self, key: str, run: Run, waited: bool, deadline: float) -> None:
        """Have *run* end: with what the cache has, by the handler, or by another process.

        A delivery that *waited* gets what the other's run ended with, be it a failure.
        """
        answer = None
        try:
            while True:
                if not waited:
                    self._call("delete", "e" + key)  # an earlier run's
                # In this order: an answer that another process puts there before it gives
                # up its claim is seen by whoever gets the claim after it.
                claimed = self._claim(key)
                answer = self._kept(key, waited)
                if claimed and answer is None:
                    self._start(key, run)  # which ends it
                    return
                if claimed:
                    self._call("delete", "c" + key)
                if answer is not None or time.monotonic() >= deadline:
                    break
                waited = True
                time.sleep(self.POLL)
        except BaseException:  # or whoever waits for this run would wait for ever
            self._end(key, run, None)
            raise
        self._end(key, run, answer)

    def _claim(self, key: str) -> bool:
        """Return whether it is this process that is to handle the message."""
        for _ in range(3):
            if self._call("add", "c" + key, self.CLAIM_AGE, 1):
                return True
            if self._call("get", "c" + key) is not None:
                return False
            time.sleep(self.POLL)  # it was given up just now, or a replica lags behind
        # Some clients (pymemcache's ignore_exc) hide that their server is gone.
        self._complain("it refuses a claim, and has none")
        return True

    def _start(self, key: str, run: Run) -> None:
        run.claimed = True
        try:
            if not self._renewing:
                self._begin_to_renew()
            POOL.submit(lambda: self._run(key, run))
        except Busy:  # another process may have room
            self._give_up(key, run)
            raise

    def _run(self, key: str, run: Run) -> None:
        """Run the handler, in a thread of the pool, and tell everybody."""
        answer = FAILED
        try:
            answer = run.handle()
        finally:
            if answer.status == OK and b"<Redirect" not in answer.body:
                # An answer is there already if this process stood still for longer than
                # CLAIM_AGE, and another one took over: then all get that one.
                if not self._call("add", "a" + key, self.ANSWER_AGE, written("a" + key, answer)):
                    answer = self._get("a" + key) or answer
            else:
                self._call("set", "e" + key, self.END_AGE, written("e" + key, answer))
            self._give_up(key, run)
            self._end(key, run, answer)

    def _give_up(self, key: str, run: Run) -> None:
        """End the claim, and see to it that it is not renewed at the same moment."""
        held = run.claim.acquire(timeout=self.HANGS)  # not longer, for a cache that hangs
        run.claimed = False
        if held:
            run.claim.release()
        self._call("delete", "c" + key)

    def _end(self, key: str, run: Run, answer: Answer | None) -> None:
        del self._running[key]
        run.end(answer)

    def _begin_to_renew(self) -> None:
        with self._lock:
            if not self._renewing:
                start_thread(self._renew)
                self._renewing = True

    def _renew(self) -> None:
        """Renew the claims on what runs, for as long as anything does."""
        while True:
            time.sleep(self.RENEWAL)
            for key, run in self._running.copy().items():
                with run.claim:  # nothing is renewed that is just given up
                    if run.claimed:
                        self._call("set", "c" + key, self.CLAIM_AGE, 1)
            with self._lock:
                # In this order, as `_start` looks without the lock, for which all messages
                # would queue up: whoever still sees True has made a claim that is seen here.
                self._renewing = False
                self._renewing = self._claims_any()
                if not self._renewing:
                    return

    def _claims_any(self) -> bool:
        return any(run.claimed for run in self._running.copy().values())

    def _kept(self, key: str, waited: bool) -> Answer | None:
        return self._get("a" + key) or (self._get("e" + key) if waited else None)

    def _get(self, key: str) -> Answer | None:
        kept = self._call("get", key)
        if kept is None:
            return None
        try:
            of, status, extra, body = kept
            # Some client libraries mix answers up when a connection fails.
            if of != key or not isinstance(status, str):
                raise ValueError(of)
            return Answer(body.encode("latin-1"), status, tuple([(n, v) for n, v in extra]))
        except (TypeError, ValueError, AttributeError):
            self._complain(f"it has {printable(repr(kept), 80)} where an answer was put")
            return None

    def _call(self, method: str, key: str, timeout: int = 0, value: Any = None) -> Any:
        """Call the cache; if that fails, return what one that is empty would return.

        That is True for ``add``: the message is claimed, and its handler runs.
        """
        asked = time.monotonic()
        oldest = [*self._asked.values(), asked][0]  # of a copy: other threads change the dict
        longest = asked - oldest
        if longest > self.HANGS:
            self._complain(f"a call has not returned for {longest:.0f} s: give it a timeout")
            return method == "add" or None
        if asked < self._resumes:
            return method == "add" or None
        thread = threading.get_ident()
        self._asked[thread] = asked
        try:
            if method in ("set", "add"):
                return getattr(self._cache, method)(key, value, timeout)
            return getattr(self._cache, method)(key)
        except (KeyboardInterrupt, SystemExit):  # by a signal, say, which is to end the process
            raise
        except BaseException as error:  # a Timeout of gevent's, say
            if time.monotonic() - asked > self.SLOW:
                # A client that tries again and again would use up Twilio's 15 s.
                self._resumes = time.monotonic() + self.BACK_OFF
            self._complain(f"{method} raised {type(error).__name__}: {printable(str(error), 200)}")
            return method == "add" or None
        finally:
            del self._asked[thread]

    def _complain(self, what: str) -> None:
        more = self._seldom.admits("cache")
        if more is not None:
            log.error("the cache fails, and messages are answered without: %s%s", what, more)


def written(key: str, answer: Answer) -> list[Any]:
    """Return *answer* in plain values, as any cache takes them, and whose it is."""
    extra = [list(pair) for pair in answer.extra]
    return [key, answer.status, extra, answer.body.decode("latin-1")]


class Run:
    """One run of a handler, and what it ends with."""

    __slots__ = ("_over", "answer", "claim", "claimed", "handle")

    def __init__(self, handle: Callable[[], Answer]) -> None:
        self.handle = handle
        self.answer: Answer | None = None
        self.claimed = False
        self.claim = threading.Lock()  # held by who renews the claim, or ends it
        # Held until it is over.  Half of what a threading.Event costs.
        self._over = threading.Lock()
        self._over.acquire()

    def wait(self, deadline: float) -> bool:
        """Return whether it is over, which it may be until *deadline*."""
        over = self._over.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if over:
            self._over.release()  # for the next one who waits
        return over

    def end(self, answer: Answer | None) -> None:
        self.answer = answer
        self._over.release()


def start_thread(work: Callable[[], None]) -> None:
    try:
        threading.Thread(target=work, name="smsreply", daemon=True).start()
    except RuntimeError as error:  # the system has no more of them
        raise Busy("no thread can be started") from error


class Pool:
    """At most *size* threads, which run what they are given, each for ever."""

    WAIT = 0.2  # seconds for one that rests: in a burst of quick messages, one does soon

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = 0
        self._waiting = 0
        self.ends = False  # set when the process is told to
        self._rested = threading.Condition(threading.Lock())
        # One for each thread that rests; the last one works next.  From one for all of
        # them, each message would wake several.
        self._idle: list[Inbox] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread run *work*; raise `Busy` if all of them are busy, and stay so."""
        # Nearly always without the lock, for which all messages would queue up.
        inbox = self._take() or self._one_more()
        inbox.put(work)

    def _take(self) -> Inbox | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _one_more(self) -> Inbox:
        """Start a thread, or else wait for one that rests."""
        with self._rested:
            if self._threads < self._size:
                inbox: Inbox = queue.SimpleQueue()
                start_thread(lambda: self._serve(inbox))
                self._threads += 1
                return inbox
            self._waiting += 1
            try:
                # Twice: on a busy machine, the first time may pass while no thread runs.
                rested = self._rested.wait_for(self._take, self.WAIT / 2)
                rested = rested or self._rested.wait_for(self._take, self.WAIT / 2)
            finally:
                self._waiting -= 1
        if not rested:
            raise Busy(f"{self._size} messages are being handled, and that is the most")
        return rested

    def _serve(self, inbox: Inbox) -> None:
        while True:
            work = inbox.get()
            # Whatever is raised, even by the logging itself, must not cost the pool a thread.
            with contextlib.suppress(BaseException):
                try:
                    work()
                except BaseException as error:  # what a handler raises to end its thread, say
                    log.error("what would end a thread was raised:\n%s", traceback_text(error))
            del work  # and with it the message, until the next one comes
            self._idle.append(inbox)
            if self._waiting:  # read after that: who waits looks once more when it is counted
                with self._rested:
                    self._rested.notify()

    def drain(self, seconds: float) -> bool:
        """Wait until nothing runs, *seconds* at most; return whether that came true."""
        deadline = time.monotonic() + seconds
        while len(self._idle) < self._threads and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(self._idle) == self._threads


POOL = Pool(32)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: POOL.__init__(32))  # type: ignore[misc]


class MemoryCache:
    """A cache for one process: at most *entries* values, for at most *age* seconds each.

    The oldest ones make room.  Time is `time.monotonic`, which cannot be put back.
    """

    def __init__(self, entries: int = 4096, age: float = 3600) -> None:
        self._entries = entries
        self._age = age
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Any]] = {}  # in the order of their coming

    def get(self, key: str, default: Any = None) -> Any:
        kept = self._kept.get(key)
        return kept[1] if kept and kept[0] > time.monotonic() else default

    def set(self, key: str, value: Any, timeout: float | None = None) -> bool:
        with self._lock:
            self._put(key, value, timeout)
        return True

    def add(self, key: str, value: Any, timeout: float | None = None) -> bool:
        """Set *key* unless it is there; return whether it was set.  This is atomic."""
        with self._lock:
            absent = self.get(key, self) is self
            if absent:
                self._put(key, value, timeout)
        return absent

    def delete(self, key: str) -> bool:
        with self._lock:
            return self._kept.pop(key, None) is not None

    def _put(self, key: str, value: Any, timeout: float | None) -> None:
        self._kept.pop(key, None)  # or it would keep its place among the oldest
        now = time.monotonic()
        while self._kept:
            oldest = next(iter(self._kept))
            if len(self._kept) < self._entries and self._kept[oldest][0] > now:
                break
            del self._kept[oldest]
        age = self._age if timeout is None else min(timeout, self._age)
        self._kept[key] = (now + age, value)


# ------------------------------------------------------------------------- 7. Explain

# One explanation tries at most MAX_TRIES HMACs, of at most MAX_TRIED characters in all.
# That comes to some 10 ms, and `Seldom` lets one a second begin.
MAX_TRIES = 1200
MAX_TRIED = 4 * 1024 * 1024
MAX_HEADER = 1000  # in characters
# In characters and in fields, more than Twilio's longest message with ten pictures has.
# For a longer request, only variants of the URL are tried.
MAX_CHANGED = 6000
MAX_CHANGED_FIELDS = 60

# What gateways are used to strip from the front of a path.
STAGES = ("/prod", "/dev", "/stage", "/staging", "/test", "/default", "/api", "/v1", "/twilio")
# Twilio sends these of a number whose place it knows, and blank ones too.
PLACES = [side + part for side in ("From", "To") for part in ("City", "State", "Zip", "Country")]
PADDED = ("Body", "ProfileName", "ButtonText")  # what people type, and so end in white space
SLASH = "the URL in Twilio's console {}: make them alike"
RAW = "the {} is not as Twilio sent it, but {}: use the raw one (REQUEST_URI, RAW_URI)"
TWICE = "something decoded the form twice"


def why_not_signed(
    validator: RequestValidator, environ: WSGIEnvironment, url: str, fields: Fields
) -> str:
    """Return why a request is refused, for the log: with nothing that names a person."""
    post = environ["REQUEST_METHOD"] == "POST"
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and isinstance(value, str)
    }
    found = Diagnosis(validator.tokens, url, fields if post else None, None, None, headers)
    why, signed = found.why()
    log.debug("%s", printable(signed, 20_000))
    return why


class Diagnosis:
    """A signature that does not match, and the search for what it was made of.

    What is signed has three parts: the base, which is what *public_url* is for; the path;
    and the content, which is the query and then the fields.  For each there is a
    list of what it may have been, with advice, and what came is first.  One part is
    exchanged at a time, then two.
    """

    def __init__(
        self,
        tokens: list[bytes],
        uri: str,
        params: Any,
        signature: str | bytes | None,
        algorithm: str | None,
        headers: Mapping[str, str],
    ) -> None:
        named = {name.lower(): value for name, value in headers.items()}
        settings = named.get("x-twilio-webhooks-signature-settings")
        self._algorithm = (algorithm or signature_algorithm(settings)).upper()
        self._signature = to_bytes(signature or named.get("x-twilio-signature") or b"")
        # A longer one says nothing of a URL, and would only cost time.
        self._headers = {name: value for name, value in named.items() if len(value) <= MAX_HEADER}
        self._tokens = tokens
        self._signers = [Signer(token) for token in tokens]
        uri = sendable(uri)  # a lone surrogate was never signed
        self._uri, _, self._fragment = uri.partition("#")
        self._parts = URL_PARTS.fullmatch(self._uri)
        self._body = to_bytes(params) if isinstance(params, (str, bytes, bytearray)) else None
        hashed = self._body is not None and body_hash(uri)
        pairs = [] if hashed else to_pairs(params)
        self._pairs = [(sendable(name), sendable(value)) for name, value in pairs]
        self._fields = signed_string("", self._pairs)

    def why(self) -> tuple[str, str]:
        """Return the reason and its cure; and the string that was to be signed.

        Only the latter may name a person.
        """
        why = self._unusable() or self._match() or self._flaw() or self._near_miss()
        url = re.sub("//[^/?#]*@", "//…@", self._uri)
        signed = f"the signature is checked against: {url + self._fields!r}"
        return why or self._no_idea(), signed

    def _unusable(self) -> str:
        """Return what is missing, without which nothing can be compared."""
        if not self._signature:
            return (
                "the header X-Twilio-Signature is missing or empty: Twilio did not send this, or"
                " something on the way drops the header"
            )
        if self._algorithm not in HASHES:
            return f"{printable(self._algorithm, 40)!r} is no algorithm that is known here"
        if not self._parts:
            return f"{self._shown(self._uri)!r} is not a whole URL, like https://abc.example/sms"
        return ""

    def _made_by(self, tokens: list[bytes], signature: bytes, algorithm: str) -> bool:
        """Return whether one of *tokens* signed what came, in any spelling of the URL."""
        return bool(tokens) and RequestValidator(tokens).matches(
            self._uri, self._fields, signature, algorithm
        )

    def _match(self) -> str:
        """Return what is to be said where the signature matches; a body's hash may not."""
        if not self._made_by(self._tokens, self._signature, self._algorithm):
            return ""
        claimed = body_hash(self._uri)
        if self._body is None or not claimed:
            return "nothing is wrong: the signature matches"
        computed = hashlib.sha256(self._body).hexdigest()
        if claimed == computed:
            return "nothing is wrong: the signature and the body's hash match"
        return (
            f"the URL is signed, but its bodySHA256 is {printable(claimed, 80)}, and the body's is"
            f" {computed}: pass the body's very bytes, before anything decodes or formats them"
        )

    def _flaw(self) -> str:
        """Return what is wrong with the algorithm, the signature itself or the token."""
        other = HMAC_SHA1 if self._algorithm == HMAC_SHA256 else HMAC_SHA256
        if self._made_by(self._tokens, self._signature, other):
            return (
                f"signed with {other} and checked with {self._algorithm}: pass on the header"
                " X-Twilio-Webhooks-Signature-Settings, which names the algorithm"
            )
        bare = self._signature.strip(b" \t\r\n\"'")
        if bare != self._signature and self._made_by(self._tokens, bare, self._algorithm):
            return "the signature has white space or quotes around it that Twilio did not send"
        size = len(self._signers[0].sign("", self._algorithm))
        if len(bare) != size:
            return (
                f"the signature has {len(bare)} characters, and one made with"
                f" {self._algorithm} has {size}: it is not Twilio's, or it was changed on the way"
            )
        for characters, name in ((b" \t\r\n", "white space"), (b" \t\r\n\"'", "quotes")):
            tokens = to_tokens([token.strip(characters) for token in self._tokens])
            if tokens != self._tokens and self._made_by(tokens, self._signature, self._algorithm):
                return f"the auth token has {name} around it: set it without"
        return ""

    def _near_miss(self) -> str:
        """Return what was signed instead, with its cure, if that is found within the limits."""
        size = len(self._uri) + len(self._fields)
        tries = min(MAX_TRIES, MAX_TRIED // size) // len(self._tokens)
        for guess in itertools.islice(self._guesses(), tries):
            signed = "".join([text for text, _ in guess])
            if any(
                hmac.compare_digest(signer.sign(signed, self._algorithm), self._signature)
                for signer in self._signers
            ):
                advice = "; ".join([advice for _, advice in guess if advice])
                return f"signed for {self._shown(guess[0][0] + guess[1][0])}: {advice}"
        return ""

    def _shown(self, url: str) -> str:
        """Return *url* without what nobody needs to read: credentials, and the query."""
        return printable(re.sub("//[^/?#]*@", "//…@", url).partition("?")[0], 300)

    def _guesses(self) -> Iterator[tuple[tuple[str, str], ...]]:
        """Yield what may have been signed instead, the likeliest first: the three parts."""
        if not self._parts:
            return
        rest = self._parts[5] or ""
        path, base = rest.partition("?")[0], self._uri.removesuffix(rest)
        query = rest.removeprefix(path)  # with its mark
        came = (base, ""), (path, ""), (query + self._fields, "")
        # Each is made once: the product below would make the inner ones again and again.
        others = (
            unlike(base, bases(self._parts, self._headers)),
            unlike(path, paths(path) if len(path) <= MAX_CHANGED else ()),
            unlike(query + self._fields, self._contents(query)),
        )
        for part in 0, 1, 2:  # exchange one
            for other in others[part]:
                yield (*came[:part], other, *came[part + 1 :])
        for text, advice in rare_forms(self._pairs) if self._short(query) else ():
            yield *came[:2], (query + text, advice)
        for same in 2, 1, 0:  # exchange two, and keep one: most often that is the content
            yield from itertools.product(*others[:same], came[same : same + 1], *others[same + 1 :])

    def _contents(self, query: str) -> Iterator[tuple[str, str]]:
        """Yield what the query and the fields may have been."""
        if self._fragment:
            advice = "Twilio never signs a fragment: whoever signed this did, and should not"
            yield f"{query}#{self._fragment}{self._fields}", advice
        if self._body is not None and not body_hash(self._uri):
            computed = hashlib.sha256(self._body).hexdigest()
            advice = "the bodySHA256 that Twilio added to the query was dropped: keep it"
            yield f"{query}{'&' if query else '?'}bodySHA256={computed}", advice
        if self._short(query):
            yield from moved(query, self._pairs, bool(body_hash(self._uri)))
            for text, advice in queries(query):
                yield text + self._fields, advice
            for text, advice in forms(self._pairs):
                yield query + text, advice

    def _short(self, query: str) -> bool:
        """Return whether it costs little to change the query and the fields."""
        count = query.count("&") + len(self._pairs)
        return len(query + self._fields) <= MAX_CHANGED and count <= MAX_CHANGED_FIELDS

    def _no_idea(self) -> str:
        """Return what to look at first: most often it is a token or a URL of something else."""
        if any(re.fullmatch(rb"(AC|SK)[0-9a-f]{32}", token) for token in self._tokens):
            return "what is set as the auth token is an SID: the auth token is the secret beside it"
        if any(b"," in token for token in self._tokens):
            return "the auth token has a comma in it: if those are several, pass them as a list"
        return (
            f"not signed for {self._shown(self._uri)} with {len(self._pairs)} fields, nor for"
            " anything much like it: is this the URL in Twilio's console? If that begins otherwise,"
            " public_url is what it has before this path. If it is the same, check the token: it is"
            " the primary one of the number's account"
        )


def unlike(came: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what is in *found*, each text once, with its first advice, and not what came."""
    advice_for: dict[str, str] = {came: ""}
    for text, advice in found:
        advice_for.setdefault(text, advice)
    return list(advice_for.items())[1:]


def bases(came: re.Match[str], headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what may have stood before the path, with the advice to say so."""
    login = came[2] or credentials(headers.get("authorization", ""))
    for scheme, host, prefix, why in public_urls(came, headers):
        port = "443" if scheme == "https" else "80"
        advice = f'pass public_url="{scheme}://{printable(host + prefix, 200)}"{why}'
        yield f"{scheme}://{host}{prefix}", advice
        if not re.search(r":\d+$", host):
            yield f"{scheme}://{host}:{port}{prefix}", advice
        if login:
            public = f"{scheme}://USER:PASSWORD@{printable(host + prefix, 200)}"
            advice = f'the credentials in the URL were signed: pass public_url="{public}"'
            yield f"{scheme}://{login}@{host}{prefix}", advice


def credentials(authorization: str) -> str:
    """Return the ``user:password`` of the header, or an empty string."""
    scheme, _, value = authorization.partition(" ")
    try:
        return binascii.a2b_base64(value).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


def public_urls(
    came: re.Match[str], headers: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield scheme, host with port, prefix and a remark: what only a proxy has seen.

    The likeliest first: what headers tell, TLS that ends at a proxy, "www.", a stage.
    """
    yield from forwarded(came, headers)
    scheme, host, port = came[1].lower(), came[3], came[4]
    other = "http" if scheme == "https" else "https"
    behind = {"http": "", "https": " (a proxy ends TLS in front of this server)"}
    www = host[4:] if host.startswith("www.") else f"www.{host}"
    for name in dict.fromkeys([host, f"{host}:{port}" if port else host, www, host.lower()]):
        yield other, name, "", behind[other]
        yield scheme, name, "", ""
    for stage in STAGES:
        for name in dict.fromkeys([host, f"{host}:{port}" if port else host]):
            yield scheme, name, stage, f" (something stripped {stage} from the path)"
            yield other, name, stage, f" (something stripped {stage} from the path)"


def forwarded(
    came: re.Match[str], headers: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield what the X-Forwarded-* headers describe: the URL that a proxy was asked for."""
    proto, host, port, prefix = [
        headers.get("x-forwarded-" + name, "").partition(",")[0].strip()
        for name in ("proto", "host", "port", "prefix")
    ]
    if not (proto or host or port or prefix):
        return
    schemes = (proto,) if proto in ("http", "https") else ("https", "http")
    host = host or came[3] + (f":{came[4]}" if came[4] else "")
    bare = re.sub(r":\d*$", "", host)
    prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
    names = dict.fromkeys([host, f"{bare}:{port}" if port else host, bare])
    for scheme, name, stripped in itertools.product(schemes, names, dict.fromkeys([prefix, ""])):
        yield scheme, name, stripped, ""


def paths(path: str) -> Iterator[tuple[str, str]]:
    """Yield what the path may have been."""
    if path in ("", "/"):
        yield "/" if path == "" else "", ""  # Twilio means the same by both
    elif path.endswith("/"):
        yield path[:-1], SLASH.format("has no slash at its end")
    else:
        yield path + "/", SLASH.format("ends in a slash")
    steps = path.split("/")
    for count in range(1, min(len(steps), 5)):
        doubled = "/".join([*steps[:count], "", *steps[count:]])
        yield doubled, SLASH.format("has two slashes where one came")
    for count in range(2, min(len(steps), 5)):
        prefix = printable("/".join(steps[:count]), 100)
        advice = f"the path {prefix} was not in it: leave it out of public_url, or of the mount"
        yield "/" + "/".join(steps[count:]), advice
    for count in range(1, min(len(steps), 10) // 2 + 1):
        if steps[-count:] == steps[-2 * count : -count]:
            twice = printable("/" + "/".join(steps[-count:]), 100)
            advice = (
                f"the path {twice} was in it only once: leave it out of public_url, or of the mount"
            )
            yield "/".join(steps[:-count]), advice
    plain = unquote(path)
    for text in (plain, quote(plain, safe=PATH_CHARACTERS), quote(plain)):
        yield text, RAW.format("path", "escaped in another way")


def queries(query: str) -> Iterator[tuple[str, str]]:
    """Yield what the query may have been, with its mark.

    Frameworks decode it, keep it in a dict, and encode it again: that changes the order,
    drops what is blank, and spells another way what may be spelled in two.
    """
    if not query:
        yield "?", RAW.format("query", "without the lone ? at its end")
        return
    yield "", "the query was added on the way, or is not in the URL that Twilio was given"
    pieces = query[1:].split("&")
    few = len(pieces) <= 4
    for order in itertools.permutations(pieces) if few else (sorted(pieces), pieces[::-1]):
        yield "?" + "&".join(order), RAW.format("query", "in another order")
    full = "&".join([piece for piece in pieces if piece.partition("=")[2]])
    yield "?" + full, RAW.format("query", "with blank values that were not signed")
    for text in escapes(query[1:]):
        yield "?" + text, RAW.format("query", "escaped in another way")


def escapes(query: str) -> Iterator[str]:
    """Yield *query* as other programs escape it."""
    for one, other in (("'", "%27"), ("+", "%20"), ("~", "%7E"), ("*", "%2A"), (",", "%2C")):
        yield query.replace(one, other)
        yield query.replace(other, one)
    yield re.sub("%..", lambda escape: escape[0].upper(), query)
    yield re.sub("%..", lambda escape: escape[0].lower(), query)
    yield unquote(query)
    yield unquote_plus(query)
    pieces = [[unquote_plus(part) for part in piece.split("=", 1)] for piece in query.split("&")]
    for quoter in (quote, quote_plus):
        for safe in ("", "'", "*", "/:", PATH_CHARACTERS + "?"):
            yield "&".join(
                ["=".join([quoter(part, safe=safe) for part in piece]) for piece in pieces]
            )


def moved(query: str, pairs: Pairs, hashed: bool) -> Iterator[tuple[str, str]]:
    """Yield the contents with the fields in the URL, as in a GET, or out of it."""
    if pairs and hashed:
        yield query, "the URL has a bodySHA256: pass the body as it came, and not its fields"
    elif pairs:
        yield query, "signed as a GET, whose fields are only in the URL: pass None for them"
        added = urlencode(pairs)
        added = f"{query}&{added}" if query else f"?{added}"
        yield added, "signed as a GET, and came as a POST: something took the fields off the URL"
    elif query:
        advice = (
            "signed as a POST, and requested by GET: something on the way moved the fields to the"
            " query, a redirect say"
        )
        pieces = query[1:].split("&")
        fields = [parse_qsl(piece, keep_blank_values=True, separator="&") for piece in pieces]
        for count in range(len(pieces)):  # so many are of the webhook's own query
            kept = "?" + "&".join(pieces[:count]) if count else ""
            yield signed_string(kept, itertools.chain(*fields[count:])), advice


def forms(pairs: Pairs) -> Iterator[tuple[str, str]]:
    """Yield what the fields may have been, as they are signed.

    What is undone here is what parsers and middleware do to a form: trim, decode once
    more or not at all, drop blank values and repeated names.
    """
    if not pairs:
        return
    for change, advice in CHANGES:
        yield signed_string("", [(name, change(value)) for name, value in pairs]), advice
    for name, value in pairs:
        if name in PADDED:
            rest = [pair for pair in pairs if pair != (name, value)]
            for text in (value + " ", " " + value, f" {value} ", value + "\n", value + "\r\n"):
                advice = f"white space at an end of {name} was trimmed: use the values as they came"
                yield signed_string("", [*rest, (name, text)]), advice
    for once in (dict(pairs), dict(pairs[::-1])):
        advice = "a field that comes twice was signed once: drop the other one"
        yield signed_string("", once.items()), advice
    for order in (sorted(pairs), pairs):
        advice = "Twilio sorts the fields, and signs no value twice: whoever signed this did not"
        yield "".join([name + value for name, value in order]), advice
    filled = [pair for pair in pairs if pair[1]]
    yield signed_string("", filled), "blank values were not signed: something added them"
    for names in ([*PLACES, "Body"], PLACES, ["Body"], PLACES[:4], PLACES[4:]):
        yield with_blanks(pairs, names)


def utf_8_again(text: str) -> str:
    """Return *text* as it was before its UTF-8 was read as Latin-1, if that is what happened."""
    try:
        return text.encode("latin-1").decode()
    except ValueError:
        return text


CHANGES: tuple[tuple[Callable[[str], str], str], ...] = (
    (str.strip, "a value has white space around it that was not signed: something added it"),
    (lambda v: re.sub("^ ", "+", v), f"the + of a number became a space: {TWICE}"),
    (lambda v: re.sub(r"^(?=\d{8,15}$)", "+", v), f"the + of a number was lost: {TWICE}"),
    (lambda v: v.replace(" ", "+"), f"a + in a value became a space: {TWICE}"),
    (unquote_plus, "the values were signed decoded, and came escaped: decode the form once"),
    (lambda v: re.sub("\r?\n", "\r\n", v), "line ends were changed to \\n: use the body's bytes"),
    (lambda v: v.replace("\r\n", "\n"), "line ends were changed to \\r\\n: use the body's bytes"),
    (utf_8_again, "the form was decoded as Latin-1: it is UTF-8"),
)


def with_blanks(pairs: Pairs, names: Iterable[str]) -> tuple[str, str]:
    """Return the fields with those of *names* that did not come, blank, and the advice."""
    there = dict(pairs)
    blank = [name for name in names if name not in there]
    advice = f"the blank fields {', '.join(blank)} were dropped: parse with keep_blank_values=True"
    return signed_string("", [*pairs, *[(name, "") for name in blank]]), advice


def rare_forms(pairs: Pairs) -> Iterator[tuple[str, str]]:
    """Yield what the fields may have been and seldom are: so many that they are tried alone."""
    names = dict(pairs)
    for name in names:
        rest = [pair for pair in pairs if pair[0] != name]
        advice = f"the field {printable(name, 80)!r} was not signed: something on the way added it"
        yield signed_string("", rest), advice
    absent = [name for name in ["Body", *PLACES] if names and name not in names]
    for count in range(1, len(absent)):
        for chosen in itertools.combinations(absent, count):
            yield with_blanks(pairs, chosen)


# -------------------------------------------------------------------------- 8. Serve

PATH, PORT, PHONE_PORT = "/sms", 8767, 8768
PLAIN_PATH = r"/(?!/)[A-Za-z0-9/:@!$&'()*+,;=._~-]*"


def quest(message: IncomingMessage) -> str:
    """Answer as Twilio's own lesson on webhooks does."""
    return "I'm busy questing right now!"


class UsageError(Exception):
    """Something that cannot be served or done as it was asked for; the text is one line.

    On the command line it is all that is printed, and the exit status is 2.
    """


def load(target: str) -> Any:
    """Return what *target* names: ``module:name``, ``module`` or ``file.py``.

    Of a module without a name it is ``reply``, or else ``application``.
    """
    place, _, name = target.partition(":")
    module = import_module(place)
    names = [name] if name else ["reply", "application"]
    for wanted in names:
        found = getattr(module, wanted, None)
        if found is application and not name:  # by ``from smsreply import *``
            continue
        if callable(found) or hasattr(found, "items"):
            return found
    raise UsageError(f"{printable(place)} has no function {' and no '.join(names)}")


def module_name(place: str) -> str:
    return os.path.basename(place)[:-3] if place.endswith(".py") else place


def import_module(place: str) -> Any:
    import importlib

    file = os.path.abspath(place) if place.endswith(".py") else ""
    if file and not os.path.exists(file):
        raise UsageError(f"there is no file {printable(place)}")
    if file and sys.path[0] != os.path.dirname(file):
        sys.path.insert(0, os.path.dirname(file))  # for what the file itself imports, too
    try:
        module = importlib.import_module(module_name(place))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: it is a file of somebody's own
        raise UsageError(f"cannot import {printable(place)}: {where_raised(error)}") from error
    if file and os.path.abspath(getattr(module, "__file__", None) or "") != file:
        raise UsageError(f"{printable(place)} has the name of another module: rename it")
    return module


def where_raised(error: BaseException) -> str:
    """Return the error, and the last place of it that is not in this file, in one line.

    A SyntaxError has its place in its text, and a module that is not found has none.
    """
    what = f"{type(error).__name__}: {printable(str(error), 300)}"
    trace, place = error.__traceback__, ""
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<frozen"):
            place = f" ({printable(file)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return what if isinstance(error, SyntaxError) or "importlib" in place else what + place


def is_application(target: Any) -> TypeGuard[WSGIApplication]:
    """Return whether *target* is called as PEP 3333 has it, and not with a message.

    What takes one argument as well as two is a handler; of what has no signature (it is
    written in C) nobody knows, and it is taken for a handler.
    """
    import inspect

    try:
        inspect.signature(target).bind("environ", "start_response")
    except (TypeError, ValueError):
        return False
    try:
        inspect.signature(target).bind("message")
    except TypeError:
        return True
    return False


class EnvironmentApp:
    """The application that the environment describes, for hosts that only take a name.

    It serves what ``SMSREPLY_HANDLER`` names, at the URL of ``SMSREPLY_PUBLIC_URL``,
    and reads both at the first request.
    """

    def __init__(self) -> None:
        self._application: WSGIApplication | None = None
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return (self._application or self._load())(environ, start_response)

    def _load(self) -> WSGIApplication:
        with self._lock:
            if self._application is None:
                self._application = from_environment()
        return self._application


def from_environment() -> WSGIApplication:
    # What is raised here reaches the host, which might show the sender a traceback.
    try:
        handler = os.environ.get("SMSREPLY_HANDLER")
        target: Any = load(handler) if handler else quest
        if target is application:
            raise UsageError(f"SMSREPLY_HANDLER is {handler}, which serves what that names")
        if is_application(target):
            return target
        return App(target, public_url=os.environ.get("SMSREPLY_PUBLIC_URL"))
    except (UsageError, TypeError, ValueError) as error:
        return refuse_all(f"nothing is answered: {error}")


def refuse_all(why: str) -> WSGIApplication:
    """Return an application that answers 500 to all, and logs *why*."""
    seldom = Seldom()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        more = seldom.admits(why)
        if more is not None:
            log.error("%s%s", why, more)
        start_response(FAILED.status, FAILED.headers())
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else FAILED.body]

    return application


application = EnvironmentApp()


class Reloading:
    """A WSGI callable made anew by *make* when the file of the module *place* has changed.

    If the new version cannot be loaded, that is reported, and the last good one stays.
    """

    def __init__(self, place: str, make: Callable[[], WSGIApplication]) -> None:
        self._make = make
        self._name = module_name(place)
        self._version = (0, 0)
        self._application = make()
        self._file = getattr(sys.modules[self._name], "__file__", None) or ""
        self._version = self._look()
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            version = self._look()
            if version != self._version:
                self._version = version
                self._reload()
        return self._application(environ, start_response)

    def _look(self) -> tuple[int, int]:
        """Return what tells a version of the file from another: its time and its size."""
        try:
            status = os.stat(self._file)
        except OSError:  # an editor is just replacing it
            return self._version
        return status.st_mtime_ns, status.st_size

    def _reload(self) -> None:
        # Only this module is made anew: what it imports itself is the same as before.
        last_good = sys.modules.pop(self._name)
        try:
            self._application = self._make()
            log.warning("%s has changed: reloaded", self._file)
        except (UsageError, TypeError, ValueError) as error:
            sys.modules[self._name] = last_good
            log.error("%s has changed, and its last version stays: %s", self._file, error)


def serve_development(application: WSGIApplication, host: str, port: int) -> Any:
    """Return a server of wsgiref's, with a thread for each request, that listens."""
    import socket
    import socketserver
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True
        allow_reuse_address = os.name == "posix"  # Windows would let two servers have one port
        request_queue_size = 128  # with 5, as it is, a burst waits for seconds
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            # Whoever leaves, or says nothing, is not worth a traceback.
            if not isinstance(sys.exc_info()[1], OSError):
                super().handle_error(request, client_address)

        def server_bind(self) -> None:
            # HTTPServer's own asks the DNS for this machine's name first.
            socketserver.TCPServer.server_bind(self)
            name, self.server_port = self.server_address[:2]
            self.server_name = str(name)
            self.setup_environ()

    class Handler(WSGIRequestHandler):
        timeout = 10  # seconds, for a body that never comes

        def log_message(self, format: str, *args: Any) -> None:
            """Leave it to the application to say what came."""

        def finish(self) -> None:
            # To close with bytes unread resets the connection, and the answer is lost.
            super().finish()
            try:
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(1)
                for _ in range(64):
                    if not self.connection.recv(65536):
                        break
            except OSError:
                return

    server = Server((host, port), Handler)
    server.set_app(application)
    return server


class Production:
    """waitress, with this program's limits, and an end that waits for what is in flight."""

    GRACE = 30  # seconds for what is in flight, once SIGTERM has come
    STALLED = 2  # seconds: a request of which nothing came for so long is not waited for

    def __init__(self, application: WSGIApplication, host: str, port: int, threads: int) -> None:
        import select
        import socket

        import waitress
        from waitress.channel import HTTPChannel

        production = self

        class Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
            def service(self) -> None:
                if production._stop:
                    self.come_to_an_end()
                super().service()

            def come_to_an_end(self) -> None:
                """Answer what is here, and then no more on this connection."""
                for request in self.requests[-1:]:  # waitress drops what is after a "close"
                    request.headers["CONNECTION"] = "close"

            def writable(self) -> bool:
                """Return whether this server's loop is to send, and not the task's own thread.

                While that one sends, poll() would say at once, again and again, that one can:
                the loop would never rest, and take all the other threads' turns.
                """
                most = self.adj.outbuf_high_watermark if self.requests else 0
                return bool(
                    self.total_outbufs_len > most or self.will_close or self.close_when_flushed
                )

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # Windows would let two servers have one port
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        self._server = waitress.create_server(
            application,
            sockets=[self._socket],
            threads=threads,
            backlog=1024,
            connection_limit=connection_limit(),
            # select() cannot watch more than 1,024 connections.
            asyncore_use_poll=hasattr(select, "poll"),
            # App refuses what is too large itself.  waitress would close the connection on
            # bytes unread, which resets it, and the answer may be lost.
            max_request_body_size=8 * MAX_BODY if isinstance(application, App) else 1 << 30,
            # All that an App is sent stays in memory: a file would take a descriptor more.
            inbuf_overflow=8 * MAX_BODY + 1,
            # App believes no X-Forwarded-* header, and explains with them why it refuses.
            clear_untrusted_proxy_headers=not isinstance(application, App),
            ident="",
        )
        self._server.channel_class = Channel
        self._accept, self._server.accept = self._server.accept, self._accept_or_rest
        self.server_address = self._socket.getsockname()
        self._seldom = Seldom()
        self._stop = False

    def serve_forever(self) -> None:
        import signal

        signal.signal(signal.SIGTERM, self.stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is behind a shell's "&"
            signal.signal(signal.SIGINT, self.stop)
        while not self._stop:
            self._loop(1)
        # waitress itself would drop what is in flight, and Twilio would have to ask again.
        self._server.del_channel()
        self._socket.close()  # from here on, nobody new
        for channel in list(self._server.active_channels.values()):
            channel.come_to_an_end()
        deadline = time.monotonic() + self.GRACE
        while self._in_flight() and time.monotonic() < deadline:
            self._loop(0.1)
        POOL.drain(deadline - time.monotonic())
        self._server.task_dispatcher.shutdown(timeout=1)

    def stop(self, *_: object) -> None:
        import signal

        if signal.getsignal(signal.SIGINT) == self.stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C is at once
        self._stop = POOL.ends = True
        self._server.pull_trigger()

    def _loop(self, timeout: float) -> None:
        server = self._server
        before = -1
        server.asyncore.loop(timeout, server.adj.asyncore_use_poll, server._map, count=1)
        # waitress takes one connection a turn: of a thousand, the last would wait too long.
        while before < len(server.active_channels) and not self._stop and server.readable():
            before = len(server.active_channels)
            server.handle_accept()

    def _accept_or_rest(self) -> Any:
        """Accept a connection; rest a moment where that fails, lest the loop spin."""
        try:
            return self._accept()
        except OSError as error:  # no file descriptors are left, say
            more = self._seldom.admits("accept")
            if more is not None:
                log.error("no connection is accepted: %s%s", error.strerror or error, more)
            time.sleep(0.05)
            return None

    def _in_flight(self) -> bool:
        """Return whether some request is not answered, not sent whole, or still being read."""
        stalled = time.time() - self.STALLED
        return any(
            channel.requests
            or channel.total_outbufs_len
            or (channel.request and channel.last_activity > stalled)
            for channel in list(self._server.active_channels.values())
        )


MAX_CONNECTIONS = 4000


def connection_limit() -> int:
    """Return how many connections this process may have, once its limit is raised if it may be."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS + 100  # some for the program itself
    if 0 <= soft < most:
        soft = most if hard < 0 else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(100, min(soft if soft >= 0 else most, most) - 100)


# -------------------------------------------------------------------------- 9. Phone

PHONE_NUMBER, YOUR_NUMBER = "+15005550001", "+15005550006"

# Twilio's own codes, in its words more or less, and what helps.
ERRORS = {
    11200: ("the URL could not be retrieved", "open the URL in a browser: does it lead to your server?"),
    11205: ("no connection, or no answer in time", "start the server; answer within 15 s, or use a cache"),
    11206: ("not HTTP, or an illegal cookie", "look at the answer's first bytes and at its Set-Cookie"),
    11215: ("too many redirects", "let a redirect lead to an answer"),
    11217: ("the answer's status is an error", "the server's log says why, once a second at most; 403 is the signature, 404 the path"),
    11750: ("the answer is over 64 kB", "answer with less"),
    12100: ("the answer is not well-formed XML", "escape & and <; let nothing stand before <?xml"),
    12200: ("the answer is XML, but not TwiML", "use only Twilio's verbs and attributes, case and all"),
    12300: ("the answer's Content-Type is missing or unusable", "send text/xml"),
    14103: ("a message has neither text nor media, or too much of it", "1 to 1600 characters, 10 media"),
    14107: ("too many replies in a chain", "let an automatic reply not be replied to"),
}  # fmt: skip


class TwilioError(Exception):
    """What Twilio would report: its *code*, the *meaning* and *cure* of that, and *detail*.

    *answer* is what came and was no good, if anything came.
    """

    answer: Response | None = None

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        self.meaning, self.cure = ERRORS[code]
        self.detail = printable(detail, 300)
        super().__init__(
            f"{code}: {self.meaning}{f' ({self.detail})' if detail else ''}: {self.cure}"
        )


class ConnectFailed(TwilioError):
    """There is no connection, so that nothing was sent."""

    def __init__(self, detail: str) -> None:
        super().__init__(11205, detail)


class Request(bytes):
    """A request as it is on the wire, and what it was made of.

    *signed* is the string that *signature* is made of; without a token both are empty.
    """

    method: str
    url: str  # Twilio's: the public one
    target: str  # where it goes: the same, but for what stands in front of the webhook
    fields: Pairs
    headers: list[tuple[str, str]]
    body: bytes
    signed: str
    signature: str


class Response(bytes):
    """An answer as it was on the wire, and what it has; *seconds* is how long it took.

    Of one that is not HTTP, or not whole, *status* is 0, and there are no headers.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float

    def header(self, name: str) -> str:
        """Return the last header of that *name*, or an empty string."""
        return {key.lower(): value for key, value in self.headers}.get(name.lower(), "")


class SentMessage:
    """A message that somebody gets: a text, URLs of media, and two numbers."""

    def __init__(self, body: str, media: tuple[str, ...], to: str, from_: str) -> None:
        self.body, self.media, self.to, self.from_ = body, media, to, from_

    def __repr__(self) -> str:
        return f"SentMessage({self.body!r}, {self.media!r}, to={self.to!r}, from_={self.from_!r})"


class Exchange:
    """A message, and all that became of it.

    *requests* and *answers* are as on the wire, in order; the last request may have got
    no answer.  *messages* are what people get, and *error* is a `TwilioError` or None.
    """

    def __init__(self, params: dict[str, str]) -> None:
        self.params = params
        self.requests: list[Request] = []
        self.answers: list[Response] = []
        self.messages: list[SentMessage] = []
        self.error: TwilioError | None = None

    def __repr__(self) -> str:
        return f"<Exchange: {self.messages}, error={self.error}>"

    @property
    def seconds(self) -> float:
        """How long the webhook took for all its answers."""
        return sum([answer.seconds for answer in self.answers])

    def wire(self) -> str:
        """Return both sides of the wire, and what was signed, to be read on a terminal."""
        lines = []
        for number, request in enumerate(self.requests):
            text = request.decode("utf-8", "backslashreplace")
            lines += [f"> {printable(line, 70_000)}" for line in text.split("\r\n")]
            lines.append(
                f"  signed: {printable(request.signed, 70_000) or 'nothing, as there is no token'}"
            )
            for answer in self.answers[number : number + 1]:
                text = answer.decode("utf-8", "backslashreplace")
                lines += [f"< {printable(line, 70_000)}" for line in text.splitlines()]
                lines.append(f"  after {answer.seconds:.3f} s of 15")
        return "\n".join(lines)


class Phone:
    """Twilio's side, offline: texts a webhook, and does what Twilio does with the answer.

    *webhook* is a URL, or a WSGI callable, which then is at ``https://localhost/sms``.
    *auth_token* is found as `App` finds it; without one, nothing is signed.
    *public_url* is what the webhook takes for its URL: scheme, host, and path prefix if
    something strips one; or all of the URL.  *number* texts, and *to* is texted.

    >>> phone = Phone(App(lambda message: message.body.upper(), auth_token="12345"), auth_token="12345")
    >>> phone.text("hello").messages[0].body
    'HELLO'
    """

    TIMEOUT = 15  # seconds for an answer, connecting included
    CONNECT_TIMEOUT = 5
    REDIRECTS = 10
    REPLIES = 30

    def __init__(
        self,
        webhook: str | WSGIApplication,
        *,
        auth_token: str | None = None,
        public_url: str | None = None,
        number: str = PHONE_NUMBER,
        to: str = YOUR_NUMBER,
        method: str = "POST",
    ) -> None:
        if not (isinstance(webhook, str) or callable(webhook)):
            raise TypeError(f"a webhook is a URL or a WSGI callable, and not {webhook!r}")
        self.auth_token = auth_token
        self.number = number
        self.to = to
        self.method = method.upper()
        if self.method not in ("GET", "POST"):
            raise ValueError(f"method={method!r}: Twilio sends GET or POST")
        self._call = None if isinstance(webhook, str) else webhook
        self._public, self._local, path = whereabouts(webhook, public_url)
        # All that Twilio would be given, less the overrides, which it does not request.
        path, _, overrides = path.partition("#")
        self.url = self._public + path
        self._overrides = dict(parse_qsl(overrides))
        self._jars: dict[tuple[str, str], Jar] = {}

    def text(
        self,
        body: str = "",
        *,
        media: Iterable[Any] = (),
        from_: str = "",
        to: str = "",
        **params: str | None,
    ) -> Exchange:
        """Send a message with *body* and *media*; return what became of it.

        *media* are URLs, or pairs of a URL and a content type; *from_* and *to* are other
        numbers than this phone's.  *params* are more of Twilio's parameters, or other values
        for those above: ``ProfileName="Ada"``; None leaves one out.
        """
        number, to = from_ or self.number, to or self.to
        return self.deliver(message_params(number, to, body, media, params))

    def repeat(self, exchange: Exchange) -> Exchange:
        """Deliver the message of *exchange* once more, with the MessageSid it had."""
        return self.deliver(exchange.params)

    def deliver(
        self, params: dict[str, str], *, method: str | None = None, signature: str | None = None
    ) -> Exchange:
        """Send just these *params*, and, if it is given, with this *signature*."""
        params = {sendable(name): sendable(value) for name, value in params.items()}
        exchange = Exchange(params)
        try:
            self._follow(
                exchange, self.url, (method or self.method).upper(), exchange.params, signature
            )
        except TwilioError as error:
            exchange.error = error
        return exchange

    def _follow(
        self,
        exchange: Exchange,
        url: str,
        method: str,
        params: dict[str, str],
        signature: str | None = None,
    ) -> None:
        """Request *url*, and whatever its answer leads to."""
        for _ in range(self.REDIRECTS + 1):  # HTTP's and TwiML's: either can go round in a circle
            answer = self._request(exchange, url, method, params, signature)
            signature = None  # a given one was for the first request's URL
            location = answer.header("location")
            if answer.status in (301, 302, 303, 307, 308) and location:
                # RFC 9110, 15.4: only 307 and 308 keep the method for certain.
                method = method if answer.status >= 307 else "GET"
                url = absolute(url, location)
            else:
                onward = self._obey(exchange, url, answer)
                if onward is None:
                    return
                url, method, params = onward[0], onward[1], onward[2] or params
        raise TwilioError(11215, f"{self.REDIRECTS} were followed")

    def _obey(
        self, exchange: Exchange, url: str, answer: Response
    ) -> tuple[str, str, dict[str, str] | None] | None:
        """Do what *answer* says; return where to go on, if it says so."""
        for verb in verbs_of(answer):
            if isinstance(verb, str):
                sender, number = exchange.params.get("From", ""), exchange.params.get("To", "")
                self._receive(exchange, SentMessage(verb, (), sender, number))
            elif verb.tag == "Redirect":
                return (
                    absolute(url, (verb.text or "").strip()),
                    verb.get("method", "POST").upper(),
                    None,
                )
            elif verb.tag == "Message":
                message = message_of(verb, url, exchange.params)
                self._receive(exchange, message)
                if verb.get("action"):
                    status = status_params(message, exchange.params)
                    return (
                        absolute(url, verb.get("action", "")),
                        verb.get("method", "POST").upper(),
                        status,
                    )
        return None

    def _receive(self, exchange: Exchange, message: SentMessage) -> None:
        """Take a message for somebody, within Twilio's limits."""
        if not (message.body.strip() or message.media):
            raise TwilioError(14103, "neither text nor media")
        if utf16_units(xml_text(message.body)) > MAX_MESSAGE:
            raise TwilioError(14103, f"{utf16_units(xml_text(message.body))} characters")
        if len(exchange.messages) == self.REPLIES:
            raise TwilioError(14107, f"{self.REPLIES} replies to one message")
        exchange.messages.append(message)

    def _request(
        self,
        exchange: Exchange,
        url: str,
        method: str,
        params: dict[str, str],
        signature: str | None,
    ) -> Response:
        """Make one request, and again if Twilio would; return the answer."""
        deadline = time.monotonic() + self._seconds("tt", self.TIMEOUT, self.TIMEOUT)
        jar = self._jars.setdefault((params.get("From", ""), params.get("To", "")), Jar())
        request = self._build(url, method, params, jar, signature)
        for left in range(min(int_or(self._overrides.get("rc"), 1), 5), -1, -1):
            exchange.requests.append(request)
            try:
                answer = self._attempt(request, deadline)
            except TwilioError as error:
                if left and self._repeats("ct" if isinstance(error, ConnectFailed) else "rt"):
                    exchange.requests.pop()  # requests and answers stay in step
                    continue
                exchange.answers += [error.answer] if error.answer is not None else []
                raise
            exchange.answers.append(answer)
            jar.keep(answer, url)
            if answer.status < 400:
                return answer
            if not self._repeats(f"{answer.status // 100}xx"):
                break
        unsigned = answer.status == 403 and not request.signed
        hint = ", and nothing was signed: set TWILIO_AUTH_TOKEN" if unsigned else ""
        raise TwilioError(11217, f"status {answer.status}{hint}")

    def _repeats(self, failure: str) -> bool:
        """Return whether the URL's fragment, or Twilio's default, has it try again after that.

        *failure* is ``ct`` (no connection), ``rt`` (no answer in time), ``4xx`` or ``5xx``.
        """
        policy = self._overrides.get("rp", "ct").lower().split(",")
        return failure in policy or "all" in policy

    def _build(
        self, url: str, method: str, params: dict[str, str], jar: Jar, signature: str | None
    ) -> Request:
        """Return the request for *url*, whole and signed."""
        url = url.partition("#")[0]
        form = urlencode(params, errors="replace")
        if method != "POST":
            url, form = f"{url}{'&' if '?' in url else '?'}{form}", ""
        signed, right = self._signed(url, params if method == "POST" else {})
        signature = right if signature is None else signature
        target = self._target(url)
        headers = request_headers(target, signature, jar.header(url))
        if method == "POST":
            headers.append(("Content-Type", FORM_TYPE + "; charset=UTF-8"))
            headers.append(("Content-Length", str(len(form))))
        headers.append(("Connection", "close"))
        head = "".join([f"{name}: {value}\r\n" for name, value in headers])
        line = f"{method} {split_url(target)[3]} HTTP/1.1\r\n"
        # Only a cookie may have more than ASCII: it goes back byte by byte as it came.
        request = Request(f"{line}{head}\r\n{form}".encode("latin-1", "replace"))
        request.method, request.url, request.target = method, url, target
        request.fields, request.headers, request.body = list(params.items()), headers, form.encode()
        request.signed, request.signature = signed, signature
        return request

    def _signed(self, url: str, fields: dict[str, str]) -> tuple[str, str]:
        """Return the string that is signed, and its signature; without a token, neither."""
        found = os.environ.get("TWILIO_AUTH_TOKEN") if self.auth_token is None else self.auth_token
        tokens = to_tokens(found)
        if not tokens:
            return "", ""
        signed = signed_string(url, fields)
        return signed, Signer(tokens[0]).sign(signed).decode()

    def _target(self, url: str) -> str:
        """Return where a request for *url* goes: what stands before the webhook is left out."""
        return self._local + url[len(self._public) :] if is_below(url, self._public) else url

    def _seconds(self, override: str, default: float, most: float) -> float:
        """Return what the URL's fragment says of a time, or *default*."""
        found = int_or(self._overrides.get(override), int(default * 1000)) / 1000
        return min(max(found, 0.1), most)  # Twilio takes no less than 100 ms

    def _attempt(self, request: Request, deadline: float) -> Response:
        """Send *request* once, over the wire or in process, and return what comes back."""
        started = time.monotonic()
        left = max(deadline - started, 0.001)
        connect = self._seconds("ct", self.CONNECT_TIMEOUT, left)
        read = self._seconds("rt", self.TIMEOUT, left)
        if self._call is None:
            answer = over_the_wire(request, connect, read, deadline)
        elif is_below(request.url, self._public):
            answer = in_process(self._call, request)
        else:
            raise TwilioError(11200, f"not in this process: {request.url.partition('?')[0]}")
        answer.seconds = time.monotonic() - started
        if self._call is not None and answer.seconds > read:
            raise error_of(answer, 11205, f"the answer took {answer.seconds:.1f} s")
        if len(answer.body) > MAX_TWIML and answer.status < 400:
            raise error_of(answer, 11750)
        return answer


def error_of(answer: Response, code: int, detail: str = "") -> TwilioError:
    """Return the error for *answer*, with the answer attached, if there is any of it."""
    error = TwilioError(code, detail)
    error.answer = answer or None
    return error


def is_below(url: str, origin: str) -> bool:
    """Return whether *url* is below *origin*: ``https://abc.example.evil`` is not."""
    return url.startswith(origin) and url[len(origin) : len(origin) + 1] in ("", "/", "?", "#")


def request_headers(target: str, signature: str, cookies: str) -> list[tuple[str, str]]:
    """Return the headers that Twilio sends, but for those of a body."""
    from uuid import uuid4

    _, credentials, host, _ = split_url(target)
    headers = [("Host", host), ("User-Agent", "TwilioProxy/1.1"), ("Accept", "*/*")]
    if credentials:
        login = binascii.b2a_base64(unquote(credentials).encode(), newline=False).decode()
        headers.append(("Authorization", f"Basic {login}"))
    headers += [("I-Twilio-Idempotency-Token", str(uuid4())), ("X-Home-Region", "us1")]
    headers += [("X-Twilio-Signature", signature)] if signature else []
    headers += [("Cookie", cookies)] if cookies else []
    return headers


def split_url(url: str) -> tuple[str, str, str, str]:
    """Return the scheme, the credentials, the host with its port, and the rest of *url*."""
    parts = URL_PARTS.fullmatch(url)
    if not parts or not parts[3] or int((parts[4] or "0").lstrip("0")[:6] or 0) > 65535:
        raise TwilioError(11200, f"{url!r} is not a URL")
    scheme, credentials, host, port, rest = parts.groups(default="")
    rest = rest if rest.startswith("/") else "/" + rest
    return scheme.lower(), credentials, host + (":" + port if port else ""), rest


def name_and_port(scheme: str, host: str) -> tuple[str, str]:
    """Return the two parts of *host*; the port is the scheme's own where there is none."""
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
    return name.strip("[]"), port or {"https": "443", "http": "80"}[scheme]


def whereabouts(webhook: str | WSGIApplication, public_url: str | None) -> tuple[str, str, str]:
    """Return what the webhook's URL begins with, for Twilio and for us, and how it goes on."""
    if isinstance(webhook, str):
        scheme, credentials, host, path = checked_url(webhook)
        local = f"{scheme}://{credentials + '@' if credentials else ''}{host}"
        if not public_url:
            return f"{scheme}://{host}", local, path
        checked_url(public_url)
        public, own_path = [re.split("[?#]", url)[0] for url in (escaped(public_url), path)]
        return public.rstrip("/").removesuffix(own_path), local, path
    own = webhook.public_url if isinstance(webhook, App) else None
    if own and is_below(public_url or own, own):
        path = (public_url or own)[len(own) :]
    else:
        scheme, _, host, path = checked_url(public_url or "https://localhost")
        own = f"{scheme}://{host}"
    scheme, _, host, _ = checked_url(own)
    path, mark, overrides = path.partition("#")
    return own, f"{scheme}://{host}", (PATH if path in ("", "/") else path) + mark + overrides


def checked_url(url: str) -> tuple[str, str, str, str]:
    """Return what `split_url` does, and the fragment; raise ValueError for what is no URL."""
    try:
        scheme, credentials, host, path = split_url(url.partition("#")[0])
    except TwilioError:
        raise ValueError(f"{url!r} is not a URL like https://abc.example/sms") from None
    # A host's letters beyond ASCII are xn--… in a URL; a path's are escaped here.
    if " " in url or not url.isprintable() or not host.isascii():
        raise ValueError(f"{url!r} has a character that no URL has")
    fragment = url.partition("#")[2]
    return scheme, credentials, host, escaped(f"{path}#{fragment}" if fragment else path)


def escaped(url: str) -> str:
    """Return *url* with what no request line can carry escaped: nothing of it becomes a header."""
    return re.sub("[^!-~]", lambda found: quote(found[0], errors="replace"), url)


def absolute(base: str, reference: str) -> str:
    """Return where *reference* leads from *base* (RFC 3986, section 5); if nowhere, raise 11200."""
    from urllib.parse import urljoin

    try:
        url = urljoin(base, reference)
    except ValueError:  # brackets that hold no address
        url = ""
    if not URL_PARTS.fullmatch(url):
        raise TwilioError(11200, f"{reference!r} leads nowhere")
    return escaped(url)


def int_or(text: str | None, default: int) -> int:
    """Return *text* as an int, or *default* if it is no short number."""
    return int(text) if text and text.isdecimal() and len(text) < 6 else default


def new_sid(prefix: str) -> str:
    return prefix + os.urandom(16).hex()


ACCOUNT = "AC" + "0123456789abcdef" * 2
# What Twilio says of a US number whose place it does not know.
NO_PLACE = {name: "US" if name.endswith("Country") else "" for name in reversed(PLACES)}


def message_params(
    number: str, to: str, body: str, media: Iterable[Any], more: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the parameters that Twilio sends for a message, those of *more* among them."""
    pictures = typed_media(media)
    sid = new_sid("MM" if pictures else "SM")
    channel = number.partition(":")[0] + ":" if ":" in number else ""
    params = {} if channel else dict(NO_PLACE)  # WhatsApp's and RCS's come from no place
    params.update(SmsMessageSid=sid, SmsSid=sid, SmsStatus="received", Body=body)
    params.update(NumMedia=str(len(pictures)), NumSegments=segments(body, len(pictures)))
    if channel == "whatsapp:":
        params.update(ProfileName="Ada", WaId=number.rpartition("+")[2])
        params.update(MessageType="text", ReferralNumMedia="0")
    for index, (url, content_type) in enumerate(pictures):
        params[f"MediaUrl{index}"] = url
        params[f"MediaContentType{index}"] = content_type
    params.update(To=to if to.startswith(channel) else channel + to, From=number)
    params.update(MessageSid=sid, AccountSid=ACCOUNT, ApiVersion="2010-04-01")
    params.update({name: str(value) for name, value in more.items() if value is not None})
    return {name: value for name, value in params.items() if more.get(name, "") is not None}


def typed_media(media: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the URL and the content type of each; the type is guessed if it is not given."""
    import mimetypes

    media = [media] if isinstance(media, str) else media
    pairs = [
        one if isinstance(one, tuple) else (one, mimetypes.guess_type(re.split("[?#]", one)[0])[0])
        for one in media
    ]
    return [(url, content_type or "image/jpeg") for url, content_type in pairs]


# GSM 03.38: its alphabet of 7 bits has all of printable ASCII but the backtick, and the rest
# here; GSM_TWICE counts double.
GSM_7 = re.compile(r"[\n\r -_a-~£¥èéùìòÇØøÅåΔΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà€]*")
GSM_TWICE = "^{}\\[~]|€"


def segments(body: str, pictures: int) -> str:
    """Return in how many pieces a text goes over the air; of a picture message, its pictures."""
    text = xml_text(body)
    # GSM 03.40: 160 characters of 7 bits, or 70 of UCS-2; a header takes some off each piece.
    if GSM_7.fullmatch(text):
        alone, joined, units = 160, 153, len(text) + sum(map(text.count, GSM_TWICE))
    else:
        alone, joined, units = 70, 67, utf16_units(text)
    return str(pictures or (1 if units <= alone else -(-units // joined)))


def status_params(message: SentMessage, params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the status callback for *message*, the answer to *params*."""
    sid = new_sid("SM")
    return {
        "SmsSid": sid,
        "SmsStatus": "sent",
        "MessageStatus": "sent",
        "To": message.to,
        "MessageSid": sid,
        "AccountSid": params.get("AccountSid", ACCOUNT),
        "From": message.from_,
        "ApiVersion": "2010-04-01",
    }


# What Twilio knows in a messaging document, with its attributes; `Phone._obey` does it.
ROOT = {"Response": ()}
VERBS = {"Message": ("to", "from", "action", "method", "statusCallback"), "Redirect": ("method",)}
NOUNS = {"Message": {"Body": (), "Media": ()}}


def verbs_of(answer: Response) -> list[Any]:
    """Return the verbs of an answer, checked; or its text, if it is in plain text.

    All of it is checked before any verb is obeyed: a document that is no good has no effect.
    """
    kind = answer.header("content-type").partition(";")[0].strip().lower()
    if answer.status == 204:
        return []
    if kind == "text/plain" and answer.status == 200:
        text = answer.body.decode("utf-8", "replace")
        return [text] if text else []
    if kind not in ("text/xml", "application/xml", "text/html"):
        raise TwilioError(12300, f"it is {kind!r}" if kind else "there is none")
    response = parse_xml(answer.body)
    check_element(response, ROOT, "the root")
    for verb in response:
        check_element(verb, VERBS, "in <Response>")
        if verb.get("method", "POST").upper() not in ("GET", "POST"):
            raise TwilioError(12200, f"the method {verb.get('method')!r} is neither GET nor POST")
        for noun in verb:
            check_element(noun, NOUNS.get(verb.tag, {}), f"in <{verb.tag}>")
            if len(noun):
                raise TwilioError(12200, f"<{noun[0].tag}> in <{noun.tag}>")
    return list(response)


def check_element(
    element: ElementTree.Element, known: Mapping[str, tuple[str, ...]], where: str
) -> None:
    """Raise error 12200 unless *element* and its attributes are *known*."""
    if element.tag not in known:
        raise TwilioError(
            12200, f"<{element.tag}> is {where}; known there: {', '.join(known) or 'nothing'}"
        )
    for name in element.attrib:
        if name not in known[element.tag]:
            raise TwilioError(12200, f"<{element.tag}> has an attribute {name!r}")


def parse_xml(document: bytes) -> ElementTree.Element:
    from xml.etree import ElementTree

    class NoDoctype(ElementTree.TreeBuilder):
        """Refuses a document type: by its entities, a few bytes can fill the memory."""

        def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
            raise TwilioError(12100, "it has a document type")

    try:
        return ElementTree.fromstring(document, ElementTree.XMLParser(target=NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise TwilioError(12100, str(error)) from error


def message_of(verb: ElementTree.Element, url: str, params: Mapping[str, str]) -> SentMessage:
    """Return the message that a <Message> of an answer to *params* is.

    Its text is what stands in it, and then what stands in each <Body>.
    """
    bodies = [noun.text or "" for noun in verb if noun.tag == "Body"]
    media = [absolute(url, (noun.text or "").strip()) for noun in verb if noun.tag == "Media"]
    if len(media) > 10:
        raise TwilioError(14103, f"{len(media)} media")
    text = verb.text or ""
    if len(verb):  # white space between elements is there for its reader
        text = "".join([text.strip(), *bodies, *[(noun.tail or "").strip() for noun in verb]])
    to = verb.get("to") or params.get("From", "")
    return SentMessage(text, tuple(media), to, verb.get("from") or params.get("To", ""))


class Jar:
    """The cookies that Twilio keeps for a pair of numbers, much as RFC 6265 has browsers do it.

    A cookie is for the host that set it (there is no Domain), at the path that it names.
    """

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], tuple[str, bool, str, float]] = {}

    def keep(self, answer: Response, url: str) -> None:
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                self._keep(value, split_url(url)[2])

    def _keep(self, cookie: str, host: str) -> None:
        pair, *attributes = cookie.split(";")
        name, equals, value = [part.strip() for part in pair.partition("=")]
        if not name or not equals or not cookie.isprintable():
            raise TwilioError(11206, f"Set-Cookie: {cookie}")
        options = {
            k.strip().lower(): v.strip() for k, _, v in [a.partition("=") for a in attributes]
        }
        # Twilio keeps none for longer than four hours, whatever its Max-Age is.
        end = min(expiry(options), time.time() + COOKIE_AGE)
        self._cookies[host, name] = (value, "secure" in options, options.get("path", "/"), end)

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
    from email.utils import parsedate_to_datetime

    if re.fullmatch(r"-?\d{1,12}", options.get("max-age", "")):
        return time.time() + int(options["max-age"])
    try:
        return parsedate_to_datetime(options["expires"].replace("-", " ")).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return float("inf")


def over_the_wire(request: Request, connect: float, read: float, deadline: float) -> Response:
    """Send *request*, and read one answer.

    Connecting may take *connect* seconds, and the answer *read*, both until *deadline*
    (of `time.monotonic`).
    """
    import http.client

    connection = connect_to(request.target, connect)
    with connection:
        recorder = Recorder(connection, min(deadline, time.monotonic() + read))
        try:
            connection.sendall(request)
            response = http.client.HTTPResponse(recorder, method=request.method)  # type: ignore[arg-type]
            response.begin()
            body = response.read(MAX_TWIML + 1)  # the one byte more tells that it is too long
            # http.client returns a body that was cut off as if it were whole.
            if response.length and len(body) <= MAX_TWIML:
                raise http.client.IncompleteRead(body, response.length)
        except (http.client.HTTPException, ValueError) as error:
            if not recorder.seen:
                raise TwilioError(11205, "the connection was closed without an answer") from error
            raise error_of(recorder.answer(), 11206, f"{type(error).__name__}: {error}") from error
        except OSError as error:
            late = isinstance(error, TimeoutError) or time.monotonic() >= recorder.deadline
            why = "no whole answer in time" if late else str(error)
            raise error_of(recorder.answer(), 11205, why) from error
    return recorder.answer(response.status, response.getheaders(), body)


def connect_to(url: str, timeout: float) -> Any:
    """Return a socket that is connected, TLS included.

    Without a connection it is a `ConnectFailed`, after which Twilio tries again.
    """
    import socket

    scheme, _, host, _ = split_url(url)
    name, port = name_and_port(scheme, host)
    try:
        address = (name, int(port))
        connection = socket.create_connection(address, timeout)
    except (OSError, ValueError) as error:
        raise ConnectFailed(f"{host}: {error}") from error
    if scheme == "http":
        return connection
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=address[0])
    except (OSError, ValueError) as error:
        connection.close()
        raise TwilioError(11200, f"TLS: {error}") from error


class Recorder:
    """A socket to read an answer from, which keeps all that was read, till a deadline."""

    LIMIT = 2 * MAX_TWIML  # bytes: the headers, and the longest document

    def __init__(self, connection: Any, deadline: float) -> None:
        self.seen = b""
        self.deadline = deadline
        self._connection = connection
        self._started = time.monotonic()

    def answer(
        self, status: int = 0, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Response:
        """Return what was read, and how it is understood, if it is."""
        answer = Response(self.seen)
        answer.status, answer.headers, answer.body = status, list(headers), body
        answer.seconds = time.monotonic() - self._started
        return answer

    def makefile(self, mode: str) -> Any:
        """Return a file to read from: all that `http.client` asks of a socket."""
        import io

        recorder = self

        class File(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                return recorder.read_into(buffer)

        return io.BufferedReader(File())

    def read_into(self, buffer: Any) -> int:
        """Read what has come.  It is waited for until the deadline, however slowly it drips."""
        import http.client

        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if len(self.seen) > self.LIMIT:
            raise http.client.HTTPException(f"over {self.LIMIT} bytes, and no end")
        self._connection.settimeout(left)
        count: int = self._connection.recv_into(buffer)
        self.seen += bytes(buffer[:count])
        return count


def in_process(call: WSGIApplication, request: Request) -> Response:
    """Return what the WSGI callable *call* answers to *request*."""
    import io
    from urllib.parse import unquote_to_bytes

    scheme, _, host, rest = split_url(request.target)
    path, _, query = rest.partition("?")
    name, port = name_and_port(scheme, host)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": rest,
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key] = value
    status, headers, body = call_wsgi(call, environ)
    head = "".join([f"{name}: {value}\r\n" for name, value in headers])
    answer = Response(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1", "replace") + body)
    answer.status, answer.headers, answer.body = int_or(status[:3], 500), headers, body
    return answer


def call_wsgi(
    call: WSGIApplication, environ: dict[str, Any]
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Call a WSGI callable as a server does, which answers 500 for one that raises.

    PEP 3333 lets it call `start_response` as late as with the first piece of its body, and
    write a part of that through what `start_response` returns.
    """
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started[:] = [status, headers]
        return written.append

    try:
        result = call(environ, start_response)
        try:
            written.extend(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        if not isinstance(started[0], str):
            raise TypeError(f"the status {started[0]!r} is not a str")
        return (
            started[0],
            [(str(name), str(value)) for name, value in started[1]],
            b"".join(written),
        )
    except (Exception, SystemExit) as error:
        log.error("the webhook raised:\n%s", traceback_text(error))
        return "500 Internal Server Error", [], b""


class NotFromHere(Refused):
    """Some other page asks: it has its own Origin, or another name for this machine."""

    status = "403 Forbidden"


class NotJSON(Refused):
    status = "415 Unsupported Media Type"


class PhonePage:
    """A WSGI callable: the phone in the browser of whoever sits at this machine.

    A page on the web can have a browser send requests here.  It gets nothing by that: a
    form cannot send JSON, a script has its page's Origin, and a name that was made to
    lead here (DNS rebinding) is another Host.  Logs nothing that was sent or received.
    """

    KEPT = 50  # exchanges, each of some 5 kB, for a page that is loaded again

    def __init__(self, webhook: str, public_url: str | None = None) -> None:
        self._use({"webhook": webhook, "public_url": public_url or ""}, None)
        self._token: str | None = None  # that was typed; without one, TWILIO_AUTH_TOKEN counts
        self._exchanges: list[dict[str, Any]] = []
        self._count = 0
        self._lock = threading.Lock()
        self._actions = {
            "/state": self._state,
            "/settings": self._settings,
            "/forget": self._forget,
            "/text": self._text,
            "/deliver": self._deliver,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        extra: tuple[tuple[str, str], ...] = ()
        try:
            check_from_here(environ)
            kind, body = self._answer(environ)
            status = OK
        except Refused as refused:
            status, extra = refused.status, refused.headers
            kind, body = "text/plain", f"{refused}\n"
        except Exception as error:  # its text may be somebody's message
            log.error("the phone's page failed: %s", type(error).__name__)
            status, kind, body = FAILED.status, "text/plain", "the phone failed\n"
        sent = body.encode("utf-8", "replace")
        size = ("Content-Length", str(len(sent)))
        start_response(
            status, [("Content-Type", kind + "; charset=utf-8"), size, *PAGE_HEADERS, *extra]
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else sent]

    def _answer(self, environ: WSGIEnvironment) -> tuple[str, str]:
        """Return the type and the text of a file of the page's, or of what an action tells."""
        import json

        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path not in PAGE_FILES and path not in self._actions:
            raise NotFound("the phone has no such page")
        allowed = "GET" if path in PAGE_FILES else "POST"
        if method != allowed:
            refused = MethodNotAllowed(f"only {allowed} is answered here")
            refused.headers = (("Allow", allowed),)
            raise refused
        if method == "GET":
            return PAGE_FILES[path]
        return "application/json", json.dumps(self._actions[path](read_json(environ)))

    def _use(self, settings: dict[str, str], token: str | None) -> None:
        """Take another phone, which has no cookies yet; raise ValueError for a bad URL."""
        settings = {"number": PHONE_NUMBER, "to": YOUR_NUMBER, "method": "POST", **settings}
        self._phone = Phone(
            settings["webhook"],
            auth_token=token,
            public_url=settings["public_url"] or None,
            number=settings["number"],
            to=settings["to"],
            method=settings["method"],
        )
        self._chosen = settings

    def _state(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that the page shows.  Of the token only where it is from."""
        token = self._phone.auth_token
        found = to_tokens(os.environ.get("TWILIO_AUTH_TOKEN") if token is None else token)
        source = "TWILIO_AUTH_TOKEN" if token is None else "this page"
        return {
            "settings": self._chosen,
            "token": source if found else "",
            "unsigned": token == "",
            "exchanges": self._exchanges,
        }

    def _settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {name: text_in(wanted, name).strip() for name in self._chosen}
        if not (chosen["number"] and chosen["to"] and chosen["method"] in ("GET", "POST")):
            raise Refused("two numbers, and GET or POST, are needed")
        # A token that is not given is the one there was: it goes to no page.
        self._token = text_in(wanted, "token").strip() or self._token
        try:
            self._use(chosen, "" if wanted.get("unsigned") else self._token)
        except ValueError as error:
            raise Refused(str(error)) from error
        return self._state(wanted)

    def _forget(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Begin again, without messages and cookies."""
        with self._lock:
            self._exchanges, self._count = [], 0
        self._use(self._chosen, self._phone.auth_token)
        return self._state(wanted)

    def _text(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        body, media = text_in(wanted, "body"), text_in(wanted, "media").split()
        return self._keep(wanted, lambda phone: phone.text(body, media=media))

    def _deliver(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Send what was sent before, changed or not."""
        params, signature = wanted.get("params"), wanted.get("signature")
        if not isinstance(params, dict) or not all(isinstance(v, str) for v in params.values()):
            raise Refused("the params are not an object of texts")
        # It becomes a header as it is: what is not base64 could become two.
        if signature is not None and not re.fullmatch("[A-Za-z0-9+/=]{0,100}", str(signature)):
            raise Refused("the signature is not base64")
        method = "GET" if wanted.get("method") == "GET" else "POST"
        return self._keep(
            wanted, lambda phone: phone.deliver(params, method=method, signature=signature)
        )

    def _keep(self, wanted: Mapping[str, Any], send: Callable[[Phone], Exchange]) -> dict[str, Any]:
        """Send something, which may take a while, and keep what became of it.

        The lock is held only to keep it: several messages can be under way at once.
        """
        phone, started = self._phone, time.time()
        kept = exchange_json(send(phone), phone)
        kept.update(at=started, how=text_in(wanted, "how"), again=wanted.get("again"))
        with self._lock:
            self._count += 1
            kept["number"] = self._count
            self._exchanges = [*self._exchanges, kept][-self.KEPT :]
        return kept


def check_from_here(environ: WSGIEnvironment) -> None:
    """Raise `NotFromHere` unless the request is for this server's own name, and by its page."""
    port = environ["SERVER_PORT"]
    hosts = [f"{name}:{port}" for name in ("localhost", "127.0.0.1")]
    if port == "80":
        hosts += ["localhost", "127.0.0.1"]
    if environ.get("HTTP_HOST") not in hosts:
        raise NotFromHere(f"the phone is at http://localhost:{port}/ only")
    if environ.get("HTTP_ORIGIN") not in [None, *["http://" + host for host in hosts]]:
        raise NotFromHere("the phone is used by its own page only")


def read_json(environ: WSGIEnvironment) -> dict[str, Any]:
    import json

    # With a form's three types any page can have a browser send a request, unasked.  For any
    # other type the browser asks first (Fetch, "CORS-preflight"), and is refused.
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise NotJSON("the phone reads application/json")
    try:
        wanted = json.loads(read_body(environ))
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON") from None
    if not isinstance(wanted, dict):
        raise Refused("the body is not a JSON object")
    return wanted


def text_in(wanted: Mapping[str, Any], name: str) -> str:
    text = wanted.get(name, "")
    if not isinstance(text, str):
        raise Refused(f"{name} is not a text")
    return text


def exchange_json(exchange: Exchange, phone: Phone) -> dict[str, Any]:
    """Return an exchange as the page has it."""
    error = exchange.error
    return {
        "params": exchange.params,
        "hops": [
            hop_json(request, answer)
            for request, answer in zip(exchange.requests, [*exchange.answers, None])
        ],
        "messages": [
            {
                "body": message.body,
                # What Twilio gets at the public URL, a browser here gets at the webhook's own.
                "media": [{"url": url, "here": phone._target(url)} for url in message.media],
                "to": message.to,
                "from": message.from_,
            }
            for message in exchange.messages
        ],
        "error": error
        and {name: getattr(error, name) for name in ("code", "meaning", "cure", "detail")},
        "seconds": exchange.seconds,
    }


def hop_json(request: Request, answer: Response | None) -> dict[str, Any]:
    """Return a request and its answer, if there was one, as the page has them."""
    hop: dict[str, Any] = {
        "method": request.method,
        "url": request.url,
        "target": request.target,
        "fields": request.fields,
        "request": wire_text(request),
        "sent": len(request),
        "signed": request.signed,
        "signature": request.signature,
    }
    if answer is not None:
        hop.update(status=answer.status, type=answer.header("content-type"), seconds=answer.seconds)
        hop.update(answer=wire_text(answer), received=len(answer), twiml=indented(answer.body))
    return hop


def wire_text(wire: bytes) -> str:
    """Return bytes as lines to look at: what is not a character is escaped."""
    lines = re.split("\r?\n", wire.decode("utf-8", "backslashreplace"))
    return "\n".join([printable(line, len(line)) for line in lines])


def indented(document: bytes) -> str:
    """Return an XML document with an element a line, or nothing if it is none."""
    from xml.etree import ElementTree

    try:
        root = parse_xml(document)
    except TwilioError:
        return ""
    if root.find("*/*/*/*") is not None:  # TwiML has three levels, and each one is indented more
        return ""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def serve_phone(webhook: str, public_url: str | None, port: int) -> Any:
    """Return a server that listens on loopback, and serves the phone for *webhook*."""
    return serve_development(PhonePage(webhook, public_url), "127.0.0.1", port)


# The page: three files, made by hand, of which nothing is fetched from elsewhere.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: http://localhost:* http://127.0.0.1:*; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (
    ("Content-Security-Policy", PAGE_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

PAGE_HTML = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Phone: an offline Twilio</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E
  %3Cpath d='M1 1h6v4.5H4L2 7V5.5H1z' fill='%230b7350'/%3E%3C/svg%3E">
<link rel="stylesheet" href="phone.css">
<script src="phone.js" defer></script>
</head>
<body>
<section id="phone" aria-labelledby="to">
  <header>
    <div>
      <h1 id="to">Phone</h1>
      <p id="about"></p>
      <p id="signing"></p>
    </div>
    <button type="button" id="open-settings">Settings</button>
  </header>
  <div id="conversation" role="log" aria-label="Conversation" tabindex="0"></div>
  <p id="trouble" role="alert" hidden></p>
  <form id="compose">
    <p id="picture" hidden>
      <label for="media">Picture’s URL (several: with spaces between)</label>
      <input id="media" inputmode="url" autocomplete="off" spellcheck="false" placeholder="https://…">
    </p>
    <button type="button" id="attach" aria-expanded="false" aria-controls="picture"
      aria-label="Attach a picture by its URL" title="Attach a picture by its URL">+</button>
    <label for="body" class="unseen">Text message</label>
    <textarea id="body" rows="1" placeholder="Text message" aria-describedby="keys"></textarea>
    <button id="send">Send</button>
    <span id="keys" class="unseen">Enter sends, Shift and Enter begins a new line.</span>
  </form>
</section>

<main>
  <header>
    <h2>What happens</h2>
    <button type="button" id="forget" title="Forget the messages and the cookies">Start over</button>
  </header>
  <p id="news" role="status" class="unseen"></p>
  <div id="welcome" class="card">
    <p>A webhook is a program at a URL. For every text message that somebody sends to your
      number, Twilio makes one request to that URL; the answer says what is texted back.
      Here this page plays Twilio. Send a text, and see:</p>
    <ol class="steps">
      <li><strong>The request</strong>: the message, as the fields of a form.</li>
      <li><strong>The signature</strong>, which shows that the request is Twilio’s.</li>
      <li><strong>The answer</strong> of your program.</li>
      <li><strong>The TwiML</strong> in it, and what becomes of that: messages, or an error.</li>
    </ol>
  </div>
  <div id="exchanges"></div>
</main>

<dialog id="settings" aria-labelledby="settings-title">
  <form autocomplete="off">
    <h2 id="settings-title">Settings</h2>
    <label>Webhook: the URL that is requested
      <input name="webhook" required inputmode="url" spellcheck="false"></label>
    <label>Public URL, if Twilio knows the webhook by another
      <input name="public_url" inputmode="url" spellcheck="false"
        placeholder="https://abc.example"></label>
    <div class="pair">
      <label>The person’s number <input name="number" required autocomplete="off"></label>
      <label>Your number <input name="to" required autocomplete="off"></label>
    </div>
    <p class="hint">With <code>whatsapp:</code> before the person’s number it is a WhatsApp message.</p>
    <label>Method <select name="method"><option>POST</option><option>GET</option></select></label>
    <label>Auth token
      <input name="token" type="password" autocomplete="new-password" aria-describedby="token-state"></label>
    <p class="hint" id="token-state"></p>
    <label class="check"><input name="unsigned" type="checkbox"> Send unsigned requests</label>
    <p role="alert" class="bad"></p>
    <div class="buttons"><button type="button" value="cancel">Cancel</button><button>Save</button></div>
  </form>
</dialog>

<dialog id="edit" aria-labelledby="edit-title">
  <form>
    <h2 id="edit-title">Edit and send again</h2>
    <div id="rows"></div>
    <button type="button" id="add-row">Add a field</button>
    <div class="pair">
      <label>Method <select name="method"><option>POST</option><option>GET</option></select></label>
      <label>Signature <select name="signature">
        <option value="right">as Twilio makes it</option>
        <option value="broken">broken</option>
        <option value="none">left out</option></select></label>
    </div>
    <div class="buttons"><button type="button" value="cancel">Cancel</button><button>Send</button></div>
  </form>
</dialog>
</body>
</html>
"""

PAGE_CSS = r"""
:root {
  --paper: #f3f2ee; --card: #fff; --ink: #1c2126; --soft: #59616b; --line: #dad8d0;
  --code: #f8f7f4; --accent: #0b7350; --on-accent: #fff; --mine: #0b7350; --theirs: #eae8e2;
  --bad: #b3261e; --bad-paper: #fdf0ee; --url: #1f57b8; --shadow: 0 1px 2px #0001, 0 8px 24px #0000000d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121517; --card: #1b1f22; --ink: #e7eaec; --soft: #a2abb4; --line: #343b41;
    --code: #14181a; --accent: #63d1a6; --on-accent: #06281b; --mine: #0b6e4d; --theirs: #2b3136;
    --bad: #ff9a90; --bad-paper: #341d1b; --url: #8fb8ff; --shadow: none;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
body {
  margin: 0 auto; max-width: 90rem; padding: 1.5rem; gap: 2rem;
  display: grid; grid-template-columns: 23rem minmax(0, 1fr); align-items: start;
  background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
h1, h2, h3, p, ol { margin: 0; }
h1 { font-size: 1.1rem; line-height: 1.3; }
h2 { font-size: 1.25rem; }
a { color: var(--url); overflow-wrap: anywhere; }
code, pre { font: .8125rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
button, input, select, textarea { font: inherit; color: inherit; }
button {
  padding: .3rem .8rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); font-size: .875rem; cursor: pointer;
}
button:hover { border-color: var(--accent); }
button:not([type]) {
  background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600;
}
input:not([type=checkbox]), select, textarea {
  width: 100%; padding: .45rem .7rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; resize: none;
}
header { display: flex; gap: 1rem; align-items: center; justify-content: space-between; }
.hint, .soft { color: var(--soft); font-size: .875rem; }
.bad { color: var(--bad); }
.good { color: var(--accent); }

#phone {
  position: sticky; top: 1.5rem; height: calc(100vh - 3rem); max-height: 52rem; overflow: hidden;
  display: flex; flex-direction: column;
  background: var(--card); border: 1px solid var(--line); border-radius: 1.75rem; box-shadow: var(--shadow);
}
#phone > header { padding: 1rem 1.25rem .8rem; border-bottom: 1px solid var(--line); }
#phone > header > div { min-width: 0; }
#about, #signing { color: var(--soft); font-size: .8125rem; line-height: 1.4; overflow-wrap: anywhere; }
#signing::before { content: "● "; color: var(--soft); }
#signing.signed::before { color: var(--accent); }
#conversation:empty::before { content: "No messages yet. Say hello!"; margin: auto; color: var(--soft); }
#conversation {
  flex: 1; overflow-y: auto; padding: 1rem; outline-offset: -3px;
  display: flex; flex-direction: column; gap: .75rem;
}
#conversation > :first-child { margin-top: auto; }
.message { max-width: 82%; align-self: flex-start; }
.message.mine { align-self: flex-end; text-align: right; }
.bubble {
  display: inline-block; max-width: 100%; padding: .5rem .85rem; text-align: left;
  white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--theirs); border-radius: .3rem 1.15rem 1.15rem 1.15rem;
}
.mine .bubble { background: var(--mine); color: #fff; border-radius: 1.15rem .3rem 1.15rem 1.15rem; }
.mine .bubble a { color: inherit; }
.bubble img { display: block; max-width: 100%; max-height: 16rem; border-radius: .6rem; margin: .15rem 0; }
.meta, .note { display: block; margin-top: .2rem; color: var(--soft); font-size: .75rem; }
.note { align-self: center; margin: 0; text-align: center; max-width: 90%; }
.note.bad { color: var(--bad); }
.link {
  border: 0; padding: 0; background: none; color: var(--url);
  font-size: inherit; text-decoration: underline;
}
.typing::after { content: "···"; letter-spacing: .2em; font-weight: 700; animation: typing 1.2s infinite; }
@keyframes typing { 50% { opacity: .25; } }
#trouble { margin: 0 1rem; color: var(--bad); font-size: .875rem; }
#compose {
  display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-end;
  padding: .8rem; border-top: 1px solid var(--line);
}
#picture { flex: 1 0 100%; font-size: .8125rem; color: var(--soft); }
#compose textarea {
  flex: 1; width: auto; min-width: 0; max-height: 9rem; field-sizing: content; border-radius: 1.2rem;
}
#attach, #send { height: 2.5rem; border-radius: 1.25rem; }
#attach { width: 2.5rem; padding: 0; font-size: 1.4rem; line-height: 1; }

main > header { margin: .4rem 0 1rem; }
.card, .exchange {
  background: var(--card); border: 1px solid var(--line); border-radius: 1rem; box-shadow: var(--shadow);
}
.card { padding: 1.25rem 1.5rem; }
.card > p { max-width: 42rem; }
.exchange { margin-bottom: 1rem; scroll-margin-top: 1.5rem; }
summary {
  display: flex; gap: .2rem .8rem; align-items: baseline; list-style: none;
  padding: .8rem 1.25rem; border-radius: 1rem; cursor: pointer;
}
summary::-webkit-details-marker { display: none; }
summary::before { content: "▸"; color: var(--soft); }
[open] > summary::before { content: "▾"; }
summary b { white-space: nowrap; }
.title { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.outcome { white-space: nowrap; font-size: .875rem; }
.again {
  display: flex; flex-wrap: wrap; gap: .5rem; align-items: center;
  padding: 0 1.25rem 1rem; border-bottom: 1px solid var(--line);
}
.hop { padding: 1.25rem; }
.hop + .hop { border-top: 1px dashed var(--line); }
.hop > h3 { font-size: .9375rem; margin-bottom: 1rem; overflow-wrap: anywhere; }
.steps { list-style: none; padding: 0; counter-reset: step; }
.steps > li { counter-increment: step; position: relative; padding: 0 0 1.5rem 2.75rem; }
.steps > li::before {
  content: counter(step); position: absolute; left: 0; top: -.1rem; width: 1.75rem; height: 1.75rem;
  border-radius: 50%; border: 2px solid var(--accent); color: var(--accent); background: var(--card);
  font: 700 .875rem/1.55rem system-ui, sans-serif; text-align: center;
}
.steps > li:not(:last-child)::after {
  content: ""; position: absolute; left: .8125rem; top: 1.9rem; bottom: .25rem; width: 2px;
  background: var(--line);
}
.steps > li:last-child { padding-bottom: 0; }
#welcome .steps { margin-top: 1.25rem; }
#welcome .steps > li { padding-bottom: .9rem; }
#welcome .steps > li::after { display: none; }
.steps h4 { margin: 0; font-size: 1rem; }
.steps h4 + p {
  color: var(--soft); font-size: .875rem; max-width: 46rem; margin-bottom: .6rem; text-wrap: pretty;
}
.hint:has(+ pre) { margin-bottom: .3rem; }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; align-items: start; }
pre {
  margin: 0 0 .5rem; padding: .75rem .9rem; max-height: 44rem; overflow: auto;
  white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--code); border: 1px solid var(--line); border-radius: .6rem;
}
.scroll { max-height: 48rem; overflow: auto; border: 1px solid var(--line); border-radius: .6rem; }
table { width: 100%; border-collapse: collapse; font-size: .8125rem; }
th, td {
  padding: .22rem .75rem; text-align: left; vertical-align: top; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line);
}
tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; width: 42%; }
th small { display: block; font-weight: 400; color: var(--soft); }
.empty { color: var(--soft); font-style: italic; }
.part-url { color: var(--url); }
.part-name { color: var(--accent); font-weight: 700; }
meter { width: 9rem; height: .6rem; max-width: 100%; margin-left: .3rem; vertical-align: middle; }
meter::-webkit-meter-bar { height: .6rem; background: var(--theirs); border: 1px solid var(--line); }
.became { margin: .25rem 0 0; padding: 0; list-style: none; }
.became > li {
  padding: .5rem .9rem; margin-bottom: .4rem; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--code); border-left: 3px solid var(--accent);
}
.became > li.error { border-color: var(--bad); background: var(--bad-paper); }

dialog {
  width: min(38rem, calc(100vw - 2rem)); padding: 1.5rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--card); color: var(--ink);
}
dialog::backdrop { background: #0007; }
dialog form { display: grid; gap: .9rem; }
dialog label { font-size: .875rem; }
label + input, dialog label :is(input:not([type=checkbox]), select) { margin-top: .25rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.check { display: flex; gap: .5rem; align-items: center; }
.buttons { display: flex; gap: .5rem; justify-content: flex-end; }
#rows { max-height: 45vh; overflow: auto; padding: 4px; }
.row textarea { field-sizing: content; max-height: 8rem; }
.row { display: grid; grid-template-columns: 11rem 1fr auto; align-items: start; gap: .4rem; margin-bottom: .4rem; }
.row input, .row textarea { font-size: .8125rem; }
#add-row { justify-self: start; }

@media (max-width: 60rem) {
  body { grid-template-columns: minmax(0, 1fr); padding: .75rem; gap: 1.25rem; }
  #phone { position: static; height: 34rem; max-height: 82vh; border-radius: 1.25rem; }
}
@media (max-width: 45rem) {
  .sides, .pair { grid-template-columns: minmax(0, 1fr); }
  .hop, .card { padding: 1rem; }
  summary { flex-wrap: wrap; padding: .8rem 1rem; }
  .title { flex-basis: 60%; }
  .outcome { padding-left: 1.5rem; }
  .again { padding: 0 1rem 1rem; }
  .steps > li { padding-left: 0; }
  .steps > li > h4 { padding-left: 2.5rem; min-height: 2rem; }
  #welcome .steps > li { padding-left: 2.5rem; min-height: 2.9rem; }
  .steps > li::after { display: none; }
  .row { grid-template-columns: 1fr 1.2fr auto; }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important; } }
"""

PAGE_JS = r"""
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const exchanges = new Map(); // from numbers to what the server says of them
let state = { settings: {} };

// Whatever came over a wire becomes text: nothing on this page is made from markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

function button(text, does, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", does);
  return made;
}

async function ask(path, wanted = {}) {
  const headers = { "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(wanted) };
  const answer = await fetch(path, request).catch(() => {
    throw new Error("The phone’s own server does not answer: is it still running?");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function tell(trouble = "") {
  find("#trouble").textContent = trouble;
  find("#trouble").hidden = !trouble;
}

// The phone.

const link = (number) => button(`exchange ${number}`, () => show(number), { class: "link" });
const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function picture(url, here = url) {
  const named = /^https?:/i.test(url)
    ? element("a", { href: url, target: "_blank", rel: "noreferrer noopener" }, url)
    : element("span", {}, url);
  // What is on this machine is shown; another host would learn that somebody looks.
  if (!/^http:\/\/(localhost|127\.0\.0\.1)(:\d+)?\//.test(here)) {
    return element("div", {}, "Picture: ", named);
  }
  const image = element("img", { src: here, alt: `Picture: ${url}` });
  image.addEventListener("load", scrollDown);
  image.addEventListener("error", () => {
    image.replaceWith(element("div", {}, "Picture, which cannot be loaded: ", named));
  });
  return image;
}

function message(side, pictures, text, ...meta) {
  return element("div", { class: `message ${side}` },
    element("div", { class: "bubble" }, text, ...pictures), element("span", { class: "meta" }, ...meta));
}

function bubbles({ params, messages, error, number, again, how, at }) {
  const note = (kind, ...text) => element("span", { class: `note ${kind}` }, ...text);
  const sent = Object.keys(params).filter((name) => /^MediaUrl\d+$/.test(name)).map((name) => params[name]);
  const shown = again && how !== "edited"
    ? [note("", `Exchange ${again} sent again, ${how}: `, link(number))]
    : [message("mine", sent.map((url) => picture(url)), params.Body ?? "",
      "You · ", clock(at), " · ", link(number))];
  for (const { body, media, from, to } of messages) {
    const who = to === params.From ? from : `${from} to ${to}`;
    shown.push(message("", media.map(({ url, here }) => picture(url, here)), body, who, " · ", clock(at)));
  }
  if (error) shown.push(note("bad", `Error ${error.code}: ${error.meaning}`));
  else if (!messages.length) shown.push(note("", "No reply: the answer has no message."));
  return shown;
}

function scrollDown() {
  const conversation = find("#conversation");
  conversation.scrollTop = conversation.scrollHeight;
}

// An exchange, step by step.

const MEANINGS = {
  From: "who texted", To: "your number", Body: "the text", NumMedia: "how many pictures",
  MessageSid: "the same in a retry", AccountSid: "whose number it is",
  NumSegments: "what it is charged as", MediaUrl0: "where the picture is",
  ProfileName: "the name that the person chose", MessageStatus: "what became of the reply",
};

const region = (label) => ({ tabindex: 0, role: "region", "aria-label": label });
const bytes = (label, ...text) => element("pre", region(label), ...text);
const hint = (...text) => element("p", { class: "hint" }, ...text);

function step(title, about, ...content) {
  return element("li", {}, element("h4", {}, title), element("p", {}, about), ...content);
}

function fieldsTable(fields) {
  const rows = fields.map(([name, value]) => element("tr", {},
    element("th", { scope: "row" }, name, element("small", {}, MEANINGS[name] ?? "")),
    element("td", { class: value ? "" : "empty" }, value || "blank")));
  return element("div", { class: "scroll", ...region("The fields of the form") }, element("table", {}, ...rows));
}

function requestStep(hop) {
  const form = hop.method === "POST"
    ? "The message is a form: the last line, after an empty one."
    : "The message is in the query: what follows the ? in the first line.";
  const where = hop.target === hop.url ? "" : ` It goes to ${hop.target}, which Twilio knows as ${hop.url}.`;
  return step("The request", `Twilio asks your program, by HTTP, for an answer. ${form}${where}`,
    element("div", { class: "sides" },
      element("div", {}, bytes("The request’s bytes", hop.request), hint(`${hop.sent} bytes`)),
      fieldsTable(hop.fields)));
}

function signedString({ url, method, fields, signed }) {
  const sorted = method === "POST" ? [...fields].sort(([a], [b]) => (a < b ? -1 : 1)) : [];
  if ([url, ...sorted.flat()].join("") !== signed) return [signed];
  const pairs = sorted.flatMap(([name, value]) => [element("span", { class: "part-name" }, name), value]);
  return [element("span", { class: "part-url" }, url), ...pairs];
}

function signatureStep(hop, exchange, first) {
  const content = [];
  if (hop.signed) {
    const rest = hop.method === "POST"
      ? ", then each field’s name and value, sorted by name, with nothing between."
      : ". Of a GET, the fields are in it.";
    content.push(hint("This is signed: ", element("span", { class: "part-url" }, "the URL"), rest),
      bytes("The string that was signed", ...signedString(hop)));
  }
  const broken = first && exchange.how === BROKEN;
  if (hop.signature) {
    content.push(hint(broken ? "This is not its signature, but was sent as if it were:"
      : "Its signature, base64(HMAC-SHA1(auth token, string)), is sent as X-Twilio-Signature:"),
    bytes("The signature", hop.signature));
  } else {
    content.push(element("p", {}, hop.signed ? "The signature was left out."
      : "No token: unsigned. Settings take a token to sign with."));
  }
  if (first && !exchange.again) {
    const check = () => again(exchange, { broken: true, check: true });
    content.push(element("p", { id: `verdict-${exchange.number}`, role: "status" }, asked(),
      "Not known yet. ", button("Try with a broken signature", check)));
  }
  return step("The signature", "Anybody who finds the URL can send it a request. Twilio’s are signed with "
    + "the account’s auth token, which only Twilio and you know.", ...content);
}

function answerStep(hop, error) {
  if (!hop.answer) return step("The answer", "None came that can be read.", hint(error?.detail ?? ""));
  const time = duration(hop.seconds);
  const meter = { min: 0, max: 15, low: 5, high: 10, optimum: 0, value: hop.seconds };
  return step("The answer", "Your program’s, as it came: a status, headers, an empty line, and the body.",
    bytes("The answer’s bytes", hop.answer),
    hint(`${hop.received} bytes, after ${time} of the 15 s that Twilio waits `,
      element("meter", { ...meter, "aria-label": `${time} of 15 s` })));
}

function twimlStep(hop, next, { messages, error }) {
  const item = (...text) => element("li", {}, ...text);
  const became = next ? [item(`Twilio goes on with another request: ${next.method} ${next.url}`)]
    : messages.map(({ body, media, to }) => item(`A message to ${to}: `,
      [body, ...media.map(({ url }) => url)].filter(Boolean).join("\n")));
  if (error && !next) {
    became.push(element("li", { class: "error" },
      element("strong", {}, `Error ${error.code}: ${error.meaning}.`),
      error.detail ? ` Here: ${error.detail}.` : "", `\nWhat helps: ${error.cure}.`));
  }
  if (!became.length) became.push(item("Nothing is sent, and that is no error: the answer has no message."));
  const about = hop.twiml
    ? "The body is a document in Twilio’s language: its elements say what to do, one after the other."
    : `There is none${!next && messages.length && !error ? ": a body in text/plain is texted as it is" : ""}.`;
  return step("The TwiML, and what became of it", about,
    hop.twiml ? bytes("The TwiML, indented", hop.twiml) : "", element("ul", { class: "became" }, ...became));
}

const duration = (seconds) => (seconds < 1 ? `${Math.ceil(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

function outcome({ error, messages, seconds }) {
  const count = `${messages.length || "no"} ${messages.length === 1 ? "message" : "messages"}`;
  return `${error ? `error ${error.code}` : count} · ${duration(seconds)}`;
}

function article(exchange, open) {
  const { number, params, hops, error } = exchange;
  const other = hops[0]?.method === "GET" ? "POST" : "GET";
  const title = element("span", { class: "title" }, params.Body || (params.MediaUrl0 ? "a picture" : "no text"),
    element("span", { class: "soft" }, exchange.again ? ` · ${exchange.again} again, ${exchange.how}` : ""));
  return element("details", { class: "exchange", id: `exchange-${number}`, open },
    element("summary", {}, element("b", {}, `${number}`), title,
      element("span", { class: error ? "outcome bad" : "outcome" }, outcome(exchange))),
    element("div", { class: "again", role: "group", "aria-label": `Send exchange ${number} again` },
      element("span", { class: "hint" }, "Send again:"),
      button("Retry, same MessageSid", () => again(exchange, {})),
      button("Edit…", () => edit(exchange)),
      button("Break the signature", () => again(exchange, { broken: true })),
      button(`By ${other}`, () => again(exchange, { method: other, how: `by ${other}` }))),
    ...hops.map((hop, i) => element("section", { class: "hop" },
      hops.length > 1 ? element("h3", {}, `Request ${i + 1} of ${hops.length}: ${hop.method} ${hop.url}`) : "",
      element("ol", { class: "steps" }, requestStep(hop), signatureStep(hop, exchange, i === 0),
        answerStep(hop, error), twimlStep(hop, hops[i + 1], exchange)))));
}

const BROKEN = "with a broken signature";
const asked = () => element("strong", {}, "Does the webhook check it? ");

function verdict(original, replay) {
  const [before, status] = [original.hops[0]?.status, replay.hops[0]?.status];
  if (!status) return ["", "No answer came, so that is not known."];
  if (status < 400) {
    return ["bad", `No: with a broken signature it answers ${status}, too. `
      + "Anybody who finds the URL can send it messages."];
  }
  if (status >= 500) return ["", `It answered ${status}: that tells nothing.`];
  if (before >= 400) {
    return ["", `It refuses both, with ${before} and ${status}: has it another token, or does it take `
      + "another URL for its own? Its log may say."];
  }
  return ["good", `Yes: with a broken signature it refuses, with ${status}.`];
}

// What is sent, and sent again.

function add(exchange, open = true) {
  exchanges.set(exchange.number, exchange);
  find("#welcome").hidden = true;
  find("#conversation").append(...bubbles(exchange));
  if (open) for (const other of document.querySelectorAll(".exchange[open]")) other.open = false;
  find("#exchanges").prepend(article(exchange, open));
  const about = exchange.how === BROKEN && find(`#verdict-${exchange.again}`);
  if (about) {
    const [kind, text] = verdict(exchanges.get(exchange.again), exchange);
    about.replaceChildren(asked(), element("span", { class: kind }, text), " See ", link(exchange.number), ".");
  }
  find("#news").textContent = `Exchange ${exchange.number}: ${outcome(exchange)}`;
  scrollDown();
}

function show(number) {
  const wanted = find(`#exchange-${number}`);
  wanted.open = true;
  wanted.scrollIntoView();
  find("summary", wanted).focus({ preventScroll: true });
}

async function send(path, wanted, open, ...waiting) {
  waiting.push(element("div", { class: "message" },
    element("div", { class: "bubble typing", role: "img", "aria-label": "Waiting for the answer" })));
  find("#conversation").append(...waiting);
  scrollDown();
  tell();
  const exchange = await ask(path, wanted).catch((error) => tell(error.message));
  for (const made of waiting) made.remove();
  if (exchange) add(exchange, open);
  return exchange;
}

async function again(exchange, { params = exchange.params, method, broken, signature, how = "as a retry", check }) {
  const [first] = exchange.hops;
  if (broken) {
    // One character is another; where nothing was signed it is a signature of nothing.
    const right = first?.signature || "B".repeat(27) + "=";
    signature = (right[0] === "A" ? "B" : "A") + right.slice(1);
    how = BROKEN;
  }
  const wanted = { params, method: method ?? first?.method, signature, how, again: exchange.number };
  const sent = await send("deliver", wanted, !check);
  if (sent && !check) show(sent.number);
}

find("#compose").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [body, media] = [find("#body"), find("#media")];
  const wanted = { body: body.value, media: media.value };
  body.focus();
  if (!wanted.body.trim() && !wanted.media.trim()) return;
  body.value = media.value = "";
  const urls = wanted.media.split(/\s+/).filter(Boolean);
  const sent = await send("text", wanted, true, message("mine", urls.map((url) => picture(url)), wanted.body));
  if (!sent && !body.value) [body.value, media.value] = [wanted.body, wanted.media];
});

find("#body").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("#compose").requestSubmit();
});

find("#attach").addEventListener("click", () => {
  const row = find("#picture");
  row.hidden = !row.hidden;
  find("#attach").setAttribute("aria-expanded", !row.hidden);
  find(row.hidden ? "#body" : "#media").focus();
});

// Edit: a field without a name is left out.

let edited;

function addRow(name = "", value = "") {
  const row = element("div", { class: "row" },
    element("input", { "aria-label": "Name", value: name, spellcheck: "false" }),
    element("textarea", { "aria-label": `Value of ${name || "it"}`, rows: 1, spellcheck: "false" }, value),
    button("×", () => row.remove(), { "aria-label": `Remove ${name || "this field"}` }));
  find("#rows").append(row);
  return row;
}

function edit(exchange) {
  edited = exchange;
  find("#rows").replaceChildren();
  for (const [name, value] of Object.entries(exchange.params)) addRow(name, value);
  const { method, signature } = find("#edit form").elements;
  method.value = exchange.hops[0]?.method ?? "POST";
  signature.value = "right";
  find("#edit").showModal();
  find("#rows [aria-label='Value of Body']")?.focus();
}

find("#add-row").addEventListener("click", () => find("input", addRow()).focus());

find("#edit form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { method, signature } = event.target.elements;
  const pairs = [...document.querySelectorAll(".row")]
    .map((row) => [find("input", row).value, find("textarea", row).value]);
  find("#edit").close();
  again(edited, {
    params: Object.fromEntries(pairs.filter(([name]) => name)),
    method: method.value,
    how: "edited",
    broken: signature.value === "broken",
    signature: signature.value === "none" ? "" : undefined,
  });
});

// Settings.  The token goes to the server, and never comes back.

function take(fresh) {
  state = fresh;
  const { webhook, public_url, to, method } = state.settings;
  find("#to").textContent = to;
  find("#about").textContent = `${method} ${webhook}${public_url ? `, signed for ${public_url}` : ""}`;
  find("#signing").textContent = state.token ? "signed" : "no token: unsigned";
  find("#signing").className = state.token ? "signed" : "";
  find("#token-state").textContent = state.token
    ? `There is one, from ${state.token}; blank keeps it.` : "There is none, so nothing is signed.";
}

find("#open-settings").addEventListener("click", () => {
  const fields = find("#settings form").elements;
  for (const [name, value] of Object.entries(state.settings)) fields[name].value = value;
  fields.token.value = "";
  fields.unsigned.checked = state.unsigned;
  find("#settings [role=alert]").textContent = "";
  find("#settings").showModal();
});

find("#settings form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = Object.fromEntries(new FormData(event.target));
  try {
    take(await ask("settings", { ...wanted, unsigned: event.target.elements.unsigned.checked }));
    find("#settings").close();
  } catch (error) {
    find("#settings [role=alert]").textContent = error.message;
  }
});

for (const cancel of document.querySelectorAll("[value=cancel]")) {
  cancel.addEventListener("click", () => cancel.closest("dialog").close());
}

async function start(path) {
  const fresh = await ask(path).catch((error) => tell(error.message));
  if (!fresh) return;
  take(fresh);
  exchanges.clear();
  find("#conversation").replaceChildren();
  find("#exchanges").replaceChildren();
  find("#welcome").hidden = false;
  for (const exchange of fresh.exchanges) add(exchange);
  find("#body").focus();
}

find("#forget").addEventListener("click", () => start("forget"));
start("state");
"""

PAGE_FILES = {
    "/": ("text/html", PAGE_HTML),
    "/phone.css": ("text/css", PAGE_CSS.lstrip()),
    "/phone.js": ("text/javascript", PAGE_JS.lstrip()),
}


# ------------------------------------------------------------------ 10. Command line


def main(
    argv: list[str] | None = None,
    *,
    _serve: Callable[[Any], None] = lambda server: server.serve_forever(),
) -> int:
    """Run the command line *argv* and return its exit status; see ``smsreply --help``."""
    # A bot imports smsreply: it must get this module, and not a second copy of it.
    sys.modules.setdefault("smsreply", sys.modules[__name__])
    arguments = sys.argv[1:] if argv is None else argv
    options = command_line().parse_args(arguments or ["serve"])
    options.serve = _serve
    try:
        return int(options.command(options))
    except UsageError as error:
        print(f"smsreply: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def command_line() -> Any:
    """Return the parser of the command line; each command names the function that runs it."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="smsreply",
        description="Answer text messages that Twilio delivers, or play Twilio. Alone: serve.",
    )
    parser.add_argument("--version", action="version", version=f"smsreply {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a handler, and beside it the phone")
    serve.set_defaults(command=run_serve)
    serve.add_argument(
        "handler", nargs="?", help="module:name, module or file.py; else a default reply"
    )
    serve.add_argument(
        "--host", help="the address to listen at (127.0.0.1; with --production 0.0.0.0)"
    )
    serve.add_argument(
        "--port", type=port_number, help=f"the port ({PORT}; with --production $PORT)"
    )
    serve.add_argument("--path", help=f"the path that is answered ({PATH})")
    serve.add_argument(
        "--public-url", help="scheme and host of the URL that Twilio has ($SMSREPLY_PUBLIC_URL)"
    )
    serve.add_argument("--no-verify", action="store_true", help="answer what nobody signed, too")
    serve.add_argument("--production", action="store_true", help="serve with waitress")
    serve.add_argument("--threads", type=int, help="with --production: how many threads (64)")
    phone_port = serve.add_mutually_exclusive_group()
    phone_port.add_argument(
        "--phone-port", type=port_number, default=PHONE_PORT, help=f"({PHONE_PORT})"
    )
    phone_port.add_argument("--no-phone", action="store_true", help="do not serve the phone")

    default = f"http://localhost:{PORT}{PATH}"
    webhook = argparse.ArgumentParser(add_help=False)
    webhook.add_argument(
        "--webhook", default=default, help=f"the URL to send messages to ({default})"
    )
    webhook.add_argument(
        "--public-url",
        help="what the URL is signed for, if that is another ($SMSREPLY_PUBLIC_URL)",
    )
    text = commands.add_parser(
        "text", parents=[webhook], help="send a message as Twilio would, and print the reply"
    )
    text.set_defaults(command=run_text)
    text.add_argument("body", nargs="?", help="the text; without one, a conversation")
    text.add_argument("--from", dest="number", default=PHONE_NUMBER, help=f"({PHONE_NUMBER})")
    text.add_argument("--to", default=YOUR_NUMBER, help=f"({YOUR_NUMBER})")
    text.add_argument("--media", action="append", default=[], metavar="URL", help="a picture's URL")
    text.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter more"
    )
    text.add_argument("--get", action="store_true", help="send it by GET")
    text.add_argument("--verbose", action="store_true", help="print both sides of the wire")

    phone = commands.add_parser(
        "phone", parents=[webhook], help="serve the phone's page, for any webhook"
    )
    phone.set_defaults(command=run_phone)
    phone.add_argument("--port", type=port_number, default=PHONE_PORT, help=f"({PHONE_PORT})")

    explain = commands.add_parser(
        "explain",
        help="say why a signature does not match; the body is read from standard input",
        description="The body is read from standard input, the auth token from TWILIO_AUTH_TOKEN.",
    )
    explain.set_defaults(command=run_explain)
    explain.add_argument("--url", required=True, help="the URL, as the server saw it")
    explain.add_argument("--signature", default="", help="the header X-Twilio-Signature")
    explain.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a field of the form"
    )
    explain.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="another header"
    )
    return parser


def port_number(text: str) -> int:
    number = int(text)  # argparse makes a ValueError a message of its own
    if not 0 <= number < 65536:
        raise ValueError(text)
    return number


def run_serve(options: Any) -> int:
    """Serve the handler that was named, or the application, here or in production."""
    import importlib

    named = module_name((options.handler or "").partition(":")[0])
    if named in [name.partition(".")[0] for name in NEEDED_LATER]:
        raise UsageError(f"{printable(options.handler)} has the name of another module: rename it")
    for name in NEEDED_LATER:
        importlib.import_module(name)
    # Python knows a compiled file's source by its size and second: of two edits within one
    # second, the later one would not be seen.
    sys.dont_write_bytecode = not options.production
    target = quest if options.handler is None else load_from_here(options.handler)
    shaping = ["path"] if options.path is not None else []
    shaping += [name for name in ("public_url", "no_verify") if getattr(options, name)]
    if is_application(target) and shaping:
        option = "--" + shaping[0].replace("_", "-")
        raise UsageError(
            f"{options.handler} is an application: {option} is for a function or a dict, and an App"
            " takes such a thing itself"
        )
    if options.path is not None and not callable(target):
        raise UsageError(
            f"{options.handler} says itself which paths are answered: leave --path out"
        )
    log_to_terminal(logging.WARNING if options.production else logging.DEBUG)
    mention_application(options.handler or "", target)
    return (
        serve_in_production(options, target) if options.production else serve_here(options, target)
    )


# A handler's file that is named like one of these would stand in for Python's own.
NEEDED_LATER = (
    "email.utils", "http.client", "json", "mimetypes", "select", "uuid", "wsgiref.simple_server",
    "xml.etree.ElementTree",
)  # fmt: skip


def load_from_here(target: str) -> Any:
    """Return what *target* names, also if it lies in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # it is the script's folder that Python put there
    return load(target)


def mention_application(handler: str, target: Any) -> None:
    """Say so if the module that was named alone has an App too, which is not served."""
    other = getattr(sys.modules.get(module_name(handler)), "application", None)
    if ":" not in handler and isinstance(other, App) and other is not target:
        log.warning(
            "%s has an App too, which is not served: name it, %s:application", *[handler] * 2
        )


def make_app(options: Any, target: Any, verify: bool, cache: Cache) -> WSGIApplication:
    """Return an application as it is, and a function, or a dict of them, wrapped in an App."""
    if is_application(target):
        return target
    path = path_of(options)
    if not re.fullmatch(PLAIN_PATH, path):
        raise UsageError(
            f"--path {printable(path)}: a path begins with one slash; after it are letters of ASCII,"
            " digits, and any of /:@!$&'()*+,;=._~-"
        )
    try:
        return App(
            {path: target} if callable(target) else target,
            verify=verify,
            public_url=public_url_of(options),
            cache=cache,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def path_of(options: Any) -> str:
    return PATH if options.path is None else options.path or "/"


def path_served(options: Any, target: Any) -> str:
    """Return the path that is answered; an empty string where *target* itself says which."""
    return path_of(options) if callable(target) and not is_application(target) else ""


def public_url_of(options: Any) -> str | None:
    return options.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")


def serve_here(options: Any, target: Any) -> int:
    """Serve for one developer: on loopback, reloading, and with the phone beside it."""
    token = os.environ.get("TWILIO_AUTH_TOKEN", "").strip()
    verify = bool(token) and not options.no_verify
    cache = MemoryCache()  # outlives a reload

    def make() -> WSGIApplication:
        return make_app(
            options, load(options.handler) if options.handler else target, verify, cache
        )

    app = Reloading(options.handler.partition(":")[0], make) if options.handler else make()
    host, port = options.host or "127.0.0.1", PORT if options.port is None else options.port
    server = listening(lambda: serve_development(app, host, port), host, port)
    named = "localhost" if host == "127.0.0.1" else in_url(host)
    port = server.server_address[1]
    path = path_served(options, target)
    webhook = f"http://{named}:{port}{path}"
    print(f"Answering at {webhook} (Ctrl-C stops it)", flush=True)
    warn_of_unsigned(target, verify, token)
    if not options.no_phone:
        public_url = target.public_url if isinstance(target, App) else public_url_of(options)
        phone_beside(options.phone_port, webhook if path else webhook + PATH, public_url)
    try:
        options.serve(server)
    finally:
        server.server_close()
    return 0


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def warn_of_unsigned(target: Any, verify: bool, token: str) -> None:
    """Say so if nobody is answered for want of a token, or anybody for want of a check."""
    if isinstance(target, App) and target.verifies and not target.tokens():
        log.warning("%s", NoToken().reason())
    elif not is_application(target) and not verify:
        cure = "" if token else ": set TWILIO_AUTH_TOKEN"
        log.warning("Unsigned messages are answered, from anybody who reaches this port%s", cure)


def phone_beside(port: int, webhook: str, public_url: str | None) -> None:
    """Serve the phone in a thread; a port that is taken is no reason not to serve the rest."""
    try:
        server = serve_phone(webhook, public_url, port)
    except OSError as error:
        log.warning("The phone is not served: port %d: %s", port, error.strerror or error)
        return
    print(f"Phone at http://localhost:{server.server_address[1]}/", flush=True)
    threading.Thread(target=server.serve_forever, name="smsreply-phone", daemon=True).start()


def serve_in_production(options: Any, target: Any) -> int:
    """Serve for everybody, if Twilio's signature can be checked."""
    app = make_app(options, target, not options.no_verify, MemoryCache())
    if isinstance(app, App) and app.verifies and not app.tokens():
        raise UsageError(
            "set TWILIO_AUTH_TOKEN to your account's auth token: without it nobody is answered"
        )
    if is_application(app) and not isinstance(app, App):
        log.warning("%s is not an App: it has to check itself what Twilio signed", options.handler)
    host = options.host or "0.0.0.0"
    try:
        port = options.port
        if port is None:
            port = port_number(os.environ.get("PORT") or str(PORT))
    except ValueError:
        raise UsageError(f"PORT={os.environ['PORT']!r} is not a port") from None
    threads = 64 if options.threads is None else options.threads
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    try:
        server = listening(lambda: Production(app, host, port, threads), host, port)
    except ImportError:
        raise UsageError(
            "waitress is not installed, and --production needs it: python3 -m pip install waitress"
        ) from None
    at = f"http://{in_url(host)}:{server.server_address[1]}{path_served(options, target)}"
    print(f"Answering at {at} (SIGTERM stops it)", flush=True)
    options.serve(server)
    return 0


def listening(make: Callable[[], Any], host: str, port: int) -> Any:
    """Return the server that *make* makes; an address that cannot be had is a `UsageError`."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(printable(str(error))) from error
    except OSError as error:
        raise UsageError(
            f"cannot listen at {printable(host)}:{port}: {error.strerror or error}"
        ) from error


def show_all_characters() -> None:
    """Escape what the terminal cannot show, and replace what it cannot send, instead of failing."""
    import io

    streams = (sys.stdin, "replace"), (sys.stdout, "backslashreplace")
    for stream, errors in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def log_to_terminal(level: int) -> None:
    """Show what is logged: trouble on stderr, and messages, if *level* is DEBUG, on stdout."""

    # Not a StreamHandler: which stream it is depends on the record.
    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # waitress has a line for each time that it reaches its limit of connections.
            if record.name == "waitress" and seldom.admits(str(record.msg)) is None:
                return
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            try:
                print(self.format(record), file=stream, flush=True)
            except (OSError, ValueError):
                return  # that the terminal was closed is no reason to answer nobody

    show_all_characters()
    seldom = Seldom()
    terminal = Terminal()
    for name, least in (
        ("smsreply", level),
        ("waitress", logging.WARNING),
        ("waitress.queue", logging.ERROR),
    ):
        logging.getLogger(name).setLevel(least)
    for name in ("smsreply", "waitress"):
        logging.getLogger(name).handlers[:] = [terminal]
        logging.getLogger(name).propagate = False


def run_text(options: Any) -> int:
    """Send a message, or each line of standard input; return 0 if all were answered."""
    show_all_characters()
    try:
        phone = Phone(
            options.webhook,
            public_url=public_url_of(options),
            number=options.number,
            to=options.to,
            method="GET" if options.get else "POST",
        )
    except ValueError as error:
        raise UsageError(printable(str(error))) from error
    params = dict(name_and_value(param, "=") for param in options.param)
    if options.body is not None or options.media:
        return text_once(phone, options, options.body or "", params)
    status = 0
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return status
        status = max(status, text_once(phone, options, line.rstrip("\r\n"), params))


def text_once(phone: Phone, options: Any, body: str, params: dict[str, str]) -> int:
    """Send one text, print what people would get, and return the exit status."""
    # Not phone.text(): a --param may well be named "body".
    exchange = phone.deliver(message_params(phone.number, phone.to, body, options.media, params))
    if options.verbose:
        print(exchange.wire())
    for message in exchange.messages:
        for line in (message.body or "").splitlines() or [""]:
            print(printable(line, 10_000))
        for url in message.media:
            print(printable(url))
    if exchange.error:
        print(f"smsreply: {exchange.error}", file=sys.stderr)
    return 1 if exchange.error else 0


def run_phone(options: Any) -> int:
    """Serve the phone alone, for a webhook that somebody else serves."""
    server = listening(
        lambda: serve_phone(options.webhook, public_url_of(options), options.port),
        "127.0.0.1",
        options.port,
    )
    print(f"Phone at http://localhost:{server.server_address[1]}/ (Ctrl-C stops it)", flush=True)
    try:
        options.serve(server)
    finally:
        server.server_close()
    return 0


def run_explain(options: Any) -> int:
    """Print why a signature does not match; return 0 if it does, and 1 if not."""
    show_all_characters()
    token = os.environ.get("TWILIO_AUTH_TOKEN", "")
    if not token.strip():
        raise UsageError(
            "set TWILIO_AUTH_TOKEN to the token that the request should be signed with"
        )
    named = [name_and_value(header, ":") for header in options.header]
    headers = {name.lower(): value for name, value in named}
    body = b"" if options.param or sys.stdin.isatty() else sys.stdin.buffer.read(MAX_BODY)
    params = [name_and_value(param, "=") for param in options.param] or body
    signature = options.signature or headers.get("x-twilio-signature", "")
    algorithm = signature_algorithm(headers.get("x-twilio-webhooks-signature-settings"))
    validator = RequestValidator(token)
    print(validator.explain(options.url, params, signature, algorithm, headers))
    return 0 if validator.validate(options.url, params, signature, algorithm) else 1


def name_and_value(text: str, mark: str) -> tuple[str, str]:
    name, found, value = text.partition(mark)
    if not found or not name.strip():
        raise UsageError(f"{printable(text, 80)!r} is not like NAME{mark}VALUE")
    return name.strip(), value.strip() if mark == ":" else value


if __name__ == "__main__":
    raise SystemExit(main())
