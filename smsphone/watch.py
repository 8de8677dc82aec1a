"""Write down all that the development server gets: `Watch` stands around the application.

It reads nothing itself.  It keeps what the program read and answered, and what it logged
meanwhile; a `ContextVar` says to which request a line belongs.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from smsreply import (
    FORM_TYPE,
    MAX_BODY,
    MAX_TWIML,
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    Refused,
    log,
    request_target,
    requested_urls,
    signed_string,
    traceback_text,
)

from .errors import TwilioError
from .exchange import Exchange
from .ledger import Hop, Ledger, Line
from .phone import Phone
from .verdict import verdict, why_refused
from .wire import Request, check_piece, wire_bytes, wsgi_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# The kind of a request, by a parameter that it has.  A message made by hand may have only one.
KINDS = {"MessageStatus": "status", "From": "message", "Body": "message"}
TOKEN_HEADER = "I-Twilio-Idempotency-Token"
# The request that this thread is answering.
NOW: contextvars.ContextVar[Visit | None] = contextvars.ContextVar("smsphone", default=None)


class Watch:
    """A WSGI callable around *application*, which keeps all that comes and goes in a ledger.

    The verdict on a signature is made with the tokens and the `public_url` of the App.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self.ledger = Ledger()
        self._doubts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._explains = False
        WATCHES.append(self)
        if not FACTORY:  # once: whoever comes after it may call it
            FACTORY.append(logging.getLogRecordFactory())
            logging.setLogRecordFactory(made_record)

    def close(self) -> None:
        """Hear no more of the log."""
        WATCHES.remove(self)

    @property
    def app(self) -> Any:
        """The application itself, and not what loads it anew when its file changes."""
        return getattr(self._application, "application", self._application)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        visit = Visit(self, environ)
        try:
            with visit:
                result = self._application(environ, visit.starting(start_response))
            if not isinstance(result, (list, tuple)):
                return Pieces(visit, result)
            for piece in result:
                visit.keep(piece)
        except BaseException as error:
            visit.fail(error)
            raise
        visit.end()
        return result  # as it is: a server counts its pieces

    def explain_later(self, work: Callable[[], None]) -> None:
        """Have a thread do *work*: nobody's answer waits for the search."""
        if not self._explains:
            self._explains = True
            threading.Thread(target=self._explain, name="smsreply-explain", daemon=True).start()
        if self._doubts.qsize() < 100:  # more than that is a flood, and one reason serves it
            self._doubts.put(work)

    def _explain(self) -> None:
        while True:
            try:
                self._doubts.get()()
            except Exception as error:  # its text may be somebody's message
                log.error("explaining failed: %s", type(error).__name__)


class Visit:
    """One request to the watched program, and its answer."""

    def __init__(self, watch: Watch, environ: WSGIEnvironment) -> None:
        self.watch, self._environ = watch, dict(environ)
        self._at, self._started = time.time(), time.monotonic()
        self._input = environ["wsgi.input"] = Tee(environ["wsgi.input"], self)
        self._length = length_of(environ)
        self._status, self._body = "", bytearray()
        self._headers: list[tuple[str, str]] = []
        self._ended = False
        self.ledger = watch.ledger
        self.hop = self.ledger.claim(environ.get("HTTP_I_TWILIO_IDEMPOTENCY_TOKEN", ""))
        self._ours = self.hop is not None
        self._early: list[Line] = []
        if self._length == 0:
            self.arrived()

    def __enter__(self) -> None:
        self._token = NOW.set(self)

    def __exit__(self, *error: object) -> None:
        NOW.reset(self._token)

    def starting(self, start_response: StartResponse) -> Any:
        """Return a `start_response` that keeps what it is told, and passes it on."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            self._status, self._headers = status, list(headers)
            write = start_response(status, headers, *exc_info)

            def write_and_keep(piece: bytes) -> Any:
                self.keep(piece)
                return write(piece)

            return write_and_keep

        return start

    def keep(self, piece: bytes) -> None:
        check_piece(piece)
        self._body += piece[: MAX_TWIML + 1 - len(self._body)]

    def say(self, line: Line) -> None:
        if self.hop is None:
            self._early.append(line)
        else:
            self.ledger.say(line, self.hop)

    def arrived(self) -> None:
        """Make a row, or add to one, as soon as all of the request has been read."""
        if self.hop is not None:
            if self._ours:
                self.hop.watched = True
            return
        request = self._request()
        params = dict(request.fields)
        row = self.ledger.row_of_message(params.get("MessageSid", ""))
        if row is None:
            row = self.ledger.add(Exchange(params), self._source())
        elif request.kind == "message":
            again = row.hops[0].request.url == request.url
            request = replace(request, kind="retry" if again else "redirect")
        row.exchange.requests.append(request)
        row.exchange.answers.append(None)
        self._row, self.hop = row, Hop(request)
        self.hop.watched, self.hop.lines = True, self._early
        self.ledger.begin(row, self.hop)

    def _source(self) -> str:
        """Return who sent this, as far as its headers tell."""
        agent = str(self._environ.get("HTTP_USER_AGENT", ""))[:60]
        host = str(self._environ.get("HTTP_HOST", "")).partition(":")[0]
        if agent.startswith("TwilioProxy"):
            return "the terminal" if host in ("localhost", "127.0.0.1") else "Twilio"
        return agent.partition(" ")[0] or "a program"

    def _request(self) -> Request:
        """Return the request as far as the program has read it."""
        environ, body = self._environ, bytes(self._input.seen)
        method, target, url = environ["REQUEST_METHOD"], self._target(), self._url()
        encoded = (
            body if method == "POST" else target.partition("?")[2].encode("latin-1", "replace")
        )
        form = method != "POST" or FORM_TYPE in environ.get("CONTENT_TYPE", FORM_TYPE)
        text = encoded.decode("utf-8", "replace") if form else ""
        fields = tuple(parse_qsl(text, keep_blank_values=True, separator="&", errors="replace"))
        headers = headers_in(environ)
        first_line = f"{method} {target} {environ.get('SERVER_PROTOCOL', 'HTTP/1.1')}"
        wire = wire_bytes(first_line, headers, body)
        signature = environ.get("HTTP_X_TWILIO_SIGNATURE", "")
        signed = signed_string(url, fields if method == "POST" else ()) if signature else ""
        kind = next((kind for name, kind in KINDS.items() if name in dict(fields)), "other")
        return Request(
            kind, method, url, target, fields, tuple(headers), body, signed, signature, wire,
            self._at,
        )  # fmt: skip

    def _target(self) -> str:
        try:
            return request_target(self._environ)
        except Refused:
            return str(self._environ.get("REQUEST_URI") or "/")

    def _url(self) -> str:
        public = getattr(self.watch.app, "public_url", None)
        try:
            return next(requested_urls(self._environ, self._target(), public))
        except Refused:
            return self._target()

    def fail(self, error: BaseException) -> None:
        """Keep what the program raised."""
        self.say(Line("ERROR", "server", f"the program raised\n{traceback_text(error)}"))
        self.end()

    def end(self) -> None:
        """Keep the answer, what it makes of the message, and whether Twilio sent it."""
        if self._ended:
            return
        self._ended = True
        try:
            self._end()
        except Exception as error:  # to look on must cost nobody the answer
            log.error("the phone's page failed: %s", type(error).__name__)

    def _end(self) -> None:
        self.arrived()
        hop = self.hop
        assert hop is not None
        hop.unread = max(self._length - len(self._input.seen), 0)
        if not self._ours:
            self._take_answer(hop)
        self._judge(hop)

    def _take_answer(self, hop: Hop) -> None:
        status, seconds = self._status or "500 No answer", time.monotonic() - self._started
        answer = wsgi_response(status, self._headers, bytes(self._body))
        hop.answer = replace(answer, seconds=seconds)
        exchange = self._row.exchange
        exchange.answers[exchange.requests.index(hop.request)] = hop.answer
        with self.ledger.changed:
            obey(exchange, hop)
            self._row.done = True
        self.ledger.end(self._row, hop)

    def _judge(self, hop: Hop) -> None:
        """Find out whether Twilio signed the request; why not is a longer search."""
        request = replace(hop.request, url=self._url())  # as the program saw it
        if hop.unread and not self._ours:
            self._found(hop, ("unknown", "your program did not read the body, so nobody can tell"))
            return
        kind, text, tokens = verdict(self.watch.app, self._environ, request)
        if kind == "refused" and self._status < "4":
            kind = "accepted"
        self._found(hop, (kind, text))
        if tokens:
            headers = dict(headers_in(self._environ))
            self.watch.explain_later(
                lambda: self._found(hop, (kind, why_refused(tokens, request, headers)))
            )

    def _found(self, hop: Hop, found: tuple[str, str]) -> None:
        with self.ledger.changed:
            hop.verdict = found
            self.ledger.touch(hop.row)


class Tee:
    """The body of a request, which is kept as it is read."""

    def __init__(self, stream: Any, visit: Visit) -> None:
        self._stream, self._visit = stream, visit
        self.seen = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read(self, *size: int) -> bytes:
        return self._keep(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._keep(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._keep(line) for line in self._stream.readlines(*hint)]

    def _keep(self, piece: bytes) -> bytes:
        self.seen += piece[: MAX_BODY + 1 - len(self.seen)]
        if piece and len(self.seen) == self._visit._length:
            self._visit.arrived()
        return piece


class Pieces:
    """An answer that comes piece by piece."""

    def __init__(self, visit: Visit, result: Iterable[bytes]) -> None:
        self._visit, self._result = visit, result
        self._iterator = iter(result)

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        try:
            with self._visit:
                piece = next(self._iterator)
            self._visit.keep(piece)
        except StopIteration:
            self._visit.end()
            raise
        except BaseException as error:
            self._visit.fail(error)
            raise
        return piece

    def close(self) -> None:
        try:
            if hasattr(self._result, "close"):
                with self._visit:
                    self._result.close()
        finally:
            self._visit.end()


def obey(exchange: Exchange, hop: Hop) -> None:
    """Do with an answer what Twilio does, but ask nobody else."""
    answer = hop.answer
    if answer is None or hop.request.kind in ("status", "other"):
        return
    try:
        if answer.status >= 400:
            raise TwilioError(11217, f"status {answer.status}", answer)
        if answer.status < 300:
            if len(answer.body) > MAX_TWIML:
                raise TwilioError(11750, answer=answer)
            if answer.seconds > Phone.TIMEOUT:
                raise TwilioError(11205, f"it took {answer.seconds:.1f} s", answer)
            READER._obey(exchange, hop.request.url, hop.request.body.decode("latin-1"), answer)
    except TwilioError as error:
        exchange.errors.append(error)


READER = Phone("http://localhost/", auth_token="", statuses=())


def length_of(environ: WSGIEnvironment) -> int:
    length = str(environ.get("CONTENT_LENGTH") or "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else -1


def headers_in(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """Return the request's headers: their order, and the case of their names, are lost."""
    known = {name.upper(): name for name in (SIGNATURE_HEADER, SIGNATURE_SETTINGS_HEADER)}
    found = []
    for key, value in environ.items():
        name = key.removeprefix("HTTP_")
        if value and (name != key or key in ("CONTENT_TYPE", "CONTENT_LENGTH")):
            name = name.replace("_", "-")
            found.append((known.get(name, name.title()), str(value)))
    return found


# A handler of logging's on the root would change what logging.warning() prints where nobody
# set up any, and would miss the loggers that do not propagate.  So each record is looked at
# as it is made.
WATCHES: list[Watch] = []
FACTORY: list[Callable[..., logging.LogRecord]] = []


def made_record(*args: Any, **named: Any) -> logging.LogRecord:
    record = FACTORY[0](*args, **named)
    if record.name != log.name or record.levelno > logging.DEBUG:  # those repeat what the rows show
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1]:
                text += f"\n{traceback_text(record.exc_info[1])}"
            line = Line(record.levelname, record.name, text)
            visit = NOW.get()
            if visit is not None:
                visit.say(line)
            for watch in WATCHES if visit is None else ():
                watch.ledger.say(line, None)
        except Exception:  # a record that cannot be read is logging's own to complain of
            return record
    return record
