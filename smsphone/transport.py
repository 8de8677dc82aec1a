"""Send a request and read the answer: over a socket, or from a WSGI callable in this process."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from smsreply import MAX_TWIML, log, printable, traceback_text

from .errors import TwilioError
from .urls import name_and_port, split_url
from .wire import Request, Response, check_piece, wsgi_response

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

LIMIT = 2 * MAX_TWIML  # bytes of an answer that are read: its headers, and the longest document


@dataclass(frozen=True)
class Times:
    """How long Twilio waits: *connect* seconds for a connection, *read* for each packet.

    All tries end at *deadline*, by `time.monotonic`.  *chosen* says whether the URL's
    fragment sets it.
    """

    connect: float
    read: float
    deadline: float
    chosen: bool = False

    def late(self, detail: str, answer: Response | None = None) -> TwilioError:
        over = self.chosen and time.monotonic() >= self.deadline
        return TwilioError(11203 if over else 11205, detail, answer)


def over_the_wire(request: Request, times: Times, pause: float = 0.0) -> Response:
    """Send *request*, and read one answer.

    With a *pause*, in seconds, the body comes as over a slow line: in pieces.
    """
    with connect_to(request.target, times) as connection:
        recorder = Recorder(connection, times)
        try:
            head = len(request.wire) - len(request.body) if pause else len(request.wire)
            connection.sendall(request.wire[:head])
            for start in range(head, len(request.wire), 100):
                time.sleep(pause)
                connection.sendall(request.wire[start : start + 100])
            return read_answer(recorder, request.method)
        except (http.client.HTTPException, ValueError) as error:
            if not recorder.seen:
                raise TwilioError(11205, "the connection was closed without an answer") from error
            detail = f"{type(error).__name__}: {error}"
            raise TwilioError(11206, detail, recorder.answer()) from error
        except OSError as error:
            late = isinstance(error, TimeoutError) or time.monotonic() >= times.deadline
            why = "the time is over" if late else f"the connection broke: {error.strerror or error}"
            raise times.late(why, recorder.answer() if recorder.seen else None) from error


def read_answer(recorder: Recorder, method: str) -> Response:
    response = http.client.HTTPResponse(recorder, method=method)  # type: ignore[arg-type]
    with contextlib.closing(response):
        response.begin()
        # RFC 9110, section 15.2: one or more 1xx may come first.  http.client knows 100 alone.
        while 101 < response.status < 200:
            response.headers = None  # type: ignore[assignment]
            response.begin()
        body = response.read(MAX_TWIML + 1)  # one byte more shows that it is too long
        # http.client returns a body that was cut off as if it were whole.
        if response.length and len(body) <= MAX_TWIML:
            raise http.client.IncompleteRead(body, response.length)
        return recorder.answer(response.status, tuple(response.getheaders()), body)


def connect_to(url: str, times: Times) -> Any:
    """Return a connected socket, with TLS for https."""
    scheme, _, host, _ = split_url(url)
    name, port = name_and_port(scheme, host)
    left = max(times.deadline - time.monotonic(), 0.001)
    try:
        connection = socket.create_connection((name, int(port)), min(times.connect, left))
    except (OSError, ValueError) as error:
        raise TwilioError(connect_code(error), f"{host}: {error}") from error
    if scheme == "http":
        return connection
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=name)
    except (OSError, ValueError) as error:
        connection.close()
        raise TwilioError(tls_code(error), f"TLS: {error}") from error


def connect_code(error: Exception) -> int:
    if isinstance(error, ConnectionRefusedError):
        return 11202
    return 11210 if isinstance(error, (socket.gaierror, ValueError)) else 11201


def tls_code(error: Exception) -> int:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return 11220
    # OpenSSL's X509_V_ERR_…: 10 has expired, 62 is another host's name, 64 another's address.
    return {10: 11236, 62: 11235, 64: 11235}.get(error.verify_code, 11237)


class Recorder(io.RawIOBase):
    """Reads an answer from a socket until a deadline, and keeps every byte."""

    def __init__(self, connection: Any, times: Times) -> None:
        super().__init__()
        self.seen = b""
        self._times = times
        self._connection = connection

    def answer(
        self, status: int = 0, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> Response:
        """Return what was read; without *status*, it could not be understood."""
        return Response(status, headers, body, self.seen)

    def makefile(self, mode: str) -> Any:
        """Return a file to read from.  `http.client` asks a socket for nothing else."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come; raise TimeoutError if a packet is late, or the deadline is over."""
        left = self._times.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if len(self.seen) > LIMIT:
            raise http.client.HTTPException(f"over {LIMIT} bytes, and no end")
        self._connection.settimeout(min(left, self._times.read))
        count: int = self._connection.recv_into(buffer)
        self.seen += bytes(buffer[:count])
        return count


class LogKeeper(logging.Handler):
    """Keeps the warnings and errors that a webhook logs while it answers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: dict[int, logging.LogRecord] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._records[id(record)] = record  # two loggers may pass on the same one

    def texts(self) -> tuple[str, ...]:
        return tuple(map(log_text, list(self._records.values())))


def log_text(record: logging.LogRecord) -> str:
    """Return what *record* says, its traceback included; each line is fit for a terminal."""
    try:
        text = record.getMessage()
    except Exception:  # the arguments do not fit the message
        text = str(record.msg)
    if record.exc_info and record.exc_info[1]:
        text += "\n" + traceback_text(record.exc_info[1])
    lines = text.splitlines()
    return "\n".join([printable(line, 2000) for line in lines[:1] + lines[1:][-60:]])


def in_process(call: WSGIApplication, request: Request) -> Response:
    """Return what the WSGI callable *call* answers to *request*, in this thread and context."""
    keeper = LogKeeper()
    root = logging.getLogger()
    # A framework's loggers pass their records on to the root logger.  Where that has no handler,
    # Python prints them by itself, and a handler of ours would stop it.
    loggers = [log, root] if root.handlers else [log]
    for logger in loggers:
        logger.addHandler(keeper)
    try:
        status, headers, body = call_wsgi(call, environ_of(request))
    finally:
        for logger in loggers:
            logger.removeHandler(keeper)
    return replace(wsgi_response(status, headers, body), log=keeper.texts())


def environ_of(request: Request) -> dict[str, Any]:
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
        "REMOTE_ADDR": "127.0.0.1",  # PEP 3333 does not ask for it, but programs rely on it
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
    return environ


def call_wsgi(
    call: WSGIApplication, environ: dict[str, Any]
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Call a WSGI callable as a server does: if it raises, the answer is 500.

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
            size = 0
            for piece in result:
                check_piece(piece)
                written.append(piece)
                size += len(piece)
                if size > LIMIT:  # it may have no end
                    break
        finally:
            if hasattr(result, "close"):
                result.close()
        if not started:
            raise TypeError("it did not call start_response: is it a WSGI callable?")
        status, headers = started
        if not (isinstance(status, str) and re.match("[1-9][0-9]{2}( |$)", status)):
            raise ValueError(f"the status {status!r} is not a str like '200 OK'")
        return status, [(str(name), str(value)) for name, value in headers], b"".join(written)
    except (Exception, SystemExit) as error:
        log.error("the webhook raised:\n%s", traceback_text(error))
        return "500 Internal Server Error", [], b""
