#!/usr/bin/env python3
"""Answer text messages: the whole of your side of a Twilio webhook.

Somebody texts your number.  Twilio makes an HTTP request to your URL with the message in
it.  Your answer, a small XML document called TwiML, is what the person gets back.  You
write a function from the message to the reply:

    import smsreply

    def reply(message):
        return f"You said {message.body!r}."

    application = smsreply.App(reply)

``application`` is a WSGI callable (PEP 3333), so any WSGI host serves it.  This file has
its sections in the order in which a message travels:

    1. Read          the fields of the form, or of the query, within limits.
    2. Verify        that Twilio signed exactly this URL and these fields.
    3. Understand    the fields as a message, with its media and its session.
    4. Write         the handler's reply as TwiML.
    5. Answer        the request: one WSGI callable, one way out for all errors.

    6. Remember      each message, to answer it once, and for longer than 15 seconds.
    7. Serve         with wsgiref in development, with waitress in production.
    8. Command line  smsreply serve; text, phone and explain are the package smsphone's.

The first five are one method, `App.__call__`.  Without the handling of errors, that is:

    handler = self._handler_for(environ)
    fields, query, target = read(environ)                                   # 1. Read
    url, signed_fields, sessions = self._verify(environ, target, fields)    # 2. Verify
    message = understand(fields, query, url)                                # 3. Understand
    cookie_for = sessions.load_into(message, environ.get("HTTP_COOKIE"))
    answer = self._answer(handler, message, signed_fields, cookie_for)      # 4. Write
    start_response(answer.status, answer.headers())                         # 5. Answer
    return [answer.body]

The module needs nothing but Python.  It sends no message on its own (Twilio's REST API
does that), it answers no voice call, and it fetches no picture.

Where the rules are written: Twilio's documentation, "Messaging webhooks", "TwiML for
Programmable Messaging" and "Webhooks security"; PEP 3333 (WSGI); RFC 3986 (URLs);
RFC 9112 (HTTP/1.1); RFC 6265 (cookies); XML 1.0, section 2.2 (characters).
"""

from __future__ import annotations

import sys

# In PyPy str(response) is a plain str, so a customer would be sent the markup as a text.
if sys.version_info < (3, 9, 2) or sys.implementation.name != "cpython":
    sys.exit("smsreply needs CPython 3.9.2 or newer, and this is " + " ".join(sys.version.split()))

import binascii
import collections
import contextlib
import contextvars
import functools
import hashlib
import hmac
import itertools
import logging
import os
import queue
import re
import threading
import time
import weakref
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlencode

TYPE_CHECKING = False  # typing itself is not needed to run, and takes time to import
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from typing import Any, Protocol, TypeVar, Union
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
    from xml.etree import ElementTree

    from typing_extensions import Self, TypeGuard

    class Cache(Protocol):
        """What `App` asks of a cache: four methods of Django's, and of cachelib's."""

        def get(self, key: str) -> Any: ...
        def set(self, key: str, value: Any, timeout: int) -> Any: ...
        def add(self, key: str, value: Any, timeout: int) -> Any: ...
        def delete(self, key: str) -> Any: ...

    class HasTwiML(Protocol):
        """What else may be a reply: the response of Twilio's helper library, say."""

        def to_xml(self) -> Any: ...

    Pairs = list[tuple[str, str]]
    Fields = Union[dict[str, str], Pairs, tuple[()]]  # pairs only if a name comes twice
    Session = dict[str, Any]  # of JSON values
    Part = Union[None, str, "Message", "Redirect"]
    Reply = Union[Part, bytes, HasTwiML, "list[Part]", "tuple[Part, ...]"]
    Handler = Callable[["IncomingMessage"], Union[Reply, Awaitable[Reply]]]
    CookieFor = Callable[[Session], str]
    Headers = tuple[tuple[str, str], ...]
    Tokens = Union[str, bytes, Iterable[Union[str, bytes]]]
    AuthToken = Union[Tokens, Mapping[str, Tokens], None]
    Verb = TypeVar("Verb", bound="TwiML | str")

__version__ = "1.0.0"
__all__ = [
    "SIGNATURE_HEADER", "SIGNATURE_SETTINGS_HEADER", "App", "Body", "IncomingMessage", "Media",
    "MemoryCache", "Message", "MessagingResponse", "RawTwiML", "Receiver", "Redirect", "Refused",
    "RequestValidator", "SQLiteCache", "TwiMLException", "__version__", "application",
    "get_signature_algorithm", "main", "signature_algorithm",
]  # fmt: skip

log = logging.getLogger("smsreply")


# ------------------------------------------------------------------ What can go wrong


class Refused(Exception):
    """A request that gets no TwiML.

    *text* is the one line that the sender gets.  It never quotes the sender, and never
    tells a forger what to do better.  *status* is HTTP's.  *why* is what the log says
    instead, where it says more.  If *why* is a function, it runs only for a line that is
    logged.
    """

    def __init__(
        self, text: str, status: str = "400 Bad Request", why: str | Callable[[], str] = ""
    ) -> None:
        super().__init__(text)
        self.status = status
        self._why = why

    def why(self) -> str:
        """Return what the log says."""
        return (self._why() if callable(self._why) else self._why) or str(self)

    def headers(self) -> Headers:
        # RFC 9110, 15.5.6: a 405 must say which methods there are.
        return (("Allow", "GET, POST"),) if self.status.startswith("405") else ()


def printable(text: str, limit: int = 2000) -> str:
    r"""Return *text* fit for one line of a log or a terminal, cut at *limit* characters.

    Whatever is not printable is escaped, so nobody can forge a line, hide one, or
    colour it:

    >>> printable("Hi\n\x1b[31mERROR all is lost")
    'Hi\\n\\x1b[31mERROR all is lost'
    """
    text = text if len(text) <= limit else text[:limit] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def traceback_text(error: BaseException) -> str:
    """Return the traceback of *error*, fit for a log.

    The text of an exception may be the sender's, line ends included.  So each line begins
    with a bar, which no line of the log itself does.
    """
    import traceback

    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__, -20))
    except Exception as broken:  # an exception's own methods may raise
        text = f"{type(error).__name__}; printing it raised {type(broken).__name__}"
    lines = text[-20_000:].strip().split("\n")
    return "\n".join(["    | " + printable(line) for line in lines])


class Seldom:
    """Lets through one log line of each kind a second, and counts the others.

    So a flood of bad requests costs no more than refusing them.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def suffix_for(self, kind: str) -> str | None:
        """Return what to put behind a line of this *kind*, or None to hold the line back."""
        now = time.monotonic()
        last, held_back = self._seen.get(kind, (now - 1, 0))
        if now - last < 1:
            self._seen[kind] = (last, held_back + 1)
            return None
        self._seen[kind] = (now, 0)
        return f" (and {held_back} more since the last such line)" if held_back else ""


# ---------------------------------------------------------------------------- 1. Read

# In bytes.  A text has at most 1,600 characters, and percent-encoding makes each of them up
# to 12 bytes.  The other fields need some 5 KiB with ten pictures.  The rest is room for new
# fields.
MAX_BODY = 64 * 1024
MAX_QUERY = 64 * 1024
# Twilio sends about 25, and some 60 with media.  Each one costs time to sort and sign.
MAX_FIELDS = 1000

FORM_TYPE = "application/x-www-form-urlencoded"
LENGTH = re.compile("[0-9]{0,19}")
MALFORMED_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
# Scheme, credentials, host (IPv6 in brackets), port, and from the path to the end.
URL_PARTS = re.compile(
    r"(https?)://(?:([^/?#]*)@)?(\[[^\]/?#@]*\]|[^/?#:@]*)(?::(\d*))?([/?].*)?", re.I | re.S
)
# RFC 3986, section 3.3: what may stand in a path as it is.
PATH_CHARACTERS = "/:@!$&'()*+,;=~"


def read(environ: WSGIEnvironment) -> tuple[Fields, Fields, str]:
    """Return the fields of the message, the fields of the query, and the request's target.

    Twilio sends the message as the form that is the body of a POST, or in the query of a
    GET.  Raise `Refused` for whatever is wrong.
    """
    method = environ["REQUEST_METHOD"]
    if method not in ("GET", "POST"):
        raise Refused("only GET and POST are answered", "405 Method Not Allowed")
    check_type(environ.get("CONTENT_TYPE"))
    target = request_target(environ)
    query_string = target.partition("?")[2]
    if len(query_string) > MAX_QUERY:
        raise too_large("query", MAX_QUERY)
    body = read_body(environ) if method == "POST" else b""
    # PEP 3333, "Unicode Issues": each character of an environ's str is a byte.
    query = parse(query_string.encode("latin-1", "replace"), "query") if query_string else {}
    fields = parse(body, "form") if body else query if method == "GET" else {}
    if not fields:
        raise Refused("this is a webhook for Twilio: it answers text messages, and none came")
    return fields, query, target


def too_large(what: str, limit: int) -> Refused:
    return Refused(f"the {what} is longer than {limit} bytes", "413 Content Too Large")


def check_type(content_type: str | None) -> None:
    # wsgiref invents a bare text/plain where the request names no type.
    if not content_type or content_type in (FORM_TYPE, "text/plain"):
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        text = f"the type of a message is {FORM_TYPE}"
        why = f"{text}, and this request has the type {printable(kind, 80)!r}"
        if "json" in kind:
            why += ": App answers forms only; pass a raw JSON body to RequestValidator.validate"
        raise Refused(text, "415 Unsupported Media Type", why)


def request_target(environ: WSGIEnvironment) -> str:
    """Return the path and the query, as raw as the server has them.

    Twilio signs the raw ones.  `read` takes the query from here too, so it reads what
    Twilio signed.
    """
    target = raw_target(environ) or environ.get("smsreply.url")
    if not target:  # the server has only the decoded path: most programs would spell it so
        query = environ.get("QUERY_STRING")
        target = quote(path_of(environ).encode("latin-1", "replace"), safe=PATH_CHARACTERS)
        target += f"?{query}" if query else ""
    target = target.partition("#")[0]  # Twilio signs no fragment, so App must not read one
    if target.startswith("/"):
        return target
    # The absolute form (RFC 9112, 3.2.2).  Scheme and host still come from the server, which
    # knows its proxy.  Servers disagree on what the path of any other form is.
    absolute = URL_PARTS.fullmatch(target)
    if not absolute:
        raise Refused("the request's target is neither a path nor a URL")
    rest: str = absolute[5] or ""
    return rest if rest.startswith("/") else "/" + rest


def raw_target(environ: WSGIEnvironment) -> str:
    """Return the target as the client sent it; "" from a server that keeps no such thing."""
    return environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""


def path_of(environ: WSGIEnvironment) -> str:
    """Return the path, decoded, with a byte in each character."""
    return (environ.get("SCRIPT_NAME") or "") + (environ.get("PATH_INFO") or "") or "/"


def read_body(environ: WSGIEnvironment) -> bytes:
    """Return the whole body; never wait for a byte that the sender did not announce."""
    length = str(environ.get("CONTENT_LENGTH") or "")
    chunked = environ.get("HTTP_TRANSFER_ENCODING")
    # A server that decodes chunks says so by this key: then the input has an end.
    has_end = (chunked or not length) and environ.get("wsgi.input_terminated")
    if chunked and not has_end:
        text = "this server does not decode chunks: send a Content-Length"
        raise Refused(text, "411 Length Required")
    if not (has_end or LENGTH.fullmatch(length)):  # int() takes " 5", "+5" and "1_0" too
        raise Refused("the Content-Length is not a number")
    # Of an input with an end, one byte more than the limit tells that it is too long.
    size = MAX_BODY + 1 if has_end else int(length or 0)
    if size > MAX_BODY and not has_end:  # anybody may have sent this, so App reads none of it
        raise too_large("body", MAX_BODY)
    body, stream = b"", environ["wsgi.input"]
    try:
        # Some servers return what has come so far.
        while len(body) < size and (more := stream.read(size - len(body))):
            body += more
    except Exception as error:  # the client left, sent nothing for long, or sent bad chunks
        raise Refused("the body did not come") from error
    if has_end and len(body) == size:
        raise too_large("body", MAX_BODY)
    if len(body) < size and not has_end:
        raise Refused("the body is shorter than its Content-Length, or was read before")
    return body


def parse(form: bytes, name: str = "form") -> Fields:
    """Return the fields of *form*, blank ones too: as a dict, or as pairs if a name repeats.

    Raise `Refused` for a malformed form.  Its text calls the form *name*.

    >>> parse(b"From=%2B14017122661&FromZip=&Body=Caf%C3%A9+%26+cake")
    {'From': '+14017122661', 'FromZip': '', 'Body': 'Café & cake'}
    """
    marks = form.translate(None, PLAIN_BYTES)
    if marks.count(b"&") >= MAX_FIELDS:
        raise Refused(f"the {name} has over {MAX_FIELDS} fields")
    try:
        return parse_at_once(form, marks) or parse_each(form.decode(), name)
    except UnicodeDecodeError as error:
        raise Refused(f"the {name} is not UTF-8") from error


def parse_each(form: str, name: str) -> Fields:
    if MALFORMED_ESCAPE.search(form):
        raise Refused(f"the {name} has a % that is not followed by two hex digits")
    pairs = parse_qsl(form, keep_blank_values=True, errors="strict", separator="&")
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else pairs


# --- Fast path: what parse_each does, at a tenth of the cost.  Skip it at a first reading.

# A form's four marks, each with the byte that replaces it: "=" and " " are what quoted-
# printable has for % and +.  U+0000 replaces & and =, so that one split parts all names and
# values.  (A form with U+0000 in a value is left to parse_each.)
FORM_MARKS = bytes.maketrans(b"%+&=", b"= \x00\x00")
# All bytes but those that parse_at_once must see.  These are & and =, whose order it checks,
# and two kinds that it leaves to parse_each: ends of lines, since quoted-printable may join
# lines, and bytes beyond ASCII, since such a byte and an escape may be one letter together.
PLAIN_BYTES = bytes(set(range(128)) - set(b"&=\r\n"))


def parse_at_once(form: bytes, marks: bytes) -> dict[str, str]:
    """Return the fields, or {} where that is not certain.

    This decodes the whole form at once, as quoted-printable, which writes ``=2B`` for
    ``%2B``.  With a dot for U+0000: ``a=%2B+c&b=`` becomes ``a.=2B c.b.``, and then
    ``a.+ c.b.``.  The fields are certain if each has one "=", if each escape made the form
    two bytes shorter, if each U+0000 stands for a mark, and if no name comes twice.
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


# -------------------------------------------------------------------------- 2. Verify

SIGNATURE_HEADER = "X-Twilio-Signature"
SIGNATURE_SETTINGS_HEADER = "X-Twilio-Webhooks-Signature-Settings"
HMAC_SHA1 = "HMAC_SHA1"
HMAC_SHA256 = "HMAC_SHA256"
HASHES = {HMAC_SHA1: "sha1", HMAC_SHA256: "sha256"}
DEFAULT_PORTS = {"https": "443", "http": "80"}
MORE_THAN_A_HOST = re.compile(r"[/?#@\\]")
# An AccountSid or the SID of an API key: the values beside the secrets in Twilio's console.
SID = re.compile(rb"\s*(AC|SK)[0-9a-fA-F]{32}\s*")


def requested_urls(environ: WSGIEnvironment, target: str, public_url: str | None) -> Iterator[str]:
    """Yield the URLs of *target* that Twilio may have requested, the likeliest first.

    *public_url* stands for the scheme, the host and the path prefix that only a proxy has
    seen.  This ignores ``X-Forwarded-*`` headers: anybody can send them.
    """
    if not target.isascii():
        target = target.encode("latin-1", "replace").decode("utf-8", "replace")
    origin = public_url or server_origin(environ)
    yield origin + target
    path, mark, query = target.partition("?")
    if public_url and path == "/":  # a router stripped the path; Twilio's may have no slash
        yield origin + mark + query
    if raw_target(environ):
        return
    # The server has lost the raw form.  These are the usual spellings.
    plain = unquote_to_bytes(path)
    paths = [path] + [quote(plain, safe=safe) for safe in ("/", "/:@", PATH_CHARACTERS)]
    paths += [re.sub("%..", lambda escape: escape[0].lower(), other) for other in paths]
    pairs = parse_qsl(query, keep_blank_values=True, separator="&")
    queries = [query, query.replace("%20", "+"), query.replace("+", "%20")]
    queries += [urlencode(pairs, safe=safe) for safe in ("", "/:@", "*'()!~")]
    queries += [again.replace("+", "%20") for again in queries]
    ends = ["?" + again if again else "" for again in queries] + ["?"] * (not query)
    for other, end in itertools.product(dict.fromkeys(paths), dict.fromkeys(ends)):
        yield origin + other + end


def server_origin(environ: WSGIEnvironment) -> str:
    """Return the scheme, host and port that the request named, with no slash at the end."""
    scheme, host = environ["wsgi.url_scheme"], environ.get("HTTP_HOST")
    if not host:
        name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
        host = f"[{name}]" if ":" in name and name[0] != "[" else name
        host += "" if port == DEFAULT_PORTS.get(scheme) else f":{port}"
    # With "Host: abc.example/other?" App would check the signature for a path in the Host,
    # and answer another one: that of the request.
    elif MORE_THAN_A_HOST.search(host):
        raise Refused("the Host is more than a host")
    return f"{scheme}://{host}"


def other_spellings(uri: str) -> Iterator[str]:
    """Yield the other forms in which Twilio may have signed *uri*, the likeliest first.

    Twilio signs some requests with the port in the URL and some without; it drops
    credentials or keeps them; it puts "/" where there is no path, or does not.  Its helper
    libraries accept these forms, too.  A forger can sign none of them.
    """
    parts = URL_PARTS.fullmatch(uri)
    if not parts:
        return
    scheme, credentials, host, port, rest = parts.groups(default="")
    path, mark, query = rest.partition("?")
    users = ["", f"{credentials}@"] if credentials else [""]
    names = [host, f"{host}:{port or DEFAULT_PORTS[scheme.lower()]}"]
    paths = ["", "/"] if path in ("", "/") else [path]
    for user, name, path in itertools.product(users, names, paths):
        spelled = f"{scheme}://{user}{name}{path}{mark}{query}"
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


def accepts(signers: list[Signer], signature: bytes, string: str, algorithm: str) -> bool:
    """Return whether one of *signers* made *signature* of *string*, in constant time."""
    same = [hmac.compare_digest(each.sign(string, algorithm), signature) for each in signers]
    return any(same)


def signature_algorithm(settings: str | None) -> str:
    """Return the algorithm that X-Twilio-Webhooks-Signature-Settings names.

    >>> signature_algorithm("key=SK1,algorithm=HMAC_SHA256")
    'HMAC_SHA256'
    """
    return signature_setting(settings, "algorithm") or HMAC_SHA1


get_signature_algorithm = signature_algorithm  # its name in Twilio's helper library


def signature_setting(settings: str | None, wanted: str) -> str:
    pairs = [part.partition("=") for part in (settings or "").split(",")]
    values = [value.strip() for name, _, value in pairs if name.strip() == wanted]
    return next(filter(None, values), "")


def to_bytes(value: str | bytes | bytearray) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)


def to_pairs(params: Any) -> Pairs:
    """Return the fields of *params*, whatever a framework holds them in.

    That is a dict, also of lists; a MultiDict or QueryDict (``getall``, ``getlist``);
    pairs; a form's body as str or bytes; or None.
    """
    if isinstance(params, (str, bytes, bytearray)):
        form = to_bytes(params).decode("utf-8", "replace")
        return parse_qsl(form, keep_blank_values=True, separator="&")
    values_of = getattr(params, "getall", None) or getattr(params, "getlist", None)
    if values_of:
        params = {name: values_of(name) for name in set(params)}
    pairs = []
    for name, value in params.items() if hasattr(params, "items") else params or ():
        values = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
        pairs += [(str(name), "" if one is None else str(one)) for one in values]
    return pairs


def to_tokens(auth_token: Tokens | None) -> list[bytes]:
    """Return one account's tokens, in order, without the blank ones.

    Raise ValueError for an SID, which is no secret, and TypeError for what is neither a
    str, nor bytes, nor an iterable of these.
    """
    # Not a mapping: its keys would count as tokens, and an AccountSid is no secret.
    one = isinstance(auth_token, (str, bytes)) or hasattr(auth_token, "keys")
    several = hasattr(auth_token, "__iter__") and not one
    tokens: list[Any] = list(auth_token or ()) if several else [auth_token or ""]
    for token in tokens:
        if not isinstance(token, (str, bytes)):
            raise TypeError(f"an auth token is a str or bytes, not a {type(token).__name__}")
        if SID.fullmatch(to_bytes(token)):
            sid = to_bytes(token).strip().decode()
            raise ValueError(f"{sid} is an SID, which is no secret: pass the auth token beside it")
    return [to_bytes(token) for token in tokens if token.strip()]


def token_of_environment() -> str:
    return os.environ.get("TWILIO_AUTH_TOKEN", "").strip()  # a secret's file ends in a newline


class RequestValidator:
    """Twilio's signature, with the interface of its helper library's class of this name.

    *token* is the account's auth token, or the secret of a SharedKey, or a list of
    several: each is accepted, and the first one signs.  Raise ValueError if it is blank,
    or an SID; raise TypeError if it is not a str, bytes or several of them.

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

    def __init__(self, token: Tokens) -> None:
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
            raise ValueError(f"{printable(algorithm, 40)!r} is neither {' nor '.join(HASHES)}")
        uri = uri.partition("#")[0]  # Twilio never requests a fragment, so it signs none
        return self._signers[0].sign(signed_string(uri, to_pairs(params)), algorithm).decode()

    def compute_hash(self, body: str | bytes | bytearray) -> str:
        """Return the SHA-256 of *body* in hex, as ``bodySHA256`` has it for a JSON body."""
        return hashlib.sha256(to_bytes(body)).hexdigest()

    def validate(
        self, uri: str, params: Any, signature: str | bytes | None, algorithm: str | None = None
    ) -> bool:
        """Return whether Twilio signed a request for *uri* with *params*.

        *uri* is the whole URL, query included, as Twilio requested it.  *params* are the
        fields of a POST's form (see `to_pairs`), or None or empty for a GET.  Where the
        URL has a ``bodySHA256``, *params* is the raw body, as str or bytes.  *algorithm*
        is what `signature_algorithm` reads from the header X-Twilio-Webhooks-Signature-
        Settings.  No text of *signature* or *algorithm* makes this raise anything.
        """
        algorithm = (algorithm or HMAC_SHA1).upper()
        if algorithm not in HASHES:
            log.warning("%r is not an algorithm known here", printable(algorithm, 40))
        uri, _, _ = uri.partition("#")  # Twilio never requests a fragment, so it signs none
        hashes = body_hashes(uri)
        if hashes:
            # Of two hashes, nobody knows which one is meant.
            if len(hashes) > 1 or not isinstance(params, (str, bytes, bytearray)):
                return False
            if not hmac.compare_digest(to_bytes(self.compute_hash(params)), to_bytes(hashes[0])):
                return False
            params = None
        return self.matches(uri, signed_string("", to_pairs(params)), signature or "", algorithm)

    def matches(self, uri: str, signed_fields: str, signature: str | bytes, algorithm: str) -> bool:
        """Return whether a token signed *uri*, or another spelling of it, with these fields.

        *signed_fields* is what `signed_string` makes of the fields.  *uri* has no fragment.
        """
        given, algorithm = to_bytes(signature), algorithm.upper()
        if algorithm not in HASHES:
            return False
        return accepts(self._signers, given, uri + signed_fields, algorithm) or any(
            accepts(self._signers, given, other + signed_fields, algorithm)
            for other in other_spellings(uri)
        )


def body_hashes(uri: str) -> list[str]:
    """Return each ``bodySHA256`` in the query of *uri*: one, if the body is not a form."""
    query = uri.partition("#")[0].partition("?")[2]
    pairs = parse_qsl(query, True, separator="&") if "bodySHA256" in query else []
    return [value for name, value in pairs if name == "bodySHA256"]


# --- Why a signature does not match: the likely causes.  smsphone.explain finds the others.

ADVICE = 'pass public_url="{}"'
# Limits on the search for the cause: how many URLs are tried, and how many characters are
# hashed in all.  It takes some 10 ms at most.
MAX_TRIES = 500
MAX_TRIED = 512 * 1024
# What gateways strip from the front of a path.
STAGES = ("/prod", "/dev", "/stage", "/staging", "/test", "/default", "/api", "/v1", "/twilio")


def why_not_signed(
    validator: RequestValidator, environ: WSGIEnvironment, url: str, signed_fields: str, advice: str
) -> str:
    """Return why *validator* refuses a request, and the cure, with nothing about a person."""
    headers = {
        name[5:].replace("_", "-").lower(): str(value)[:1000]
        for name, value in environ.items()
        if name.startswith("HTTP_") and value
    }
    signature = headers.get("x-twilio-signature", "")
    if not signature:
        return (
            f"there is no {SIGNATURE_HEADER}: Twilio did not send this request, or something on"
            " the way drops that header"
        )
    settings = headers.get("x-twilio-webhooks-signature-settings")
    algorithm, key = signature_algorithm(settings), signature_setting(settings, "key")
    if algorithm.upper() not in HASHES:
        return f"{printable(algorithm, 40)!r} is not an algorithm that Twilio uses"
    tries = min(MAX_TRIES, MAX_TRIED // len(url + signed_fields)) // len(validator.tokens)
    for other, cure in itertools.islice(likely_urls(url, headers, advice), tries):
        if validator.matches(other, signed_fields, signature, algorithm):
            return f"signed for {shown(other)}: {cure}"
    if key:
        key = printable(key, 60)
        return f"it is signed with SharedKey {key}: add that key's secret to the auth tokens"
    its_host = printable(headers.get("x-forwarded-host", ""), 100)
    raw = raw_target(environ) or environ.get("smsreply.url")
    lost = "" if raw else " (this host passes on no raw path, so escapes in it may be lost)"
    return (
        f"the signature fits neither {shown(url)} nor a URL much like it: if the URL in Twilio's"
        f" console has another scheme or host, {advice.format('<that URL up to this path>')}; if not,"
        f" check the auth token{lost}"
        + (f" (the header X-Forwarded-Host says {its_host})" if its_host else "")
    )


def shown(url: str) -> str:
    """Return *url* without its credentials and its query, which nobody needs to read."""
    return printable(re.sub("//[^/?#]*@", "//", url).partition("?")[0], 300)


def likely_urls(
    url: str, headers: Mapping[str, str], advice: str = ADVICE
) -> Iterator[tuple[str, str]]:
    """Yield the URLs that Twilio may have signed instead of *url*, each with the cure.

    *headers* have their names in lower case.  What a proxy adds to them serves as a hint
    for the log, and never lets a request in.
    """
    came = URL_PARTS.fullmatch(url)
    if not came:
        return
    rest = came[5] or ""
    path, mark, query = rest.partition("?")
    publics = {other: advice.format(shown(other)) for other in public_urls_like(came, headers)}
    publics[url.removesuffix(rest)] = ""
    for other, cure in [(path, ""), *paths_like(path)]:
        for public, advised in publics.items():
            if advised or cure:
                yield f"{public}{other}{mark}{query}", "; ".join(filter(None, (advised, cure)))


def public_urls_like(came: re.Match[str], headers: Mapping[str, str]) -> Iterator[str]:
    """Yield scheme, host, port and prefix as a proxy may have seen them, the likeliest first."""
    scheme, _, host, port, _ = came.groups(default="")
    forwarded = [f"x-forwarded-{name}" for name in ("proto", "host", "port", "prefix")]
    proto, its_host, its_port, prefix, asked = [
        re.sub(r"[?#@\\\s]", "", headers.get(name, "").partition(",")[0]).strip("/")
        for name in (*forwarded, "host")
    ]
    own = f"{host}:{port}" if port else host
    bare = re.sub(r":\d*$", "", its_host or own)
    hosts = [its_host or own, bare, f"{bare}:{its_port}" if its_port else own, own, host]
    hosts += [asked] if asked else []
    hosts += [host[4:] if host.startswith("www.") else f"www.{host}", host.lower()]
    schemes = [proto] if proto in DEFAULT_PORTS else []
    schemes += ["http" if scheme.lower() == "https" else "https", scheme.lower()]
    prefixes = [f"/{prefix}" if prefix else "", "", *STAGES]
    for stripped, name, each in itertools.product(*map(dict.fromkeys, (prefixes, hosts, schemes))):
        yield f"{each}://{name}{stripped}"


def paths_like(path: str) -> Iterator[tuple[str, str]]:
    """Yield what Twilio may have requested where the server saw *path*, with the cure."""
    if path in ("", "/"):  # a router stripped the path; Twilio's may have no slash
        yield "", ""
        return
    alike = "the URL in Twilio's console {}: give it and the server the same path"
    slash = "has no slash at its end" if path.endswith("/") else "ends in a slash"
    yield path[:-1] if path.endswith("/") else path + "/", alike.format(slash)
    if "//" in path:
        yield re.sub("/+", "/", path), alike.format("has one slash where the server got two")
    steps = path.split("/")
    for count in range(2, min(len(steps), 5)):
        extra = printable("/".join(steps[:count]), 100)
        cure = "Twilio's URL has no {}: leave it out of public_url, or of the server's mount point"
        yield "/" + "/".join(steps[count:]), cure.format(extra)


# ---------------------------------------------------------------------- 3. Understand


class IncomingMessage(dict[str, str]):
    """A text message, or whatever else Twilio sends: a dict of Twilio's names and values.

    All parameters are there, blank ones too.  Where a name comes twice, the last value
    counts.  Twilio adds parameters without notice, so look them up by name:
    ``message.get("ProfileName", "")``.

    *url* is the URL as Twilio requested it.  *query* is a dict of its query: what you added
    to the webhook's URL; in a GET, the message's fields too.  *session* is a dict of JSON
    values, kept for this pair of numbers for up to four hours (see `Sessions`).  As JSON has
    it, a tuple in it comes back as a list, and a number that is a key in it as a str.

    >>> message = IncomingMessage({"From": "+14017122661", "Body": "Hello", "NumMedia": "0"})
    >>> message.from_, message.body, message.media
    ('+14017122661', 'Hello', ())
    """

    def __init__(
        self,
        fields: Fields = (),
        *,
        url: str = "",
        query: Fields = (),
        session: Session | None = None,
    ) -> None:
        super().__init__(fields)
        self.url = url
        self.query: dict[str, str] = dict(query) if query else {}
        self.session: Session = dict(session) if session else {}

    @property
    def sid(self) -> str:
        """Twilio's name for the message: ``SM`` or ``MM``, and 32 hex digits."""
        return self.get("MessageSid") or self.get("SmsSid") or ""

    @property
    def from_(self) -> str:
        """Where it came from: ``+14017122661``, ``whatsapp:+14017122661``."""
        return self.get("From", "")

    @property
    def sender(self) -> str:
        """Who wrote it: a key for a database of people.

        This is ``ExternalUserId`` where Twilio sends one, else ``From``.  A WhatsApp user
        who takes a username may hide the number: then ``From`` changes, and this does not.
        """
        return self.get("ExternalUserId") or self.from_

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
        numbers = itertools.takewhile(lambda n: f"MediaUrl{n}" in self, itertools.count())
        media = [(self[f"MediaUrl{n}"], self.get(f"MediaContentType{n}", "")) for n in numbers]
        return tuple(media)


def understand(fields: Fields, query: Fields, url: str) -> IncomingMessage:
    """Return what Twilio sent: a message, a status callback, any other event."""
    message = IncomingMessage(fields, url=url, query=query)
    # Numbers and texts are personal, so only DEBUG has them.  The development server shows it.
    if log.isEnabledFor(logging.DEBUG):
        line = "Incoming message from %s: %s", message.from_, message.body
        if "MessageStatus" in message:
            line = "Status of the message to %s: %s", message.to, message["MessageStatus"]
        elif "EventType" in message or not message.from_:
            line = (
                "Incoming event %s: %s",
                message.get("EventType") or "without a type",
                ", ".join(message),
            )
        log.debug(line[0], *map(printable, line[1:]))
    return message


COOKIE_AGE = 4 * 60 * 60  # in seconds: as long as Twilio keeps one


class Sessions:
    """What a conversation remembers, in a cookie: without a database, on any machine.

    Twilio keeps cookies for each pair of numbers, for at most four hours, and sends them
    with the pair's next message.  Twilio's signature does not cover them, so the cookie
    has a signature of its own:

        1.TIME.base64(JSON).base64(HMAC-SHA256(key, "1.TIME.base64(JSON)" NUL from NUL to))

    The key is derived from the token.  (Without verification it is a random one of this
    process.)  Twilio can read the cookie: it is signed, not encrypted.  The session is
    empty if somebody changed the cookie, if it is older than four hours, or if it belongs
    to another pair.
    """

    NAME = "smsreply"
    MAX_COOKIES = 16384  # bytes, of all the cookies of a request: more are not looked at
    MAX_COOKIE = 4096  # bytes, name and attributes included: RFC 6265, section 6.1

    def __init__(self, tokens: list[bytes]) -> None:
        keys = [hmac.digest(token, b"smsreply session", "sha256") for token in tokens]
        self._signers = [Signer(key) for key in keys]

    def load_into(self, message: IncomingMessage, cookies: str | None) -> CookieFor:
        """Fill in the session of *message*; return a function from a session to its cookie.

        That function has what it needs of the message: the handler may change its message.
        """
        pair, secure = (message.from_, message.to), message.url.startswith("https:")
        text = self._genuine(pair, cookies) if cookies and len(cookies) <= self.MAX_COOKIES else ""
        if text:
            import json

            try:
                message.session = json.loads(text)
            except RecursionError:  # more of the stack was free when it was written
                text = ""
        return functools.partial(self._cookie, pair, secure, text)

    def _genuine(self, pair: tuple[str, str], cookies: str) -> str:
        """Return the JSON in the first genuine cookie of this pair; "" if there is none."""
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            content, _, signature = value.rpartition(".")
            string, given = "\0".join((content, *pair)), to_bytes(signature)
            if name == self.NAME and accepts(self._signers, given, string, HMAC_SHA256):
                # Some version of smsreply wrote this: if not this one, it may look different.
                version, *rest = content.split(".")
                if version == "1" and time.time() - int(rest[0]) <= COOKIE_AGE:
                    return binascii.a2b_base64(rest[1]).decode()
        return ""

    def _cookie(self, pair: tuple[str, str], secure: bool, before: str, session: Session) -> str:
        """Return the ``Set-Cookie`` for *session*; "" if it is still the JSON *before*.

        Raise TypeError or ValueError for what is not JSON, and ValueError for too much of it.
        """
        text = json_of(session) if session else ""
        if text == before:
            return ""
        attributes = "; HttpOnly; Secure" if secure else "; HttpOnly"
        if not text:
            return f"{self.NAME}=; Path=/; Max-Age=0{attributes}"
        encoded = binascii.b2a_base64(text.encode(), newline=False).decode()
        content = f"1.{int(time.time())}.{encoded}"
        signed = self._signers[0].sign("\0".join((content, *pair)), HMAC_SHA256).decode()
        cookie = f"{self.NAME}={content}.{signed}; Path=/; Max-Age={COOKIE_AGE}{attributes}"
        if len(cookie) > self.MAX_COOKIE:
            size = f"{len(cookie)} bytes: keep less in it, {self.MAX_COOKIE} is the most"
            raise ValueError(f"the session takes a cookie of {size}")
        return cookie


def json_of(session: Session) -> str:
    import json

    # json.dumps would silently make a str of a number; deeper down that is not checked.
    if not (isinstance(session, dict) and all(isinstance(key, str) for key in session)):
        raise TypeError("the session is a dict, and each of its keys is a str")
    return json.dumps(session, separators=(",", ":"), allow_nan=False)


# --------------------------------------------------------------------------- 4. Write

# In bytes: Twilio refuses a longer document (error 11750).
MAX_TWIML = 64 * 1024
# In UTF-16 units, to be on the safe side: Twilio refuses a longer message (error 14103).
MAX_MESSAGE = 1600
# Twilio sends no more in reply to one message (error 14109).
MAX_MESSAGES = 10

# One message of a text, as long as it may be.  A character of two UTF-16 units has a U+0000
# behind it here (see `split_text`), and the two are never parted.
PIECE = re.compile(
    rf"(?s).{{1,{MAX_MESSAGE}}}\Z"  # all the rest, if it fits
    rf"|.{{0,{MAX_MESSAGE - 1}}}\s"  # or else up to white space
    rf"|.{{1,{MAX_MESSAGE}}}(?!\0)"  # or else a part of a long word
)
XML_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
EMPTY = f"{XML_DECLARATION}<Response />".encode()
BEFORE_TEXTS, BEHIND_TEXTS = f"{XML_DECLARATION}<Response><Message>", "</Message></Response>"
CANNOT_BE_A_REPLY = (
    "something of the type {} cannot be a reply. A handler returns None, a str, a Message, a"
    " Redirect, or a list or tuple of these; or, by itself, a MessagingResponse, RawTwiML, bytes,"
    " or an object with to_xml()"
)

# What XML 1.0, section 2.2, does not allow.  ElementTree writes these characters all the
# same, and Twilio cannot read the document: error 12100.
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Twilio's names are all ASCII.  ElementTree does not check a name.
XML_NAME = re.compile(r"(?:xml:)?[A-Za-z_][A-Za-z0-9_.-]*")


class Element:
    """What an element of one name may take and hold: a row of `ELEMENTS`.

    *text* names the argument that becomes the element's text; a "?" after the name says
    that there may be none.  *attributes* and *holds* are names with spaces between them.  The
    attributes are in the order of the helper library's arguments.
    """

    def __init__(self, text: str, attributes: str = "", holds: str = "") -> None:
        self.text, self.optional = text.rstrip("?"), text.endswith("?")
        self.arguments = f"{self.text} {attributes}".split()
        self.attributes = tuple(attributes.split())
        self.holds = tuple(holds.split())


# Twilio's verbs for messages, and their nouns.  This module writes TwiML by this table, and
# smsphone reads it by the same.
ELEMENTS = {
    "Response": Element("?", "", "Message Redirect"),
    "Message": Element("body?", "to from action method statusCallback", "Body Media"),
    "Redirect": Element("url", "method"),
    "Body": Element("message"),
    "Media": Element("url"),
}


class TwiMLException(Exception):
    """TwiML that cannot be written."""


class RawTwiML(str):
    """TwiML as a document, to be sent as it is; a plain str is text.

    ``str(response)`` makes one.  You can write one by hand:
    ``RawTwiML("<Response>…</Response>")``; then you must escape each text in it.
    """

    __slots__ = ()


def xml_text(text: str) -> str:
    """Return *text*, as a plain str, without the characters that XML cannot carry."""
    text = text if type(text) is str else str.__str__(text)  # a subclass may override str()
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
    """An element: a name, attributes, a text, and what is nested in it, in order.

    The interface is that of Twilio's helper library, and so is every byte written, unless
    the helper library would lose data or write invalid XML.
    """

    name = "TwiML"

    def __init__(self, *values: Any, **attributes: Any) -> None:
        element = ELEMENTS.get(self.name) or Element("value?")
        if len(values) > len(element.arguments):
            raise TypeError(f"<{self.name}> takes no {len(values)} arguments without a name")
        named = dict(zip(element.arguments, values))
        for keyword, value in attributes.items():
            name = attribute_name(keyword)
            if name in named:
                raise TypeError(f"<{self.name}> got its {name} twice")
            named[name] = value
        # A str, a dict (written as JSON), or None.
        self.value: Any = named.pop(element.text, None)
        if self.value is None and not element.optional:
            raise TypeError(f"<{self.name}> needs its {element.text}")
        if not (self.value is None or isinstance(self.value, (str, dict))):
            kind = type(self.value).__name__
            raise TwiMLException(f"the text of <{self.name}> is a str, and not of the type {kind}")
        self.attrs: dict[str, Any] = {
            xml_name(name): value for name, value in named.items() if value is not None
        }
        self.verbs: list[TwiML | str] = []

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

    def nest(self, verb: Verb) -> Verb:
        """Append *verb*, an element or a text; return *verb*."""
        if not isinstance(verb, (TwiML, str)):
            raise TwiMLException(f"<{self.name}> holds TwiML and str, not {type(verb).__name__}")
        self.verbs.append(verb)
        return verb

    def comment(self, text: str) -> Self:
        """Append a comment, which Twilio ignores; return this element."""
        return self.append(Comment(text))

    def add_child(self, name: str, value: Any = None, **attributes: Any) -> TwiML:
        """Append an element of any *name*; return the new element."""
        child = TwiML(value, **attributes)
        child.name = xml_name(name)
        return self.nest(child)

    def xml(self) -> ElementTree.Element:
        """Return an ElementTree element.  Raise `TwiMLException` for what cannot be one."""
        from xml.etree import ElementTree  # a reply that is only text needs none

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
                element.text += xml_text(verb)
            else:
                last.tail = (last.tail or "") + xml_text(verb)
        return element

    def _text(self) -> str:
        if not isinstance(self.value, dict):
            return xml_text(self.value or "")
        import json

        return xml_text(json.dumps(self.value)) if self.value else ""

    def to_xml(self, xml_declaration: bool = True) -> RawTwiML:
        """Return the document; without *xml_declaration*, the element alone."""
        from xml.etree import ElementTree

        xml = ElementTree.tostring(self.xml(), encoding="unicode")
        return RawTwiML(XML_DECLARATION + xml if xml_declaration else xml)


class Comment(TwiML):
    """``<!-- text -->``, in which a ``-`` cannot stand beside another, nor at the end."""

    name = "Comment"

    def _element(self, tree: Any) -> ElementTree.Element:
        # ElementTree writes a comment as it is, valid or not.
        comment: ElementTree.Element = tree.Comment(re.sub("-(?=-|$)", "- ", self._text()))
        return comment


class Body(TwiML):
    """``<Body>``: a text in a `Message`.  Twilio joins several to one text."""

    name = "Body"


class Media(TwiML):
    """``<Media>``: the URL of a picture, say, that Twilio fetches and sends."""

    name = "Media"


class Redirect(TwiML):
    """``<Redirect>``: Twilio asks another URL, by *method*, and ignores what follows."""

    name = "Redirect"


class Message(TwiML):
    """``<Message>``: a text, or `Body` and up to ten `Media`, for one person.

    The arguments: *body*, *to* (by default the sender), *from_* (the number that got the
    message), *action*, *method*, *status_callback*.  Twilio tells the URL *action*, by
    *method*, that the message is sent, and obeys that URL's answer instead of the verbs
    that follow this one.  Twilio tells the URL *status_callback* each time the message's
    status changes, and ignores the answers.
    """

    name = "Message"

    def body(self, *values: Any, **attributes: Any) -> Body:
        """Add a `Body` with these arguments, and return it."""
        return self.nest(Body(*values, **attributes))

    def media(self, *values: Any, **attributes: Any) -> Media:
        """Add a `Media` with these arguments, and return it."""
        return self.nest(Media(*values, **attributes))


class MessagingResponse(TwiML):
    """``<Response>``: what Twilio does with a message, verb by verb.

    >>> response = MessagingResponse()
    >>> response.message("Fish & chips").media("https://abc.example/fish.jpg").name
    'Media'
    >>> print(response.to_xml(xml_declaration=False))
    <Response><Message>Fish &amp; chips<Media>https://abc.example/fish.jpg</Media></Message></Response>
    """

    name = "Response"

    def message(self, *values: Any, **attributes: Any) -> Message:
        """Add a `Message` with these arguments, and return it."""
        return self.nest(Message(*values, **attributes))

    def redirect(self, *values: Any, **attributes: Any) -> Redirect:
        """Add a `Redirect` with these arguments, and return it."""
        return self.nest(Redirect(*values, **attributes))


def twiml(reply: Reply) -> bytes:
    """Return the document that Twilio gets when a handler has returned *reply*.

    Raise TypeError for what cannot be a reply, and ValueError for what Twilio would
    refuse: over 64 kB, or over ten messages.

    >>> twiml("Fish & chips").decode()
    '<?xml version="1.0" encoding="UTF-8"?><Response><Message>Fish &amp; chips</Message></Response>'
    """
    document = document_of(reply)
    size, messages = len(document), document.count(b"<Message")
    if size > MAX_TWIML:
        raise ValueError(f"the TwiML has {size} bytes, and Twilio refuses more than {MAX_TWIML}")
    if messages > MAX_MESSAGES:
        many = f"{messages} messages, and Twilio sends {MAX_MESSAGES} at most (error 14109)"
        raise ValueError(f"the reply is {many}: each {MAX_MESSAGE} characters are one message")
    return document


def document_of(reply: Any) -> bytes:
    if reply is None or (isinstance(reply, str) and not isinstance(reply, RawTwiML)):
        return document_of_texts(split_text(xml_text(reply))) if reply else EMPTY
    if isinstance(reply, (RawTwiML, bytes)):
        # PEP 3333 wants bytes itself, and no subclass of it.
        return bytes(reply) if isinstance(reply, bytes) else reply.encode()
    if isinstance(reply, MessagingResponse) or (
        hasattr(reply, "to_xml") and not isinstance(reply, TwiML)
    ):
        document = reply.to_xml()
        if not isinstance(document, (str, bytes)):
            raise TypeError(f"to_xml() returns a document, and not {type(document).__name__}")
        return bytes(document) if isinstance(document, bytes) else document.encode()
    response = MessagingResponse()
    for part in reply if isinstance(reply, (list, tuple)) else [reply]:
        if isinstance(part, (Message, Redirect)):
            response.nest(part)
        elif isinstance(part, str) and not isinstance(part, RawTwiML):
            for text in split_text(xml_text(part)):
                response.message(text)
        elif part is not None:
            raise TypeError(CANNOT_BE_A_REPLY.format(type(part).__name__))
    return response.to_xml().encode()


def document_of_texts(texts: list[str]) -> bytes:
    """Return the bytes that ElementTree would write, in a tenth of the time."""
    text = "\0".join(texts).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("\0", "</Message><Message>")  # no text has U+0000: it is not XML
    return f"{BEFORE_TEXTS}{text}{BEHIND_TEXTS}".encode() if texts else EMPTY


def split_text(text: str) -> list[str]:
    """Return *text* in pieces of at most `MAX_MESSAGE` units, cut after white space.

    Joined, they are the text again, but for a piece that is all white space: that is left
    out, since Twilio cannot send it.

    >>> [len(piece) for piece in split_text("word " * 500)]
    [1600, 900]
    """
    if len(text) <= MAX_MESSAGE // 2:
        return [text] if text.strip() else []
    # A U+0000 behind each character of two units: then each character is one unit.
    pieces = PIECE.findall(re.sub("[\U00010000-\U0010ffff]", "\\g<0>\0", text))
    return [piece.replace("\0", "") for piece in pieces if piece.strip()]


# -------------------------------------------------------------------------- 5. Answer

OK = "200 OK"
NOT_SIGNED = "this was not signed by Twilio"
NOT_SET_UP = "this server is not set up yet"
# It signs the sessions of an App that verifies nothing.
PROCESS_KEY = os.urandom(32)
MARKUP_WAS_TEXT = (
    "a reply begins like a TwiML document, but it is a str, so it was sent as text:"
    " return the MessagingResponse itself, or RawTwiML(…)"
)
NO_TOKEN = "there is no auth token, so nothing is answered: set TWILIO_AUTH_TOKEN or auth_token=…"


class Answer:
    """What goes back: with 200 it is TwiML, with any other status one line of text."""

    def __init__(self, body: bytes, status: str = OK, extra: Headers = ()) -> None:
        self.body = body
        self.status = status
        self.extra = extra

    def headers(self) -> list[tuple[str, str]]:
        # Twilio texts a 200 in text/plain to the sender, and no other status.
        kind = "text/xml" if self.status == OK else "text/plain"
        size = str(len(self.body))
        return [("Content-Type", kind + "; charset=utf-8"), ("Content-Length", size), *self.extra]


FAILED = Answer(b"the message could not be answered\n", "500 Internal Server Error")


class Receiver:
    """Receives what Twilio sends, for a view of your own, which then answers.

    *auth_token* is Twilio's, or a list of several, which are all accepted; or, to serve
    several accounts, a mapping from AccountSids to either.  By default it is the
    environment variable ``TWILIO_AUTH_TOKEN``, read at the first request.  Without a token
    nothing is received.  ``verify=False`` receives whatever anybody sends.

    *public_url* is the scheme, the host and, if a proxy strips one, the path prefix of
    the URL that Twilio was given: ``"https://abc.example"``.

    Raise ValueError for a token that is an SID, or a *public_url* that is no URL, and
    TypeError for a token of a wrong type.
    """

    advice = ADVICE  # how the log says which public_url is right

    def __init__(
        self, *, auth_token: AuthToken = None, verify: bool = True, public_url: str | None = None
    ) -> None:
        self._by_account = hasattr(auth_token, "items")
        given: Any = auth_token if self._by_account else {"": auth_token}
        tokens = {account: to_tokens(each) for account, each in given.items()}
        self._tokens = None if auth_token is None else tokens
        self.verifies = verify is not False  # None or "" may be an accident
        self.public_url = public_url
        self._accounts: dict[str, tuple[RequestValidator, Sessions]] = {}
        self._seldom = Seldom()

    @property
    def public_url(self) -> str | None:
        """The public URL, without a slash at its end; None if it is what the server sees."""
        return self._public_url

    @public_url.setter
    def public_url(self, public_url: str | None) -> None:
        self._public_url = checked_public_url(public_url) if public_url else None

    def tokens(self, account_sid: str | None = None) -> list[bytes]:
        """Return the auth tokens: those of one account, or by default all of them.

        Without an *auth_token* this is what the environment has now.  A Receiver looks there
        at each request until it finds a token, and keeps that one.
        """
        if self._tokens is None:
            return to_tokens(token_of_environment())
        if account_sid is None or not self._by_account:
            return list(itertools.chain(*self._tokens.values()))
        return self._tokens.get(account_sid, [])

    def receive(self, environ: WSGIEnvironment) -> IncomingMessage:
        """Return what Twilio sent.  Raise `Refused`, which is logged, if it did not.

        The text of `Refused` is the line for the sender, and its *status* is HTTP's.  The
        session is empty: it is App's, and a framework has its own.
        """
        fields: Fields = {}
        try:
            fields, query, target = read(environ)
            url, _, _ = self._verify(environ, target, fields)
            return understand(fields, query, url)
        except Refused as refused:
            self._log(refused, environ, fields)
            raise

    def _verify(
        self, environ: WSGIEnvironment, target: str, fields: Fields
    ) -> tuple[str, str, Sessions]:
        """Return the URL that Twilio requested, the fields as it signs them, and the sessions.

        Raise `Refused` (403) if Twilio did not sign these.
        """
        # The fields of a GET are in the URL, which is signed as a whole.
        signed_fields = signed_string("", fields) if environ["REQUEST_METHOD"] == "POST" else ""
        urls = requested_urls(environ, target, self._public_url)
        likeliest = url = next(urls)
        validator, sessions = self._account(fields)
        if not self.verifies:
            return url, signed_fields, sessions
        signature = environ.get("HTTP_X_TWILIO_SIGNATURE") or ""
        settings = environ.get("HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS")
        algorithm = signature_algorithm(settings) if settings else HMAC_SHA1
        while signature and url:
            if validator.matches(url, signed_fields, signature, algorithm):
                return url, signed_fields, sessions
            url = next(urls, "")
        seen = validator, environ, likeliest, signed_fields, self.advice
        raise Refused(NOT_SIGNED, "403 Forbidden", lambda: why_not_signed(*seen))

    def _account(self, fields: Fields) -> tuple[RequestValidator, Sessions]:
        """Return what verifies the account of these fields, and signs its sessions."""
        by_account = self.verifies and self._by_account
        account = dict(fields).get("AccountSid", "") if by_account else ""
        if account not in self._accounts:
            try:
                tokens = self.tokens(account) if self.verifies else [PROCESS_KEY]
            except ValueError as error:  # it is an SID
                raise Refused(NOT_SET_UP, FAILED.status, f"TWILIO_AUTH_TOKEN: {error}") from None
            if not tokens and self.tokens():
                why = f"auth_token has no token for the account {printable(account, 60)!r}"
                raise Refused(NOT_SIGNED, "403 Forbidden", why)
            if not tokens:
                raise Refused(NOT_SET_UP, FAILED.status, NO_TOKEN)
            self._accounts[account] = RequestValidator(tokens), Sessions(tokens)
        return self._accounts[account]

    def _log(self, refused: Refused, environ: WSGIEnvironment, fields: Fields) -> None:
        """Log why a request gets no TwiML: once a second, since anybody can send one.

        A 503 is different: it was let in, and each such message is logged.
        """
        kind = refused.status
        if kind.startswith("403") and environ.get("HTTP_X_TWILIO_SIGNATURE"):
            kind += ", signed"  # counted apart: a flood of others must not hide Twilio's own
        more = "" if kind.startswith("503") else self._seldom.suffix_for(kind)
        if more is None:
            return
        request = printable(f"{environ['REQUEST_METHOD']} {path_of(environ)}", 200)
        sid = dict(fields).get("MessageSid")
        message = f", message {printable(sid, 64)}" if sid else ""
        log.warning("%s for %s%s: %s%s", refused.status, request, message, refused.why(), more)


class App(Receiver):
    """A WSGI callable that answers each message with what *handler* returns for it.

    *handler* is a function from an `IncomingMessage` to a reply (see `twiml`), and may be
    ``async def``: `asyncio.run` runs it, so the thread must not be one whose event loop runs.
    It answers wherever the host mounts the App.  Or *handler* is a mapping from paths,
    relative to the mount point, to such functions; other paths get 404.

    *auth_token*, *verify* and *public_url* are those of `Receiver`.

    With a *cache* (`MemoryCache`, `SQLiteCache`, Django's, cachelib's) each message is
    handled once.  If a handler takes longer than *patience*, in seconds, App tells Twilio to
    come back for the answer (see `Memory`).  Give the client of a remote cache a timeout of
    a second or two: App waits for the cache as long as its client does.

    Raise TypeError or ValueError, at once, for arguments that make no sense.
    """

    remember: Callable[[Cache, float], Any]  # section 6 puts `Memory` here

    def __init__(
        self,
        handler: Handler | Mapping[str, Handler],
        *,
        auth_token: AuthToken = None,
        verify: bool = True,
        public_url: str | None = None,
        cache: Cache | None = None,
        patience: float = 10.0,
    ) -> None:
        super().__init__(auth_token=auth_token, verify=verify, public_url=public_url)
        self._handler = handler if callable(handler) else None
        self.paths = {} if callable(handler) else handlers_by_path(handler)
        self._memory = None if cache is None else type(self).remember(cache, patience)
        self._markup_was_text = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer one request, as PEP 3333 has it."""
        fields: Fields = {}
        try:
            handler = self._handler_for(environ)
            fields, query, target = read(environ)  # 1. Read
            url, signed_fields, sessions = self._verify(environ, target, fields)  # 2. Verify
            message = understand(fields, query, url)  # 3. Understand
            cookie_for = sessions.load_into(message, environ.get("HTTP_COOKIE"))
            answer = self._answer(handler, message, signed_fields, cookie_for)  # 4. Write
        except Refused as refused:
            self._log(refused, environ, fields)
            body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f"{refused}\n".encode()
            answer = Answer(body, refused.status, refused.headers())
        start_response(answer.status, answer.headers())  # 5. Answer
        return [answer.body]

    def answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        """Answer one request of a host that is not WSGI; return status, headers and body.

        *url* is the whole URL as the host saw it, with scheme and host; where App has a
        public_url, that replaces these two.  The names of *headers* are in any case.  *body*
        is read already.  The status is ``"200 OK"`` and the like.
        """
        import io

        scheme, _, rest = url.partition("://")
        if scheme.lower() not in DEFAULT_PORTS:
            raise ValueError(f"{printable(url)!r} is not like https://abc.example/sms")
        host = re.split("[/?#]", rest, maxsplit=1)[0]
        path = re.split("[?#]", rest.removeprefix(host), maxsplit=1)[0]
        sent = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        environ: dict[str, Any] = {
            **sent,
            "HTTP_TRANSFER_ENCODING": "",  # the body is whole
            "REQUEST_METHOD": method,
            # PEP 3333, "Unicode Issues": each character of an environ's str is a byte.
            "PATH_INFO": unquote(to_bytes(path).decode("latin-1"), "latin-1"),
            "CONTENT_TYPE": sent.get("HTTP_CONTENT_TYPE"),
            "CONTENT_LENGTH": len(body),
            "HTTP_HOST": host,
            "SERVER_NAME": "",  # a client may send an empty Host
            "SERVER_PORT": "",
            "wsgi.url_scheme": scheme,
            "wsgi.input": io.BytesIO(body),
            "smsreply.url": to_bytes(url).decode("latin-1"),
        }
        started: list[Any] = []
        content = b"".join(self(environ, lambda *args: started.extend(args)))  # type: ignore
        return started[0], started[1], content

    def _handler_for(self, environ: WSGIEnvironment) -> Handler:
        path = environ.get("PATH_INFO") or "/"
        handler = self.paths.get(path) if self._handler is None else self._handler
        if handler is None:
            paths = ", ".join([printable(path, 100) for path in self.paths])
            why = f"this app answers only {paths}, relative to where the host mounts it"
            raise Refused("no messages are answered at this path", "404 Not Found", why)
        return handler

    def _answer(
        self, handler: Handler, message: IncomingMessage, signed_fields: str, cookie_for: CookieFor
    ) -> Answer:
        """Return the answer to *message*, from its handler or from the cache."""
        sender = message.from_  # taken now, since a handler may change its message
        if self._memory is None or not message.get("MessageSid"):
            answer = self._handle(handler, message, cookie_for)
        else:
            handle = functools.partial(self._handle, handler, message, cookie_for)
            answer = self._memory.answer(message, signed_fields, handle)
        if log.isEnabledFor(logging.DEBUG):
            text = answer.body.decode("utf-8", "replace").replace(XML_DECLARATION, "").strip()
            log.debug("Answered %s with: %s", printable(sender or "it"), printable(text))
        return answer

    def _handle(self, handler: Handler, message: IncomingMessage, cookie_for: CookieFor) -> Answer:
        """Run the handler.  Whatever it raises, there is an answer."""
        sid = message.sid
        try:
            reply = handler(message)
            if hasattr(reply, "__await__"):
                import asyncio

                reply = asyncio.run(awaited(reply))
            body = twiml(reply)
            cookie = cookie_for(message.session)
        except BaseException as error:  # SystemExit, CancelledError, a Timeout of gevent's
            if isinstance(error, KeyboardInterrupt) and in_main_thread():
                raise  # somebody pressed Ctrl-C, to end the process
            name, trace = printable(sid, 64) or "without a MessageSid", traceback_text(error)
            log.error("message %s is not answered: its handler failed\n%s", name, trace)
            return FAILED
        if type(reply) is str and "<Response" in reply and not self._markup_was_text:
            self._markup_was_text = reply.lstrip().startswith(("<?xml", "<Response"))
            if self._markup_was_text:  # said once
                log.warning("%s", MARKUP_WAS_TEXT)
        return Answer(body, OK, (("Set-Cookie", cookie),) if cookie else ())


async def awaited(reply: Any) -> Any:
    return await reply


def handlers_by_path(handlers: Any) -> dict[str, Handler]:
    """Return *handlers* by PATH_INFO; raise TypeError or ValueError if they cannot be."""
    if not (hasattr(handlers, "items") and all(map(callable, handlers.values()))):
        raise TypeError("handler is a function, or a mapping from paths to functions")
    if not handlers or any(path != "" and not str(path).startswith("/") for path in handlers):
        raise ValueError(
            f"handler has the paths {[*handlers]}: it needs one, and each begins with a slash"
        )
    # PEP 3333: in PATH_INFO each character is a byte of the path.
    return {(path or "/").encode().decode("latin-1"): f for path, f in handlers.items()}


def checked_public_url(public_url: str) -> str:
    """Return *public_url* without a slash at its end; raise ValueError if it is not one.

    >>> checked_public_url("https://abc.example/")
    'https://abc.example'
    """
    parts = URL_PARTS.fullmatch(public_url)
    if not parts or not parts[3] or re.search(r"[?#\s]", public_url):
        raise ValueError(f"public_url={public_url!r} is not like https://abc.example")
    return public_url.rstrip("/")


def path_and_query(url: str) -> str:
    return url[url.index("/", url.index("://") + 3) :]


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


# ------------------------------------------------------------------------ 6. Remember

# What is added to the query of the URL that Twilio is told to come back to.
COME_BACK = re.compile(r"[?&]smsreply=([0-9a-f]{64})\.([1-9])\Z")

MAX_RUNNING = 32  # handlers at once, in one process: one more message gets 503


class Run:
    """One run of a handler, and what it ended with."""

    def __init__(self) -> None:
        self.id = os.urandom(8).hex()
        self.over = threading.Event()
        self.answer = FAILED
        self.claim_lock = threading.Lock()  # held while the claim is renewed or given up


class Pool:
    """At most *size* threads, which run handlers, and one that renews their claims."""

    WAIT = 0.2  # seconds for a thread: in a burst of quick messages, one is free soon
    RENEWAL = 5  # seconds

    def __init__(self, size: int) -> None:
        self.ends = False  # the server sets it when the process is told to end
        self.runs: dict[tuple[Memory, str], Run] = {}  # by the message's name
        self._size = size
        self._works: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changes = threading.Condition()
        self._busy = self._threads = 0
        self._renewing = False

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread run *work*; raise `Refused` (503) if all threads stay busy."""
        with self._changes:
            if not self._changes.wait_for(lambda: self._busy < self._size, self.WAIT):
                raise busy(f"{self._size} messages are being handled, and that is the most")
            try:
                if not self._renewing:
                    start_thread(self._renew)
                    self._renewing = True
                if self._busy == self._threads:
                    start_thread(self._serve)
                    self._threads += 1
            except RuntimeError:  # the system has no more of them
                raise busy("no thread can be started") from None
            self._busy += 1
        self._works.put(work)

    def _serve(self) -> None:
        while True:
            work = self._works.get()
            with contextlib.suppress(BaseException):  # nothing must cost the pool a thread
                try:
                    work()
                except BaseException as error:
                    log.error("a thread of the pool goes on after:\n%s", traceback_text(error))
            del work  # and with it the message, until the next one comes
            with self._changes:
                self._busy -= 1
                self._changes.notify()

    def _renew(self) -> None:
        while True:
            time.sleep(self.RENEWAL)
            for (memory, name), run in self.runs.copy().items():
                memory.renew(name, run)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing runs, *seconds* at most; return whether that came true."""
        deadline = time.monotonic() + seconds
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self._busy


def busy(why: str) -> Refused:
    return Refused("too many messages at once", "503 Service Unavailable", why)


def start_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="smsreply", daemon=True).start()


def new_pool() -> None:
    """Begin with no threads: a fork has none of its parent's."""
    global POOL
    POOL = Pool(MAX_RUNNING)


POOL = Pool(MAX_RUNNING)
# Each MemoryCache uses this one lock, so that whoever forks can take it first.  A lock that
# another thread held at a fork would stay locked in the child for ever.
LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release)
    os.register_at_fork(after_in_child=LOCK.release)
    os.register_at_fork(after_in_child=new_pool)


class Memory:
    """Answers each message once, and lets its handler take longer than Twilio waits.

    The handler runs in a thread of its own, and all deliveries of a message wait for that
    one run.  Those in this process wait for its `Run`.  Those in other processes ask the
    cache.  It has up to four entries for a message.  Each key is a letter and the message's
    name, which is a hash:

        c   the claim: some process handles the message.  It lasts 15 seconds and is
            renewed, so it ends soon after its process does.
        a   the answer, kept for an hour.
        e   the end of a run whose answer is not kept: it failed, or it redirects.  A
            delivery that waited for this run gets it; for a new one the handler runs again.
        t   the time when the first delivery of this round came: all tries share Twilio's 15 s.

    A message takes four calls of the cache, and a later delivery two or three.  If the cache
    fails, messages are answered as if there were none.
    """

    ROUNDS = 6
    # In seconds, all of these.
    TWILIO_WAITS = 15
    LONGEST = 14  # the patience of a process that is ending: nobody can come back to it
    ANSWER_AGE = 3600
    END_AGE = 60
    CLAIM_AGE = 15
    POLL = 0.1

    def __init__(self, cache: Cache, patience: float) -> None:
        if not 0 <= patience < self.TWILIO_WAITS:
            raise ValueError(f"patience={patience!r}: Twilio waits for 15 s and no longer")
        self._cache = cache
        self._patience = patience
        self._seldom = Seldom()

    def answer(
        self, message: IncomingMessage, signed_fields: str, handle: Callable[[], Answer]
    ) -> Answer:
        """Return the answer to *message*: a kept one, a new one, or "come back later"."""
        key, round_ = self._recognise(message, signed_fields)
        # The pair of numbers is in the name, so with somebody else's key one gets nothing.
        # All this is read now, since a handler may change its message.
        sid, url = message.sid, message.url
        pair = [message.get(name, "") for name in ("AccountSid", "From", "To", "MessageSid")]
        name = hashlib.sha256(to_bytes("\0".join([key, *pair]))).hexdigest()
        context = contextvars.copy_context()  # the handler runs in another thread
        answer = self._wait(name, round_, lambda: context.run(handle))
        return answer or self._come_back(sid, url, key, round_ + 1)

    def _recognise(self, message: IncomingMessage, signed_fields: str) -> tuple[str, int]:
        """Return a key that all deliveries of the message share, and the number of the round.

        The key is a hash of path, query and fields.  The host is not in it: two hosts of
        yours may get the same message.  Where the fallback URL has the same path, a message
        that failed comes again with ErrorCode and ErrorUrl.  These do not count: the handler
        may have done its work, and only its answer came too late.
        """
        came_back = COME_BACK.search(message.url)
        if came_back:
            message.url = message.url[: came_back.start()]
            message.query.pop("smsreply", None)
            message.pop("smsreply", None)
            return came_back[1], int(came_back[2])
        url = path_and_query(message.url)
        if "ErrorUrl" in message and signed_fields:  # a POST: it is in the form
            fields = {k: v for k, v in message.items() if k not in ("ErrorCode", "ErrorUrl")}
            signed_fields = signed_string("", fields)
        elif "ErrorUrl" in message:  # a GET: it is in the query
            path, _, query = url.partition("?")
            pairs = [p for p in query.split("&") if not p.startswith(("ErrorCode=", "ErrorUrl="))]
            url = f"{path}?{'&'.join(pairs)}"
        return hashlib.sha256(to_bytes(url + signed_fields)).hexdigest(), 0

    def _wait(self, name: str, round_: int, handle: Callable[[], Answer]) -> Answer | None:
        """Return the answer, or None if it takes longer than patience."""
        waited_for: Any = round_ > 0 or None  # another process's run: its id, or True for any
        began: float | None = None
        patience = self._patience
        unexplained = 0  # refusals of the claim, although it is not there
        while True:
            run = POOL.runs.get((self, name))
            mine = Run() if run is None else run
            claimed = run is None and self._call("add", "c" + name, mine.id, self.CLAIM_AGE)
            # This follows the claim.  Another process first keeps its answer, and then gives
            # up its claim; so whoever gets the claim after it finds the answer here.
            answer = self._kept(name, waited_for) if run is None else None
            if answer:
                if claimed:
                    self._call("delete", "c" + name)
                return answer
            if began is None:
                began = self._round_began(name, round_)
            if run is None and not claimed:
                waited_for = self._call("get", "c" + name) or waited_for
                # Some clients (pymemcache's ignore_exc) hide that their server is gone.
                unexplained = unexplained + 1 if waited_for is None else 0
                if unexplained > 3:
                    self._complain("add says that a key is there, and get finds none")
                    claimed = True
            if claimed:
                run = self._begin(name, mine, handle)
            left = max(0.0, began + patience - time.monotonic())
            if run is None:
                time.sleep(min(self.POLL, left))
            elif run.over.wait(left):
                return run.answer
            if began + patience <= time.monotonic():
                if not POOL.ends or patience >= self.LONGEST:
                    return None
                patience = self.LONGEST

    def _round_began(self, name: str, round_: int) -> float:
        """Return when this round began, as `time.monotonic` has it here.

        That is when its first delivery came, to whichever machine.
        """
        now, age = time.time(), 0.0
        if not self._call("add", f"t{name}.{round_}", now, self.TWILIO_WAITS):
            kept = self._call("get", f"t{name}.{round_}")
            # Ignore a time that another machine's wrong clock wrote.
            if isinstance(kept, (int, float)) and 0 <= now - kept <= self.TWILIO_WAITS:
                age = now - kept
        return time.monotonic() - age

    def _begin(self, name: str, mine: Run, handle: Callable[[], Answer]) -> Run:
        """Have the handler run, and return its run."""
        # setdefault is atomic.  If the cache fails, several deliveries may have the claim,
        # and still one run begins.
        run = POOL.runs.setdefault((self, name), mine)
        if run is mine:
            try:
                POOL.submit(lambda: self._run(name, run, handle))
            except Refused as refused:  # another process may have room
                run.answer = Answer(f"{refused}\n".encode(), refused.status)
                self._give_up(name, run)
                raise
        return run

    def _run(self, name: str, run: Run, handle: Callable[[], Answer]) -> None:
        try:
            run.answer = handle()
        finally:
            self._end(name, run)

    def _end(self, name: str, run: Run) -> None:
        """Keep what *run* ended with, and tell those who wait for it."""
        answer = run.answer
        kept = name, run.id, answer.status, answer.extra, answer.body.decode("latin-1")
        if answer.status == OK and b"<Redirect" not in answer.body:
            # An answer is there already if this process stood still for longer than
            # CLAIM_AGE, and another one took over: then everybody gets that one.
            if not self._call("add", "a" + name, kept, self.ANSWER_AGE):
                run.answer = self._kept(name, None) or answer
            POOL.runs.pop((self, name), None)
            run.over.set()
        else:
            self._call("set", "e" + name, kept, self.END_AGE)
            self._give_up(name, run)

    def _give_up(self, name: str, run: Run) -> None:
        with run.claim_lock:  # or a renewal in between would bring the claim back
            self._call("delete", "c" + name)
            POOL.runs.pop((self, name), None)
            run.over.set()

    def renew(self, name: str, run: Run) -> None:
        """Renew the claim of *run*, unless it is over."""
        with run.claim_lock:
            if not run.over.is_set():
                self._call("set", "c" + name, run.id, self.CLAIM_AGE)

    def _kept(self, name: str, waited_for: Any) -> Answer | None:
        """Return the answer that is kept, or what the run that is *waited_for* ended with."""
        for letter in "ae" if waited_for else "a":
            kept = self._call("get", letter + name)
            if kept is None:
                continue
            try:
                of, run, status, extra, body = kept
                # Some client libraries mix answers up when a connection fails.
                if of != name or not isinstance(status, str):
                    raise ValueError(of)
                if letter == "a" or waited_for in (True, run):
                    return Answer(body.encode("latin-1"), status, tuple((n, v) for n, v in extra))
            except (TypeError, ValueError, AttributeError):
                self._complain(f"it has {printable(repr(kept), 80)} where an answer was put")
        return None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the cache; if that fails, return what an empty one would return.

        That is True for ``add``: the message is claimed, and its handler runs.
        """
        try:
            return getattr(self._cache, method)(*arguments)
        except (KeyboardInterrupt, SystemExit):  # by a signal, say, which is to end the process
            raise
        except BaseException as error:  # a Timeout of gevent's, say
            self._complain(f"{method} raised {type(error).__name__}: {printable(str(error), 200)}")
            return method == "add" or None

    def _complain(self, what: str) -> None:
        more = self._seldom.suffix_for("cache")
        if more is not None:
            log.error("the cache fails, and messages are answered without it: %s%s", what, more)

    def _come_back(self, sid: str, url: str, key: str, round_: int) -> Answer:
        """Return the answer that has Twilio ask again."""
        message = f"message {printable(sid, 64)}"
        if round_ > self.ROUNDS:
            log.error("%s is not answered: its handler took over %d rounds", message, self.ROUNDS)
            return FAILED
        if POOL.ends:
            log.warning(
                "%s: this process is ending, and its handler is not done: App tells Twilio to come"
                " back, which will reach another process",
                message,
            )
        path = path_and_query(url)
        # A reference that begins with two slashes would name a host.
        path = url if path.startswith("//") else path
        again = f"{path}{'&' if '?' in path else '?'}smsreply={key}.{round_}"
        return Answer(twiml(Redirect(again, method="POST")))


App.remember = Memory


class MemoryCache:
    """A cache for one process: at most *entries* values, for at most *age* seconds each.

    The oldest ones make room; a message takes three.  Time is `time.monotonic`, which
    nobody can put back.
    """

    def __init__(self, entries: int = 3 * 4096, age: float = 3600) -> None:
        self._entries = entries
        self._age = age
        # A dict would pass over all that was taken out of it to find its oldest.
        self._kept: collections.OrderedDict[str, tuple[float, Any]] = collections.OrderedDict()

    def get(self, key: str, default: Any = None) -> Any:
        kept = self._kept.get(key)
        return kept[1] if kept and kept[0] > time.monotonic() else default

    def set(self, key: str, value: Any, timeout: float | None = None) -> bool:
        with LOCK:
            self._put(key, value, timeout)
        return True

    def add(self, key: str, value: Any, timeout: float | None = None) -> bool:
        """Set *key* unless it is there; return whether it was set.  This is atomic."""
        with LOCK:
            absent = self.get(key, self) is self
            if absent:
                self._put(key, value, timeout)
        return absent

    def delete(self, key: str) -> bool:
        with LOCK:
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


class SQLiteCache:
    """A cache for all the processes of one machine, which outlives them: the file *path*.

    Values are kept as JSON, for an hour by default.  Raise OSError or ValueError, with
    the path in its text, if the file cannot be written, or is no database.  A new file is
    its owner's alone, since it holds the answers that people got.  Put it on a local disk:
    SQLite's locks do not work over a network.
    """

    TIMEOUT = 2  # seconds for another process's lock: four such waits must fit into Twilio's 15
    CLEANING = 1  # seconds from one removal of expired rows to the next
    # All processes wait for each removal, and after a night a million rows may be expired.
    MAX_REMOVED = 10_000

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import sqlite3

        self._path = os.path.abspath(path)
        # By process: a child must not use, nor even close, a connection of its parent's.
        self._connections: dict[int, tuple[Any, threading.Lock]] = {}
        weakref.finalize(self, close_connection, self._connections).atexit = False
        self._cleaned = time.time()
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        deadline = time.monotonic() + self.TIMEOUT
        while True:
            try:
                self._set_up()
                return
            except sqlite3.Error as error:
                # SQLite waits for another process's lock, but not to change the journal's mode.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise ValueError(f"{path} cannot be a cache: {error}") from None
                time.sleep(0.01)

    def _set_up(self) -> None:
        self._do("PRAGMA journal_mode = WAL")
        self._do("PRAGMA synchronous = NORMAL")
        columns = "key TEXT PRIMARY KEY, value TEXT, expires REAL"
        self._do(f"CREATE TABLE IF NOT EXISTS kept ({columns})")
        self._do("CREATE INDEX IF NOT EXISTS expiry ON kept (expires)")

    def _do(self, statement: str, *values: Any) -> tuple[int, Any]:
        """Execute *statement*; return how many rows it changed, and the first that it found."""
        process = os.getpid()
        if process not in self._connections:
            import sqlite3

            connection = sqlite3.connect(
                self._path, timeout=self.TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self._connections[process] = connection, threading.Lock()
        connection, lock = self._connections[process]
        if not lock.acquire(timeout=self.TIMEOUT):
            raise TimeoutError(f"{self._path} was busy for {self.TIMEOUT} s")
        try:
            cursor = connection.execute(statement, values)
            return cursor.rowcount, cursor.fetchone()
        finally:
            lock.release()

    def get(self, key: str, default: Any = None) -> Any:
        import json

        select = "SELECT value FROM kept WHERE key = ? AND expires > ?"
        _, row = self._do(select, key, time.time())
        return json.loads(row[0]) if row else default

    def set(self, key: str, value: Any, timeout: float | None = None) -> bool:
        return self._put(key, value, timeout, float("inf"))

    def add(self, key: str, value: Any, timeout: float | None = None) -> bool:
        """Set *key* unless it is there; return whether it was set.  This is atomic."""
        return self._put(key, value, timeout, time.time())

    def _put(self, key: str, value: Any, timeout: float | None, expired: float) -> bool:
        """Set *key*, unless it has a value that expires after the time *expired*."""
        import json

        now = time.time()
        if now > self._cleaned + self.CLEANING:
            self._cleaned = now
            over = "SELECT rowid FROM kept WHERE expires <= ? LIMIT ?"
            self._do(f"DELETE FROM kept WHERE rowid IN ({over})", now, self.MAX_REMOVED)
        put = (
            "INSERT INTO kept VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " value = excluded.value, expires = excluded.expires WHERE kept.expires <= ?"
        )
        expires = now + (3600 if timeout is None else timeout)
        changed, _ = self._do(put, key, json.dumps(value), expires, expired)
        return changed == 1

    def delete(self, key: str) -> bool:
        changed, _ = self._do("DELETE FROM kept WHERE key = ?", key)
        return changed == 1


def close_connection(connections: dict[int, tuple[Any, threading.Lock]]) -> None:
    """Close this process's own, if there is one."""
    if os.getpid() in connections:
        connections[os.getpid()][0].close()


# --------------------------------------------------------------------------- 7. Serve

PATH, PORT, PHONE_PORT = "/sms", 8767, 8768


def default_reply(message: IncomingMessage) -> str:
    """Answer as Twilio's own lesson on webhooks does."""
    return "I'm busy questing right now!"


class UsageError(Exception):
    """Something that cannot be served or done as it was asked for; the text is one line.

    On the command line it is all that is printed, and the exit status is 2.
    """


@contextlib.contextmanager
def told_in_a_line(*kinds: type[Exception], about: str = "") -> Iterator[None]:
    """Raise `UsageError` in place of an error of these *kinds*."""
    try:
        yield
    except kinds as error:
        why = getattr(error, "strerror", None) or error  # without "[Errno 13]"
        raise UsageError(about + printable(str(why))) from error


def load(target: str) -> Any:
    """Return what *target* names: ``module:name``, ``module`` or ``file.py``.

    Of a module without a name that is its ``reply``, or else its ``application``.
    """
    place, _, name = target.partition(":")
    module = import_module(place)
    names = [name] if name else ["reply", "application"]
    for wanted in names:
        found = getattr(module, wanted, None)
        by_chance = found is application and not name  # by ``from smsreply import *``
        if (callable(found) or hasattr(found, "items")) and not by_chance:
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
        raise UsageError(f"cannot import {printable(place)}: {described(error)}") from error
    if file and os.path.abspath(getattr(module, "__file__", None) or "") != file:
        raise UsageError(f"{printable(place)} has the name of another module: rename it")
    return module


def described(error: BaseException) -> str:
    """Return the error, and the last line of somebody's own file that led to it."""
    import traceback

    what = f"{type(error).__name__}: {printable(str(error), 300)}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    return f"{what} ({printable(own[-1].filename)}, line {own[-1].lineno})" if own else what


def is_application(target: Any) -> TypeGuard[WSGIApplication]:
    """Return whether *target* takes two arguments, as a WSGI application does.

    What can also be called with one is a handler.  So is what has no signature to look at,
    being written in C.
    """
    # A function of one argument says so itself: inspect takes a megabyte and 8 ms to import.
    code = getattr(target, "__code__", None)
    if code and code.co_argcount == 1:
        return False
    import inspect

    def takes(*arguments: str) -> bool:
        try:
            inspect.signature(target).bind(*arguments)
        except (TypeError, ValueError):
            return False
        return True

    return takes("environ", "start_response") and not takes("message")


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve what the environment describes, for hosts that take only a name.

    That is the handler, or the application, of ``SMSREPLY_HANDLER`` at the URL of
    ``SMSREPLY_PUBLIC_URL``.  Both are read at the first request.
    """
    return from_environment()(environ, start_response)


@functools.cache
def from_environment() -> WSGIApplication:
    handler = os.environ.get("SMSREPLY_HANDLER")
    # What is raised here would reach the host, which might show the sender a traceback.
    try:
        target = load(handler) if handler else default_reply
        if target is application:
            raise UsageError(f"SMSREPLY_HANDLER is {handler}, which serves what that names")
        app = target if is_application(target) else App(target)
        if isinstance(app, App) and app.public_url is None:
            app.advice = "set SMSREPLY_PUBLIC_URL to {}"
        set_public_url(app, os.environ.get("SMSREPLY_PUBLIC_URL"))
        return app
    except (UsageError, TypeError, ValueError) as error:
        return refuse_all(f"nothing is answered: {error}")


def set_public_url(app: WSGIApplication, public_url: str | None) -> None:
    """Give *app* the URL that the environment names, unless it has one."""
    if public_url and not isinstance(app, App):
        log.warning("SMSREPLY_PUBLIC_URL does nothing: what is served is not an App")
    elif public_url and isinstance(app, App) and app.public_url is None:
        app.public_url = public_url


def refuse_all(why: str) -> WSGIApplication:
    """Return an application that answers 500 to all, and logs *why*."""
    seldom = Seldom()

    def refuse(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        more = seldom.suffix_for(why)
        if more is not None:
            log.error("%s%s", why, more)
        start_response(FAILED.status, FAILED.headers())
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else FAILED.body]

    return refuse


class Reloading:
    """A WSGI callable made anew by *make* when the file of the module *place* has changed.

    If the new version cannot be loaded, that is logged, and the last good one stays.
    """

    def __init__(self, place: str, make: Callable[[], WSGIApplication]) -> None:
        self._make = make
        self._name = module_name(place)
        self.application = make()
        self._file = getattr(sys.modules[self._name], "__file__", None) or ""
        self._version = self._look()
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            version = self._look()
            if version and version != self._version:
                self._reload()
                self._version = version
        return self.application(environ, start_response)

    def _look(self) -> tuple[int, int] | None:
        """Return what tells a version of the file from another: its time and its size."""
        try:
            status = os.stat(self._file)
        except OSError:  # an editor is just replacing it
            return None
        return status.st_mtime_ns, status.st_size

    def _reload(self) -> None:
        # Only this module is made anew: what it imports itself is the same as before.
        good = sys.modules.pop(self._name)
        try:
            self.application = self._make()
            good = sys.modules[self._name]
            log.warning("%s has changed: reloaded", self._file)
        except UsageError as error:
            log.error("%s has changed, and its last good version stays: %s", self._file, error)
        finally:
            sys.modules[self._name] = good


def development_server(application: WSGIApplication, host: str, port: int) -> Any:
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
            # A client that leaves, or says nothing, is not worth a traceback.
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

        def get_environ(self) -> dict[str, Any]:
            # Twilio signs the target raw, and self.path is not quite that.
            return {**super().get_environ(), "REQUEST_URI": self.requestline.split()[1]}

        def log_message(self, format: str, *args: Any) -> None:
            """Leave it to the application to say what came."""

        def finish(self) -> None:
            # To close with bytes unread resets the connection, and the answer is lost.
            super().finish()
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(1)
                for _ in range(64):
                    if not self.connection.recv(65536):
                        break

    server = Server((host, port), Handler)
    server.set_app(application)
    return server


class Production:
    """waitress, with this program's limits, and an end that answers what is in flight.

    SIGTERM, SIGHUP and Ctrl-C end it.  Each connection that was made before is answered,
    for 30 seconds at most.  A second Ctrl-C ends it at once.
    """

    # At the end, in seconds:
    GRACE = 30  # for all that is in flight
    OPENING = 0.3  # for connections that are being opened
    STALLED = 2  # for a request to begin, or to go on

    def __init__(self, application: WSGIApplication, host: str, port: int, threads: int) -> None:
        import select
        import socket

        # A type checker is to ask nobody for waitress, or for types of it.
        from waitress import channel, create_server, wasyncore  # type: ignore[import,unused-ignore]

        production = self

        class Channel(channel.HTTPChannel):  # type: ignore[misc]
            def service(self) -> None:
                if production.ends:
                    self.come_to_an_end()
                super().service()

            def come_to_an_end(self) -> None:
                # waitress has no other way to end a connection after an answer.  It drops
                # what comes after a "close", so only the last request says so.
                for request in self.requests[-1:]:
                    request.headers["CONNECTION"] = "close"  # pyright: ignore[reportIndexIssue]

            def writable(self) -> bool:
                # While a handler's thread sends, poll() would report again and again that
                # one can, and the loop would take all the other threads' turns.
                most = self.adj.outbuf_high_watermark if self.requests else 0
                return bool(
                    self.total_outbufs_len > most or self.will_close or self.close_when_flushed
                )

        self.ends = False
        is_app = isinstance(application, App)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # Windows would let two servers have one port
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        self.server_address = self._socket.getsockname()
        self._map: dict[int, Any] = {}  # what waitress polls: its listener, and the channels
        poll = hasattr(select, "poll")  # select() cannot watch more than 1,024 connections
        self._loop: Any = lambda seconds: wasyncore.loop(seconds, poll, self._map, 1)
        self._server = create_server(
            with_health(application) if isinstance(application, App) else application,
            map=self._map,
            sockets=[self._socket],
            threads=threads,
            backlog=1024,
            connection_limit=connection_limit(),
            # App refuses what is too large itself.  waitress would close the connection on
            # bytes unread, which resets it, and the answer may be lost.
            max_request_body_size=8 * MAX_BODY if is_app else 1 << 30,
            # All that an App is sent stays in memory: a file would take a descriptor more.
            inbuf_overflow=8 * MAX_BODY + 1,
            # App believes no X-Forwarded-* header, and explains with them why it refuses.
            clear_untrusted_proxy_headers=not is_app,
            ident="",
        )
        self._server.channel_class = Channel

    def serve_forever(self) -> None:
        import signal

        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # Behind a shell's "&", or nohup, it is ignored, and stays so.
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.end)
        while not self.ends:
            self._loop(1)
            self._accept_all()
        # No new connection is accepted from here on, and each one that was made is answered.
        # waitress itself would drop those, and Twilio does not ask again where it connected.
        for channel in list(self._server.active_channels.values()):
            channel.come_to_an_end()
        self._close_listener()
        self._server.del_channel(self._map)
        ended = time.monotonic()
        while self._in_flight(ended) and time.monotonic() < ended + self.GRACE:
            self._loop(0.1)
        POOL.drain(ended + self.GRACE - time.monotonic())
        self._server.task_dispatcher.shutdown(timeout=1)

    def end(self, number: int, frame: object) -> None:
        import signal

        if self.ends and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.ends = POOL.ends = True
        self._server.pull_trigger()

    def _close_listener(self) -> None:
        """Accept whoever waits, and close.

        In between, the kernel would let somebody in, who would be lost.  So Linux is told
        first to drop each packet that opens a connection (SYN).  Whoever sent it tries again
        a second later, and is refused.
        """
        import array
        import struct

        if sys.platform == "linux":
            steps = (
                (0x30, 0, 0, 13),  # load byte 13 of the TCP header: its flags
                (0x45, 0, 1, 2),  # without SYN, skip the next step
                (0x06, 0, 0, 0),  # keep nothing of the packet
                (0x06, 0, 0, 0xFFFF),  # keep all of it
            )
            program = array.array("B", b"".join([struct.pack("HBBI", *step) for step in steps]))
            filter_ = struct.pack("HP", len(steps), program.buffer_info()[0])
            self._socket.setsockopt(1, 26, filter_)  # SOL_SOCKET, SO_ATTACH_FILTER
            opened = time.monotonic() + self.OPENING
            while time.monotonic() < opened:
                self._loop(0.05)
        self._accept_all()
        self._socket.close()

    def _accept_all(self) -> None:
        """Accept whoever waits.  waitress takes one connection a turn, which is slow."""
        before = -1
        while before < len(self._map) and self._server.readable():
            before = len(self._map)
            self._server.handle_accept()

    def _in_flight(self, ended: float) -> bool:
        """Return whether some connection is still to be answered."""
        if time.monotonic() < ended + self.STALLED:  # a request may be on its way
            return bool(self._server.active_channels)
        stalled = time.time() - self.STALLED
        return any(
            channel.requests
            or channel.total_outbufs_len
            or (channel.request and channel.last_activity > stalled)
            for channel in list(self._server.active_channels.values())
        )


def with_health(app: App) -> WSGIApplication:
    """Return *app* with ``GET /healthz`` added, which says that this server lives."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] != "/healthz" or environ["REQUEST_METHOD"] != "GET":
            return app(environ, start_response)
        start_response(OK, [("Content-Type", "text/plain"), ("Content-Length", "3")])
        return [b"ok\n"]

    return app if "/healthz" in app.paths else application


MAX_CONNECTIONS = 4000


def connection_limit() -> int:
    """Return how many connections this process may have; raise its limit if that is allowed."""
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


# -------------------------------------------------------------------- 8. Command line

PHONE_COMMANDS = ("text", "phone", "explain", "check")
NO_PHONE = (
    "needs the package smsphone: run python3 -m pip install smsreply, or put the folder smsphone"
    " beside smsreply.py"
)
PLAIN_PATH = r"/(?!/)[A-Za-z0-9/:@!$&'()*+,;=._~-]*"


def serve_forever(server: Any) -> None:
    server.serve_forever()


def main(argv: list[str] | None = None, *, _serve: Callable[[Any], None] = serve_forever) -> int:
    """Run the command line *argv* and return its exit status; see ``smsreply --help``."""
    # A bot imports smsreply: it must get this module, and not a second copy of it.
    sys.modules.setdefault("smsreply", sys.modules[__name__])
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if arguments[:1] and arguments[0] in PHONE_COMMANDS:
            return run_phone(arguments)
        run_serve(command_line().parse_args(arguments or ["serve"]), _serve)
        return 0
    except SystemExit as end:  # argparse has said why
        return 2 if end.code else 0
    except UsageError as error:
        print(f"smsreply: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run_phone(arguments: list[str]) -> int:
    """Have smsphone do what is Twilio's side."""
    import importlib

    if not has_phone():
        raise UsageError(f"{arguments[0]} {NO_PHONE}")
    return int(importlib.import_module("smsphone.command").main(arguments))


def has_phone() -> bool:
    import importlib.util

    return importlib.util.find_spec("smsphone") is not None


def command_line() -> Any:
    """Return the parser of the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="smsreply",
        description="Answer text messages that Twilio delivers. Without a command: serve.",
        epilog="smsreply text, phone and explain play Twilio: see smsreply text --help.",
    )
    parser.add_argument("--version", action="version", version=f"smsreply {__version__}")
    commands = parser.add_subparsers(required=True, metavar="serve | text | phone | explain")
    serve = commands.add_parser("serve", help="serve a handler, and beside it the phone")
    for name in PHONE_COMMANDS:  # only so that argparse names them: main hands them on
        commands.add_parser(name)
    add = serve.add_argument
    add("handler", nargs="?", help="module:name, module or file.py; else a default reply")
    add("--host", help="the address to listen at (127.0.0.1; with --production 0.0.0.0)")
    add("--port", type=port_number, help=f"the port ({PORT}; with --production $PORT)")
    add("--path", help=f"the path that is answered ({PATH})")
    add("--public-url", help="scheme and host of the URL that Twilio has ($SMSREPLY_PUBLIC_URL)")
    add("--cache", metavar="FILE", help="remember messages in FILE, for several processes")
    add("--no-verify", action="store_true", help="answer messages that nobody signed, too")
    add("--production", action="store_true", help="serve with waitress")
    add("--threads", type=int, help="with --production: how many threads (64)")
    phone = serve.add_mutually_exclusive_group()
    phone.add_argument("--phone-port", type=port_number, help=f"the phone's port ({PHONE_PORT})")
    phone.add_argument("--no-phone", action="store_true", help="do not serve the phone")
    return parser


def port_number(text: str) -> int:
    number = int(text)  # argparse makes a ValueError a message of its own
    if not 0 <= number < 65536:
        raise ValueError(text)
    return number


port_number.__name__ = "port number"  # argparse names it where it refuses a value


def run_serve(options: Any, serve: Callable[[Any], None]) -> None:
    """Serve the handler that was named, or the application, here or in production."""
    if options.public_url == "":
        raise UsageError("--public-url is empty")
    if options.threads is not None and not options.production:
        raise UsageError("--threads is for --production")
    if options.phone_port is not None and options.production:
        raise UsageError("--phone-port is for development: --production serves no phone")
    # Python knows a compiled file's source by its size and second: of two edits within one
    # second, the later one would not be seen.
    sys.dont_write_bytecode = not options.production
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # it is the script's folder that Python put there
    log_to_terminal(logging.WARNING if options.production else logging.DEBUG)
    (serve_in_production if options.production else serve_here)(options, serve)


@told_in_a_line(TypeError, ValueError)
def make_app(options: Any, verify: bool, cache: Cache) -> WSGIApplication:
    """Return what is to be served: the application that was named, or an App of the handler."""
    target = load(options.handler) if options.handler else default_reply
    if is_application(target):
        for name in ("path", "public_url", "cache", "no_verify"):
            if getattr(options, name):
                raise UsageError(
                    f"{options.handler} is an application: --{name.replace('_', '-')} is for a"
                    " function or a mapping, and an App takes such a thing itself"
                )
        set_public_url(target, os.environ.get("SMSREPLY_PUBLIC_URL"))
        return target
    if options.path is not None and not callable(target):
        raise UsageError(f"{options.handler} is a mapping of paths: leave --path out")
    path = PATH if options.path is None else options.path or "/"
    if not re.fullmatch(PLAIN_PATH, path):
        raise UsageError(
            f"--path {printable(path)}: a path begins with one slash; after it are letters of ASCII,"
            " digits, and any of /:@!$&'()*+,;=._~-"
        )
    handler = {path: target} if callable(target) else target
    public_url = options.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")
    app = App(handler, verify=verify, public_url=public_url, cache=cache)
    app.advice = "pass --public-url {}"
    return app


@told_in_a_line(ValueError)
def lacks_token(app: Any) -> bool:
    """Return whether *app* can answer nobody; raise `UsageError` if its token is an SID."""
    return isinstance(app, App) and app.verifies and not app.tokens()


def make_cache(options: Any) -> Cache:
    about = f"--cache {printable(options.cache or '')}: "
    with told_in_a_line(ValueError, about="--cache: "), told_in_a_line(OSError, about=about):
        return SQLiteCache(options.cache) if options.cache else MemoryCache()


def listening(host: str, port: int) -> contextlib.AbstractContextManager[None]:
    # socket.bind() has the other two for a name that cannot be a host.
    kinds = (OSError, TypeError, UnicodeError)
    return told_in_a_line(*kinds, about=f"cannot listen at {printable(host)}:{port}: ")


def webhook_url(app: Any, host: str, port: int) -> str:
    """Return where *app* is served; with its path, if it answers one path only."""
    named = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    paths = list(app.paths) if isinstance(app, App) else []
    return f"http://{named}:{port}{paths[0] if len(paths) == 1 else ''}"


def serve_here(options: Any, serve: Callable[[Any], None]) -> None:
    """Serve for one developer: on loopback, reloading, and with the phone beside it."""
    token = token_of_environment()
    verify = bool(token) and not options.no_verify
    # The cache outlives a reload.
    make = functools.partial(make_app, options, verify, make_cache(options))
    app = Reloading(options.handler.partition(":")[0], make) if options.handler else None
    first: Any = app.application if app else make()
    answers_nobody = lacks_token(first)
    host, port = options.host or "127.0.0.1", PORT if options.port is None else options.port
    with listening(host, port):
        server = development_server(app or first, host, port)
    webhook = webhook_url(first, host, server.server_address[1])
    print(f"Answering at {webhook} (Ctrl-C stops it)", flush=True)
    if answers_nobody:
        log.warning("%s", NO_TOKEN)
    elif isinstance(first, App) and not first.verifies:
        cure = "" if token else ": set TWILIO_AUTH_TOKEN"
        log.warning("App answers unsigned messages, from anybody who reaches this port%s", cure)
    if not options.no_phone:
        phone_beside(options, webhook, server, first)
    with server:  # its end closes the socket
        serve(server)


def phone_beside(options: Any, webhook: str, server: Any, app: Any) -> None:
    """Serve the phone in a thread, and let it see all that *server* gets and answers.

    That it cannot be served is no reason not to serve the rest.
    """
    if not has_phone():
        print(f"The phone {NO_PHONE}", flush=True)
        return
    import importlib

    page = importlib.import_module("smsphone.page")
    port = PHONE_PORT if options.phone_port is None else options.phone_port
    webhook = webhook if webhook.count("/") > 2 else webhook + PATH
    public_url = app.public_url if isinstance(app, App) else None
    watched = page.watch(server.get_app())
    try:
        with told_in_a_line(ValueError), told_in_a_line(OSError, about=f"port {port}: "):
            phone = page.serve(webhook, public_url, port, watched)
    except UsageError as error:
        log.warning("The phone is not served: %s", error)
        return
    server.set_app(watched)
    print(f"Phone at http://localhost:{phone.server_address[1]}/", flush=True)
    threading.Thread(target=phone.serve_forever, name="smsreply-phone", daemon=True).start()


def serve_in_production(options: Any, serve: Callable[[Any], None]) -> None:
    """Serve for everybody, if Twilio's signature can be checked."""
    app = make_app(options, not options.no_verify, make_cache(options))
    if lacks_token(app):
        raise UsageError(
            "set TWILIO_AUTH_TOKEN to your account's auth token: without it nobody is answered"
        )
    if not isinstance(app, App):
        log.warning("%s is not an App: it has to check itself what Twilio signed", options.handler)
    host, port = options.host or "0.0.0.0", options.port
    try:
        port = port_number(os.environ.get("PORT") or str(PORT)) if port is None else port
    except ValueError:
        raise UsageError(f"PORT={os.environ['PORT']!r} is not a port") from None
    threads = 64 if options.threads is None else options.threads
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    try:
        with listening(host, port):
            server = Production(app, host, port, threads)
    except ImportError:
        raise UsageError(
            "waitress is not installed, and --production needs it: python3 -m pip install waitress"
        ) from None
    at = webhook_url(app, host, server.server_address[1])
    print(f"Answering at {at} (SIGTERM stops it)", flush=True)
    serve(server)


def log_to_terminal(level: int) -> None:
    """Show what is logged: trouble on stderr, and messages, if *level* is DEBUG, on stdout."""
    import io

    # Not a StreamHandler: which stream it is depends on the record.
    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # waitress has a line for each time that it reaches its limit of connections.
            if record.name == "waitress" and seldom.suffix_for(str(record.msg)) is None:
                return
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            # That the terminal was closed is no reason to answer nobody.
            with contextlib.suppress(OSError, ValueError):
                print(self.format(record), file=stream, flush=True)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    seldom = Seldom()
    levels = {"smsreply": level, "waitress": logging.WARNING, "waitress.queue": logging.ERROR}
    for name, least in levels.items():
        logger = logging.getLogger(name)
        logger.setLevel(least)
        logger.handlers[:] = [Terminal()]
        logger.propagate = False


if __name__ == "__main__":
    raise SystemExit(main())
