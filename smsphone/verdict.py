"""Whether Twilio signed a request, by the tokens and the public URL of the program that got it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smsreply import (
    SIGNATURE_SETTINGS_HEADER,
    Receiver,
    Refused,
    RequestValidator,
    printable,
    request_target,
    requested_urls,
    signature_algorithm,
    signed_string,
    to_tokens,
    token_of_environment,
)

from .explain import explain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import WSGIEnvironment

    from .wire import Request


def verdict(app: Any, environ: WSGIEnvironment, request: Request) -> tuple[str, str, list[bytes]]:
    """Return the verdict on *request*, which *app* got: its kind, and a sentence.

    The kind is ``genuine``, ``refused`` or ``unknown``.  The third value is the tokens with
    which to look for why a signature does not match.  An application that is no App is judged
    by TWILIO_AUTH_TOKEN.
    """
    try:
        return judged(app, environ, request)
    except (Refused, ValueError) as error:  # a Host that is none, a token that is an SID
        return "unknown", str(error), []


def judged(app: Any, environ: WSGIEnvironment, request: Request) -> tuple[str, str, list[bytes]]:
    ours = isinstance(app, Receiver)
    account = dict(request.fields).get("AccountSid", "")
    tokens = app.tokens(account) if ours else to_tokens(token_of_environment())
    if request.kind == "other" and not request.signature:
        return "", "", []
    if not tokens:
        if ours and app.tokens():
            return "refused", f"there is no auth token for {printable(account, 60)!r}", []
        return "unknown", "there is no auth token, so nobody can tell who sent this", []
    fields = signed_string("", request.fields) if request.method == "POST" else ""
    algorithm = signature_algorithm(request.header(SIGNATURE_SETTINGS_HEADER))
    validator = RequestValidator(tokens)
    urls = requested_urls(environ, request_target(environ), app.public_url if ours else None)
    for url in urls if request.signature else ():
        if validator.matches(url, fields, request.signature, algorithm):
            checked = app.verifies if ours else True
            return "genuine", "" if checked else "your program does not check it", []
    return "refused", "", tokens


def why_refused(tokens: list[bytes], request: Request, headers: Mapping[str, str]) -> str:
    """Return why no token matches, in a sentence."""
    params = request.fields if request.method == "POST" else ()
    body = request.body if "bodySHA256" in request.url else params
    why = explain(tokens, request.url, body, request.signature, None, headers)
    return why.partition("\nthe signature is checked")[0]
