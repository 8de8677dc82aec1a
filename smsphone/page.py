"""The phone in a browser, and its small server: an inspector of all that a webhook gets.

It is served on loopback, on a port of its own, so that a tunnel to the webhook never
exposes it.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from smsreply import (
    OK,
    Refused,
    development_server,
    log,
    read_body,
    to_tokens,
    token_of_environment,
)

from .copies import copies
from .exchange import Exchange
from .ledger import Ledger, Row
from .request import PHONE_NUMBER, YOUR_NUMBER, channel_params, message_params
from .urls import checked_url
from .watch import Watch
from .what_if import WHAT_IF, WrittenPhone, changed, finding, recorded
from .wire import sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from .wire import Request

FILES = {
    "/": ("text/html", "page.html"),
    "/page.css": ("text/css", "page.css"),
    "/page.js": ("text/javascript", "page.js"),
}
EVENTS = "/events"
# A picture from elsewhere is fetched only when somebody clicks on its URL; nothing else is.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: https: http://localhost:* http://127.0.0.1:*; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
DEFAULTS = {"public_url": "", "to": YOUR_NUMBER, "method": "POST", "signature_settings": ""}


class WrongMethod(Refused):
    """RFC 9110, 15.5.6: a 405 says which methods there are."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"only {allowed} is answered here", "405 Method Not Allowed")
        self._allowed = allowed

    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("Allow", self._allowed),)


def page_file(name: str) -> str:
    """Return the text of a file of the page, also where the package is in a zip."""
    package = importlib.resources.files(__package__ or "smsphone")
    return (package / name).read_text(encoding="utf-8")


class PhonePage:
    """A WSGI callable: the phone in the browser of whoever sits at this machine.

    A page on the web can have a browser send requests here.  It gets nothing by that: a
    form cannot send JSON, a script has its page's Origin, and a name that was made to
    lead here (DNS rebinding) is another Host.  Logs nothing that was sent or received.
    """

    STREAMS = 30  # pages that are open at once, each with a thread
    BEAT = 10.0  # seconds, after which a page that has left is noticed

    def __init__(
        self, webhook: str, public_url: str | None = None, ledger: Ledger | None = None
    ) -> None:
        self.ledger = ledger or Ledger()
        self._use({**DEFAULTS, "webhook": webhook, "public_url": public_url or ""}, None)
        self._token: Any = None  # that was typed; without one, TWILIO_AUTH_TOKEN counts
        self._before: tuple[WrittenPhone, dict[str, str]] | None = None
        self._streams = threading.Semaphore(self.STREAMS)
        self._actions: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "/state": self._state,
            "/settings": self._settings,
            "/clear": self._clear,
            "/undo": self._undo,
            "/sender": self._sender,
            "/text": self._text,
            "/again": self._again,
            "/exchange": self._exchange,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        extra: tuple[tuple[str, str], ...] = ()
        try:
            check_from_here(environ)
            if environ.get("PATH_INFO") == EVENTS and environ["REQUEST_METHOD"] == "GET":
                return self._events(environ, start_response)
            kind, body = self._answer(environ)
            status = OK
        except Refused as refused:
            status, extra = refused.status, refused.headers()
            kind, body = "text/plain", f"{refused}\n"
        except Exception as error:  # its text may be somebody's message
            log.error("the phone's page failed: %s", type(error).__name__)
            status = "500 Internal Server Error"
            kind, body = "text/plain", "the phone failed\n"
        sent = body.encode("utf-8", "replace")
        size = ("Content-Length", str(len(sent)))
        start_response(status, [("Content-Type", kind + "; charset=utf-8"), size, *HEADERS, *extra])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else sent]

    def _answer(self, environ: WSGIEnvironment) -> tuple[str, str]:
        """Return the type and the text of a file of the page's, or of what an action tells."""
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path not in FILES and path not in self._actions and path != EVENTS:
            raise Refused("the phone has no such page", "404 Not Found")
        allowed = "POST" if path in self._actions else "GET"
        if method != allowed:
            raise WrongMethod(allowed)
        if method == "GET":
            kind, name = FILES[path]
            return kind, page_file(name)
        return "application/json", json.dumps(self._actions[path](read_json(environ)))

    def _events(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        """Return what changes, as it changes: server-sent events (HTML, 9.2)."""
        # A picture or a script of another page's has no Origin.  It could read nothing, but wait.
        if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin":
            raise Refused("only the phone's own page can use the phone", "403 Forbidden")
        if not self._streams.acquire(blocking=False):
            raise Refused(f"{self.STREAMS} pages are open already", "503 Service Unavailable")
        start_response(OK, [("Content-Type", "text/event-stream; charset=utf-8"), *HEADERS])
        # A browser that connects again says itself what it had last; a page that was hidden asks.
        asked = environ.get("QUERY_STRING", "").removeprefix("since=")
        epoch, _, version = str(environ.get("HTTP_LAST_EVENT_ID") or asked).partition(".")
        seen = int(version) if re.fullmatch("[0-9]{1,15}", version) else 0
        return self._stream(epoch, seen)

    def _stream(self, epoch: str, seen: int) -> Iterator[bytes]:
        ledger = self.ledger
        try:
            yield b"retry: 1000\n\n"
            while True:
                with ledger.changed:
                    if epoch == ledger.epoch and seen == ledger.version:
                        ledger.changed.wait(self.BEAT)
                    same = epoch == ledger.epoch and seen == ledger.version
                    told = {} if same else ledger.since(epoch, seen, self._phone.target)
                    epoch, seen = ledger.epoch, ledger.version
                if told:
                    told["state"] = self._state({})
                data = f"id: {epoch}.{seen}\ndata: {json.dumps(told)}\n\n" if told else ":\n\n"
                yield data.encode("utf-8", "replace")
                time.sleep(0.03)  # what changes together goes together
        finally:
            self._streams.release()

    def _use(self, settings: dict[str, str], token: Any) -> None:
        """Take another phone, which has no cookies yet; raise ValueError for a bad URL."""
        self._phone = WrittenPhone(
            self.ledger,
            settings["webhook"],
            auth_token=token,
            public_url=settings["public_url"] or None,
            to=settings["to"],
            method=settings["method"],
            signature_settings=settings["signature_settings"] or None,
        )
        self._chosen = settings

    def _state(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the page needs beside the rows.  Of the token only where it is from."""
        token = self._phone.auth_token
        try:
            found = to_tokens(token_of_environment() if token is None else token)
        except ValueError:  # it is an SID
            found = []
        source = "TWILIO_AUTH_TOKEN" if token is None else "this page"
        return {
            "settings": self._chosen,
            "number": PHONE_NUMBER,
            "url": self._phone.url,
            "token": source if found else "",
            "unsigned": token == "",
        }

    def _settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {name: text_in(wanted, name).strip() for name in self._chosen}
        if not (chosen["to"] and chosen["method"] in ("GET", "POST")):
            raise Refused("a number, and GET or POST, are needed")
        if not chosen["signature_settings"].isprintable():
            raise Refused("the signature settings have a character that no header has")
        # A token that is not given is the one there was: it goes to no page.
        self._token = text_in(wanted, "token").strip() or self._token
        try:
            self._use(chosen, "" if wanted.get("unsigned") else self._token)
        except ValueError as error:
            raise Refused(str(error)) from error
        with self.ledger.changed:
            self.ledger.touch()
        return self._state(wanted)

    def _clear(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Begin again, without messages and cookies."""
        self._before = self._phone, self._chosen
        self.ledger.clear()
        self._use(self._chosen, self._phone.auth_token)
        return {}

    def _undo(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        if self._before:
            self._phone, self._chosen = self._before
        self._before = None
        self.ledger.undo()
        return {}

    def _sender(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return whom a message is from, by a number and a channel."""
        number, channel = text_in(wanted, "number").strip(), text_in(wanted, "channel")
        if not (number.isprintable() and 0 < len(number) < 100):
            raise Refused("a number is needed, like +15005550001")
        if channel == "hidden":  # WhatsApp's ID of the person, who took a username
            user = channel_params("whatsapp", f"whatsapp:{number}", [], {})["ExternalUserId"]
            return {"from": f"whatsapp:{user}"}
        return {"from": f"{channel}:{number}" if channel in ("whatsapp", "rcs") else number}

    def _text(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        body, media = text_in(wanted, "body"), text_in(wanted, "media").split()
        for url in media:
            try:
                checked_url(url)
            except ValueError:
                raise Refused(f"{url[:80]!r} is no URL like https://abc.example/cat.png") from None
        number = text_in(wanted, "from") or PHONE_NUMBER
        return self._send(message_params(number, self._phone.to, body, media, {}))

    def _again(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Send once more what came or was sent before, as it was or with one thing broken."""
        row, what = self._row(wanted), text_in(wanted, "what")
        if what not in WHAT_IF or not row.hops:
            raise Refused("there is no such thing to do")
        first = row.hops[0].request
        params: Any = wanted.get("params", row.exchange.params)
        method = "GET" if wanted.get("method", first.method) == "GET" else "POST"
        if not isinstance(params, dict) or not all(isinstance(v, str) for v in params.values()):
            raise Refused("the params are not an object of texts")
        params = {sendable(name): sendable(value) for name, value in params.items()}
        if what == "" and row.source:
            return self._deliver_raw(row, first)
        change = text_in(wanted, "signature") if what == "edited" else what
        params, signature = changed(self._phone, params, method, change)
        return self._send(params, method, signature, what, row)

    def _send(
        self,
        params: dict[str, str],
        method: str | None = None,
        signature: str | None = None,
        what: str = "",
        before: Row | None = None,
    ) -> dict[str, Any]:
        """Send a message, which may take a while: so a thread does it."""
        phone = self._phone
        params = {sendable(name): sendable(value) for name, value in params.items()}
        how = WHAT_IF[what] if before else ""
        row = self.ledger.add(Exchange(params), "", how, before.number if before else 0)

        def work() -> None:
            phone.send(row, method, signature, what == "slowly")
            if before:
                row.finding = finding(what, before, row)

        return self._in_a_thread(row, work)

    def _deliver_raw(self, before: Row, first: Request) -> dict[str, Any]:
        """Deliver the bytes that came from outside once more, to the webhook's own port."""
        request = recorded(first, self._chosen["webhook"])
        row = self.ledger.add(
            Exchange(before.exchange.params), before.source, WHAT_IF[""], before.number
        )
        phone = self._phone
        return self._in_a_thread(row, lambda: phone.send_bytes(row, request))

    def _in_a_thread(self, row: Row, work: Callable[[], None]) -> dict[str, Any]:
        def run() -> None:
            try:
                work()
            except Exception as error:  # its text may be somebody's message
                log.error("the phone's page failed: %s", type(error).__name__)
            with self.ledger.changed:
                row.done = True
                self.ledger.touch(row)

        threading.Thread(target=run, name="smsreply-phone", daemon=True).start()
        return {"number": row.number, "from": row.exchange.params.get("From", "")}

    def _exchange(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return all of an exchange, for a page that shows it."""
        row = self._row(wanted)
        with self.ledger.changed:
            told = row.json(self._phone.target)
            return {**told, "copies": copies(row, self._chosen["webhook"])}

    def _row(self, wanted: Mapping[str, Any]) -> Row:
        number = wanted.get("number")
        row = self.ledger.rows.get(number) if isinstance(number, int) else None
        if row is None:
            raise Refused("this exchange is no longer kept", "404 Not Found")
        return row


def check_from_here(environ: WSGIEnvironment) -> None:
    """Raise `Refused` unless the request is for this server's own name, and by its page."""
    port = environ["SERVER_PORT"]
    hosts = [f"{name}:{port}" for name in ("localhost", "127.0.0.1")]
    if port == "80":
        hosts += ["localhost", "127.0.0.1"]
    if environ.get("HTTP_HOST") not in hosts:
        raise Refused(f"the phone is at http://localhost:{port}/ only", "403 Forbidden")
    if environ.get("HTTP_ORIGIN") not in [None, *["http://" + host for host in hosts]]:
        raise Refused("only the phone's own page can use the phone", "403 Forbidden")


def read_json(environ: WSGIEnvironment) -> dict[str, Any]:
    # With a form's three types any page can have a browser send a request, unasked.  For any
    # other type the browser asks first (Fetch, "CORS-preflight"), and is refused.
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("the phone reads application/json", "415 Unsupported Media Type")
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


def watch(application: WSGIApplication) -> Watch:
    """Return a WSGI callable around *application*, all of whose requests the page shows."""
    return Watch(application)


def serve(webhook: str, public_url: str | None, port: int, watched: Watch | None = None) -> Any:
    """Return a server on loopback for the page of *webhook*, around which *watched* may be."""
    page = PhonePage(webhook, public_url, watched.ledger if watched else None)
    return development_server(page, "127.0.0.1", port)
