"""URLs as Twilio resolves them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from smsreply import PATH, URL_PARTS, App

from .errors import TwilioError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def split_url(url: str) -> tuple[str, str, str, str]:
    """Return the scheme, the credentials, the host with its port, and the rest of *url*."""
    parts = URL_PARTS.fullmatch(url)
    if not parts or not parts[3] or int((parts[4] or "0").lstrip("0")[:6] or 0) > 65535:
        raise TwilioError(11200, f"{url!r} is not a URL")
    scheme, credentials, host, port, rest = parts.groups(default="")
    rest = rest if rest.startswith("/") else "/" + rest
    return scheme.lower(), credentials, host + (":" + port if port else ""), rest


def name_and_port(scheme: str, host: str) -> tuple[str, str]:
    """Return the two parts of *host*; without a port, the scheme's own."""
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
    return name.strip("[]"), port or {"https": "443", "http": "80"}[scheme]


def checked_url(url: str) -> tuple[str, str, str, str]:
    """Return what `split_url` does, and the fragment; raise ValueError if it is not a URL."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, and not {url!r}")
    try:
        scheme, credentials, host, path = split_url(url.partition("#")[0])
    except TwilioError:
        raise ValueError(f"{url!r} is not a URL like https://abc.example/sms") from None
    # A host's letters beyond ASCII are xn--… in a URL; a path's are escaped here.
    if " " in url or not url.isprintable() or not host.isascii():
        raise ValueError(f"{url!r} has a character that a URL cannot have")
    fragment = url.partition("#")[2]
    return scheme, credentials, host, escaped(f"{path}#{fragment}" if fragment else path)


def escaped(url: str) -> str:
    """Escape what a request line cannot carry, so that nothing in *url* becomes a header."""
    return re.sub("[^!-~]", lambda found: quote(found[0], errors="replace"), url)


def absolute(base: str, reference: str, code: int = 11200) -> str:
    """Return where *reference* leads from *base* (RFC 3986, section 5).

    Raise `TwilioError` with *code* if it leads nowhere.
    """
    try:
        url = urljoin(base.partition("#")[0], reference)
        split_url(url)
    except (ValueError, TwilioError):  # ValueError: brackets that hold no address
        raise TwilioError(code, f"{reference!r} leads nowhere") from None
    return escaped(url)


def is_below(url: str, origin: str) -> bool:
    """Return whether *url* is below *origin*: ``https://abc.example.evil`` is not."""
    return url.startswith(origin) and url[len(origin) : len(origin) + 1] in ("", "/", "?", "#")


def whereabouts(webhook: str | WSGIApplication, public_url: str | None) -> tuple[str, str, str]:
    """Return how the webhook's URL begins for Twilio, how it begins for us, and its rest."""
    if isinstance(webhook, str):
        scheme, credentials, host, path = checked_url(webhook)
        local = f"{scheme}://{credentials + '@' if credentials else ''}{host}"
        if not public_url:
            return f"{scheme}://{host}", local, path
        checked_url(public_url)
        public, own_path = [re.split("[?#]", url)[0] for url in (escaped(public_url), path)]
        if own_path == path:  # the query and the fragment may be in either of the two
            path += escaped(public_url)[len(public) :]
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
