"""The phone: one message, and all that follows from it."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from smsreply import MAX_TWIML, to_tokens, token_of_environment

from .answer import message_of, verbs_of
from .errors import NOT_SENT, UNREADABLE, WARNING, TwilioError
from .exchange import Exchange
from .request import (
    ACCOUNT,
    PHONE_NUMBER,
    YOUR_NUMBER,
    Jar,
    Signature,
    make_request,
    message_params,
    new_sid,
)
from .transport import Times, in_process, over_the_wire
from .urls import absolute, checked_url, escaped, is_below, whereabouts
from .wire import sendable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import WSGIApplication

    from smsreply import Tokens

    # What Twilio requests next: a URL, the method, the fields as a form, the request's kind.
    Onward = tuple[str, str, str, str]

    from .answer import SentMessage
    from .wire import Request, Response

FALLBACK_URL = "https://localhost/fallback"


class Phone:
    """Twilio's side, offline: texts a webhook, and does what Twilio does with the answer.

    *webhook* is a URL, or a WSGI callable, which the phone finds at ``https://localhost/sms``.
    *auth_token* is ``TWILIO_AUTH_TOKEN`` by default; without one, nothing is signed.  With
    *signature_settings*, ``"key=…,algorithm=HMAC_SHA256"``, it is a SharedKey's secret.
    *public_url* is the URL that Twilio would have: all of it, or scheme, host, and the path
    prefix that a proxy strips.  *number* is the person's, and *to* is yours.

    The phone asks *fallback*, a URL or a WSGI callable, when the webhook fails.  *statuses*
    are what happens to each message that has a ``statusCallback``, one after the other.

    >>> import smsreply
    >>> app = smsreply.App(lambda message: message.body.upper(), auth_token="12345")
    >>> Phone(app, auth_token="12345").text("hello").reply
    'HELLO'
    """

    TIMEOUT = 15.0  # seconds for an answer, connecting and all tries included
    CONNECT_TIMEOUT = 5.0
    REDIRECTS = 10  # of HTTP
    DOCUMENTS = 50  # of TwiML
    MESSAGES = 10

    def __init__(
        self,
        webhook: str | WSGIApplication,
        *,
        auth_token: Tokens | None = None,
        public_url: str | None = None,
        number: str = PHONE_NUMBER,
        to: str = YOUR_NUMBER,
        method: str = "POST",
        signature_settings: str | None = None,
        fallback: str | WSGIApplication | None = None,
        statuses: Iterable[str] = ("sent", "delivered"),
    ) -> None:
        if not (isinstance(webhook, str) or callable(webhook)):
            raise TypeError(f"a webhook is a URL or a WSGI callable, and not {webhook!r}")
        if not (fallback is None or isinstance(fallback, str) or callable(fallback)):
            raise TypeError(f"a fallback is a URL or a WSGI callable, and not {fallback!r}")
        self.auth_token = auth_token
        self.number, self.to = number, to
        self.method = checked_method(method)
        self._settings = signature_settings
        self._signature()  # raises if the token or the settings are wrong
        self._statuses = (statuses,) if isinstance(statuses, str) else tuple(statuses)
        self._call = None if isinstance(webhook, str) else webhook
        self._public, self._local, path = whereabouts(webhook, public_url)
        self.url = self._public + path  # as Twilio would be given it, fragment included
        self._fallback = fallback if isinstance(fallback, str) else FALLBACK_URL if fallback else ""
        self._fallback_call = None if isinstance(fallback, str) else fallback
        if self._fallback:
            checked_url(self._fallback)
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
        if not isinstance(exchange, Exchange):
            raise TypeError(f"what is repeated is an Exchange, and not {exchange!r}")
        return self.deliver(exchange.params)

    def deliver(
        self, params: dict[str, str], *, method: str | None = None, signature: str | None = None
    ) -> Exchange:
        """Send exactly these *params*; a *signature* that is given replaces the right one."""
        params = {sendable(str(name)): sendable(str(value)) for name, value in dict(params).items()}
        onward = self.url, checked_method(method or self.method), urlencode(params), "message"
        return self._converse(Exchange(params), onward, signature)

    def replay(self, file: str | os.PathLike[str]) -> Iterator[Exchange]:
        """Send each message of *file*, which `Exchange.save` wrote, and yield what became of it.

        The body is the same byte for byte, and so is the query; the signature is new.
        """
        # With an escape that JSON does not have, a line that is not UTF-8 is no saved request.
        with open(file, encoding="utf-8", errors="backslashreplace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    saved = json.loads(line)
                    method, form = checked_method(saved["method"]), sendable(saved["body"])
                    query = escaped(saved["url"]).partition("#")[0].partition("?")[2]
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    raise ValueError(f"{file}, line {number}, is no saved request") from None
                own = self.url.partition("#")[0].partition("?")[0]
                fields = parse_qsl(form if method == "POST" else query, keep_blank_values=True)
                onward = f"{own}?{query}" if query else own, method, form, "message"
                yield self._converse(Exchange(dict(fields)), onward, None)

    def _converse(self, exchange: Exchange, onward: Onward, signature: str | None) -> Exchange:
        """Make the first request, and all that it leads to."""
        try:
            self._follow(exchange, onward, signature)
        except TwilioError as error:
            exchange.errors.append(error)
            if self._fallback and error.code in UNREADABLE and error.level != WARNING:
                self._fall_back(exchange, error)
        for message in exchange.messages:
            self._report(exchange, message)
        return exchange

    def _fall_back(self, exchange: Exchange, error: TwilioError) -> None:
        failed = exchange.requests[-1].url if exchange.requests else self.url
        params = {**exchange.params, "ErrorCode": str(error.code), "ErrorUrl": failed}
        try:
            self._follow(exchange, (self._fallback, "POST", urlencode(params), "fallback"), None)
        except TwilioError as another:
            exchange.errors.append(another)

    def _follow(self, exchange: Exchange, onward: Onward | None, signature: str | None) -> None:
        """Make a request, and those that the answers lead to."""
        redirects = documents = 0  # of HTTP, up to the next document; of TwiML, in all
        while onward:
            url, method, form, _ = onward
            answer = self._ask(exchange, onward, signature)
            signature = None  # only the first request has the one that was given
            location = answer.header("location")
            if answer.status in (301, 302, 303, 307, 308) and location:
                redirects += 1
                if redirects > self.REDIRECTS:
                    raise TwilioError(11215, f"{self.REDIRECTS} were followed", answer)
                # RFC 9110, 15.4: only 307 and 308 keep the method for certain.
                method = method if answer.status >= 307 else "GET"
                onward = absolute(url, location), method, form, "redirect"
            else:
                redirects, documents = 0, documents + 1
                if documents > self.DOCUMENTS:
                    raise TwilioError(14106, f"the last one is of {url.partition('?')[0]}")
                onward = self._obey(exchange, url, form, answer)

    def _obey(self, exchange: Exchange, url: str, form: str, answer: Response) -> Onward | None:
        """Do what *answer* says; return where to go on, if it says so."""
        for verb in verbs_of(answer):
            method = verb.get("method", "POST").upper()
            if verb.tag == "Redirect":
                return absolute(url, (verb.text or "").strip()), method, form, "redirect"
            message = message_of(verb, url, exchange.params, new_sid("SM"))
            action = absolute(url, verb.get("action", "")) if verb.get("action") else ""
            callback = self._callback(exchange, url, verb.get("statusCallback", "")) or action
            message = replace(message, status_callback=callback)
            if len(exchange.messages) == self.MESSAGES:
                raise TwilioError(14109)
            exchange.messages.append(message)
            if action and self._statuses:
                exchange.told[message.sid] = 1
                params = status_params(message, self._statuses[0], exchange.params)
                return action, method, urlencode(params), "action"
        return None

    @staticmethod
    def _callback(exchange: Exchange, url: str, callback: str) -> str:
        """Return the URL of a statusCallback; if it is not a URL, that is only a warning."""
        try:
            return absolute(url, callback, 14105) if callback else ""
        except TwilioError as error:
            exchange.errors.append(error)
            return ""

    def _report(self, exchange: Exchange, message: SentMessage) -> None:
        """Tell the message's statusCallback what became of it."""
        told = exchange.told.get(message.sid, 0)
        for status in self._statuses[told:] if message.status_callback else ():
            form = urlencode(status_params(message, status, exchange.params))
            try:
                self._ask(exchange, (message.status_callback, "POST", form, "status"), None)
            except TwilioError as error:
                exchange.errors.append(error)

    def _ask(self, exchange: Exchange, onward: Onward, signature: str | None) -> Response:
        """Make one request, repeat it as Twilio would, and return the answer."""
        url, _, form, kind = onward
        overrides = dict(parse_qsl(url.partition("#")[2]))
        times = Times(
            seconds(overrides.get("ct"), self.CONNECT_TIMEOUT),
            seconds(overrides.get("rt"), self.TIMEOUT),
            deadline=time.monotonic() + seconds(overrides.get("tt"), self.TIMEOUT),
            chosen="tt" in overrides,
        )
        params = dict(parse_qsl(form, keep_blank_values=True))
        pair = params.get("From", ""), params.get("To", "")
        jar = Jar() if kind == "status" else self._jars.setdefault(pair, Jar())
        repeats = Repeats(overrides)
        request = self._build(onward, jar, signature)
        while True:
            exchange.requests.append(request)
            exchange.answers.append(None)
            try:
                answer = self._attempt(request, times)
            except TwilioError as error:
                exchange.answers[-1] = error.answer
                failure, trouble = "ct" if error.code in NOT_SENT else "rt", error
            else:
                exchange.answers[-1] = answer
                jar.keep(answer, url)
                if answer.status < 400:
                    return answer
                unsigned = answer.status == 403 and not request.signed
                hint = ", and nothing was signed: set TWILIO_AUTH_TOKEN" if unsigned else ""
                trouble = TwilioError(11217, f"status {answer.status}{hint}", answer)
                failure = f"{answer.status // 100}xx"
            if not repeats.after(failure, times.deadline):
                raise trouble
            request = replace(request, kind="retry", at=time.time())

    def _build(self, onward: Onward, jar: Jar, signature: str | None) -> Request:
        url, method, form, kind = onward
        url = url.partition("#")[0]
        if method != "POST" and form:
            url, form = f"{url}{'&' if '?' in url else '?'}{form}", ""
        sign = self._signature(signature)
        return make_request(kind, method, url, self.target(url), form, sign, jar.header(url))

    def _signature(self, given: str | None = None) -> Signature:
        found = token_of_environment() if self.auth_token is None else self.auth_token
        return Signature(to_tokens(found), self._settings, given)

    def target(self, url: str) -> str:
        """Return the URL to connect to, which leaves out the tunnel in front of the webhook."""
        return self._local + url[len(self._public) :] if is_below(url, self._public) else url

    def _attempt(self, request: Request, times: Times, pause: float = 0.0) -> Response:
        """Send *request* once, over the wire or in process, and return what comes back."""
        started = time.monotonic()
        call = self._callable_at(request.url)
        answer = in_process(call, request) if call else over_the_wire(request, times, pause)
        answer = replace(answer, seconds=time.monotonic() - started)
        if call and (answer.seconds > times.read or time.monotonic() > times.deadline):
            raise times.late(f"the answer took {answer.seconds:.1f} s", answer)
        if len(answer.body) > MAX_TWIML and answer.status < 400:
            raise TwilioError(11750, answer=answer)
        return answer

    def _callable_at(self, url: str) -> WSGIApplication | None:
        """Return the callable that answers at *url*, or None where a server does."""
        place, own = url.partition("?")[0], is_below(url, self._public)
        if place == re.split("[?#]", self._fallback)[0]:
            return self._fallback_call or (self._call if own else None)
        if self._call and not own:
            raise TwilioError(11200, f"not in this process: {place}")
        return self._call


def checked_method(method: str) -> str:
    """Return *method* in capitals; raise ValueError unless it is one of Twilio's two."""
    if str(method).upper() not in ("GET", "POST"):
        raise ValueError(f"method={method!r}: Twilio sends GET or POST")
    return method.upper()


class Repeats:
    """Says when Twilio tries again: as the URL's fragment says, or once if it cannot connect."""

    def __init__(self, overrides: dict[str, str]) -> None:
        self._left = min(int_or(overrides.get("rc"), 1), 5)
        self._policy = overrides.get("rp", "ct").lower().split(",")

    def after(self, failure: str, deadline: float) -> bool:
        """Return whether to try again.

        *failure* is ``ct`` (no connection), ``rt`` (no answer in time), ``4xx`` or ``5xx``.
        """
        self._left -= 1
        wanted = failure in self._policy or "all" in self._policy
        return wanted and self._left >= 0 and time.monotonic() < deadline


def int_or(text: str | None, default: int) -> int:
    """Return *text* as an int, or *default* if it is not a number of at most five digits."""
    return int(text) if text and text.isdecimal() and len(text) < 6 else default


def seconds(milliseconds: str | None, most: float) -> float:
    """Return a time of the URL's fragment in seconds; *most* is also the default."""
    return min(max(int_or(milliseconds, int(most * 1000)) / 1000, 0.1), max(most, 10.0))


def status_params(message: SentMessage, status: str, params: dict[str, str]) -> dict[str, str]:
    """Return the parameters of a status callback for *message*, the answer to *params*."""
    found = {
        "SmsSid": message.sid,
        "SmsStatus": status,
        "MessageStatus": status,
        "To": message.to,
        "MessageSid": message.sid,
        "AccountSid": params.get("AccountSid", ACCOUNT),
        "From": message.from_,
        "ApiVersion": "2010-04-01",
    }
    if status in ("undelivered", "failed"):
        found["ErrorCode"] = "30003"
    return found
