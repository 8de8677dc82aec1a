"""Why a signature does not match: the exhaustive search, and advice.

What Twilio signs has four parts: the origin (scheme, host, port, and a prefix that a proxy
strips), the path, the query, and the fields.  For each there is a list of what it may have
been.  One part is exchanged at a time, then two, then one part twice.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import itertools
import re
from typing import TYPE_CHECKING, Any

from smsreply import (
    HASHES,
    HMAC_SHA1,
    HMAC_SHA256,
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    URL_PARTS,
    RequestValidator,
    body_hashes,
    printable,
    signature_algorithm,
    signed_string,
    to_bytes,
    to_pairs,
)

from . import guesses
from .wire import sendable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .guesses import Guess, Pairs

# One explanation makes at most so many HMACs, of so many characters in all: under a second.
MAX_TRIES = 100_000
MAX_TRIED = 60_000_000
MAX_HEADER = 1000  # in characters
# A longer request is no text message: only variants of its URL are tried.
MAX_CHANGED = 8000
MAX_CHANGED_FIELDS = 60
SID = re.compile("(AC|SK)[0-9a-fA-F]{32}")
NOTHING_WRONG = "nothing is wrong"
SIZES = {HMAC_SHA1: 28, HMAC_SHA256: 44}  # of a signature, in characters
CHECKED_WITH = (
    "signed with {} and checked with {}: pass on the header"
    f" {SIGNATURE_SETTINGS_HEADER}, which names the algorithm"
)


def explain(
    auth_token: Any,
    url: str,
    params: Any,
    signature: str | bytes | None,
    algorithm: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Return why the signature does not match, and what to do, in words for a person.

    The arguments are those of `RequestValidator.validate`.  *auth_token* may be a list of
    several, or a mapping from AccountSids.  *headers* are the request's: they may tell what
    a proxy saw.  This raises nothing, whatever the arguments are.
    """
    try:
        tokens = tokens_in(auth_token, params)
        if isinstance(tokens, str):
            return tokens
        return Search(tokens, url, params, signature, algorithm, headers or {}).explain()
    except Exception as error:  # what was passed is no request at all
        return (
            f"this cannot be explained ({type(error).__name__}): pass the token, the URL and the"
            " signature as str, the parameters as a dict or as the body's bytes, the headers as a dict"
        )


def tokens_in(auth_token: Any, params: Any) -> list[bytes] | str:
    """Return the tokens to try, or what is wrong with them."""
    if hasattr(auth_token, "items"):
        account = dict(to_pairs(params)).get("AccountSid", "")
        if account not in auth_token:
            return f"there is no auth token for the account {printable(account, 60)!r}"
        auth_token = auth_token[account]
    one = auth_token is None or isinstance(auth_token, (str, bytes))
    tokens = [token for token in ([auth_token] if one else auth_token) if token and token.strip()]
    if not tokens:
        return "the auth token is blank: set TWILIO_AUTH_TOKEN to the account's auth token"
    for token in tokens:
        if SID.fullmatch(to_bytes(token).decode("latin-1").strip()):
            return (
                f"{printable(str(token), 60)} is an SID, which is no secret: the auth token is the"
                " other value, beside it in Twilio's console"
            )
    return [to_bytes(token) for token in tokens]


class Search:
    """A signature that does not match, and the search for what it was made of."""

    def __init__(
        self,
        tokens: list[bytes],
        url: str,
        params: Any,
        signature: str | bytes | None,
        algorithm: str | None,
        headers: Mapping[str, str],
    ) -> None:
        named = {str(name).lower(): str(value) for name, value in headers.items()}
        self._settings = named.get(SIGNATURE_SETTINGS_HEADER.lower(), "")
        self._algorithm = (algorithm or signature_algorithm(self._settings)).upper()
        self._signature = to_bytes(signature or named.get(SIGNATURE_HEADER.lower()) or b"")
        # A longer header says nothing about a URL, and would only cost time.
        short = {name: value for name, value in named.items() if len(value) <= MAX_HEADER}
        self._headers = guesses.told_by_proxies(short)
        self._tokens = tokens
        self._url, _, self._fragment = sendable(url).partition("#")
        self._body = to_bytes(params) if isinstance(params, (str, bytes, bytearray)) else None
        self._hashes = body_hashes(self._url)
        pairs = [] if self._body is not None and self._hashes else to_pairs(params)
        self._pairs = [(sendable(name), sendable(value)) for name, value in pairs]
        self._fields = signed_string("", self._pairs)

    def explain(self) -> str:
        """Return the reason and its cure, and on a second line the string that was checked."""
        why = self._unusable() or self._match() or self._flaw() or self._search()
        url = re.sub("//[^/?#]*@", "//…@", self._url)
        checked = printable(repr(url + self._fields), 20_000)
        return f"{why or self._no_idea()}\nthe signature is checked against: {checked}"

    def _unusable(self) -> str:
        """Return what is missing, if nothing can be compared without it."""
        if not self._signature:
            return (
                f"the header {SIGNATURE_HEADER} is missing or empty: Twilio did not send this, or"
                " something on the way drops the header"
            )
        if self._algorithm not in HASHES:
            return f"{printable(self._algorithm, 40)!r} is not an algorithm that Twilio uses"
        if not URL_PARTS.fullmatch(self._url):
            return f"{printable(self._url, 300)!r} is not a whole URL, like https://abc.example/sms"
        return ""

    def _made_by(self, tokens: list[bytes], signature: bytes, algorithm: str) -> bool:
        """Return whether one of *tokens* signed what came, in any spelling of the URL."""
        return bool(tokens) and RequestValidator(tokens).matches(
            self._url, self._fields, signature, algorithm
        )

    def _match(self) -> str:
        """Return what to say if the signature matches; the hash of a JSON body may still differ."""
        if not self._made_by(self._tokens, self._signature, self._algorithm):
            return ""
        if not self._hashes:
            return f"{NOTHING_WRONG}: the signature matches"
        if self._body is None:
            return "the URL has a bodySHA256, which is the body's hash: pass the body's bytes"
        computed = hashlib.sha256(self._body).hexdigest()
        if self._hashes == [computed]:
            return f"{NOTHING_WRONG}: the signature and the body's hash match"
        return (
            f"the URL is signed, but its bodySHA256 is {printable(', '.join(self._hashes), 160)}, and"
            f" the body's is {computed}: pass the body's very bytes, before anything decodes them"
        )

    def _flaw(self) -> str:
        """Return what is wrong with the algorithm, the signature itself or the token."""
        other = HMAC_SHA1 if self._algorithm == HMAC_SHA256 else HMAC_SHA256
        if self._made_by(self._tokens, self._signature, other):
            return CHECKED_WITH.format(other, self._algorithm)
        bare = self._signature.strip(b" \t\r\n\"'")
        if bare != self._signature and self._made_by(self._tokens, bare, self._algorithm):
            return "the signature has white space or quotes around it that Twilio did not send"
        plus = self._signature.replace(b" ", b"+")
        if plus != self._signature and self._made_by(self._tokens, plus, self._algorithm):
            return "a + in the signature became a space: something decoded the header like a form"
        size = SIZES[self._algorithm]
        if len(bare) not in SIZES.values():
            return (
                f"the signature has {len(bare)} characters, and one made with"
                f" {self._algorithm} has {size}: it is not Twilio's, or it was changed on the way"
            )
        for characters, name in ((b" \t\r\n", "white space"), (b" \t\r\n\"'", "quotes")):
            tokens = [token.strip(characters) for token in self._tokens]
            tokens = [token for token in tokens if token]
            if tokens != self._tokens and self._made_by(tokens, self._signature, self._algorithm):
                return f"the auth token has {name} around it: set it without"
        return ""

    def _search(self) -> str:
        """Return what was signed instead, and the cure, if the search finds it in time."""
        size = len(self._url) + len(self._fields)
        tries = min(MAX_TRIES, MAX_TRIED // size) // len(self._tokens)
        wanted = digest_of(self._signature)
        # Its size tells the algorithm, where the header that names it was lost.
        by_size = {size: name for name, size in SIZES.items()}
        algorithm = by_size.get(len(self._signature), self._algorithm)
        keys = [hmac.new(token, digestmod=HASHES[algorithm]) for token in self._tokens]
        named = (
            "" if algorithm == self._algorithm else CHECKED_WITH.format(algorithm, self._algorithm)
        )
        for guess in itertools.islice(self._guesses(), tries):
            data = "".join([text for text, _ in guess]).encode("utf-8", "surrogatepass")
            for key in keys:
                hashed = key.copy()
                hashed.update(data)
                if hmac.compare_digest(hashed.digest(), wanted):
                    reasons = [why for why in (*[why for _, why in guess], named) if why]
                    advice = "; ".join(dict.fromkeys(reasons))
                    return f"signed for {shown(guess[0][0] + guess[1][0])}: {advice}"
        return ""

    def _guesses(self) -> Iterator[list[Guess]]:
        """Yield what may have been signed instead, in four parts: the likeliest first."""
        parts = URL_PARTS.fullmatch(self._url)
        rest = parts[5] or "" if parts else ""
        path, mark, query = rest.partition("?")
        few = len(query) + len(self._fields) <= MAX_CHANGED
        few = few and len(self._pairs) + query.count("&") <= MAX_CHANGED_FIELDS
        origin, query = self._url.removesuffix(rest), mark + query
        came = [(text, "") for text in (origin, path, query, self._fields)]
        told_paths = [path for path, _ in guesses.rewritten(self._headers)]
        told_queries = [query for _, query in guesses.rewritten(self._headers)]
        others = [
            unlike(origin, guesses.origins(origin, self._headers)),
            unlike(path, [*told_paths, *guesses.paths(path)]),
            unlike(query, [*told_queries, *(guesses.queries(query) if few else ())]),
            unlike(self._fields, self._forms(self._pairs) if few else ()),
        ]
        contents = list(self._contents(query)) if few else []
        for content in contents:
            yield [came[0], came[1], content]
        for part in range(4):  # exchange one
            for other in others[part]:
                yield [*came[:part], other, *came[part + 1 :]]
        for other, content in itertools.product(others[0], contents):
            yield [other, came[1], content]
        for one, two in itertools.combinations(range(4), 2):  # exchange two
            for first, second in itertools.product(others[one], others[two]):
                guess = list(came)
                guess[one], guess[two] = first, second
                yield guess
        yield from self._twice(came, others) if few else ()

    def _twice(self, came: list[Guess], others: list[list[Guess]]) -> Iterator[list[Guess]]:
        """Yield what two changes of the same part may have made."""
        origin, path, query, _ = came
        for pairs, why in guesses.rare_forms(self._pairs):
            yield [origin, path, query, (signed_string("", pairs), why)]
        for text, why in others[1]:
            for again, more in unlike(text, guesses.paths(text)):
                yield [origin, (again, both(why, more)), *came[2:]]
        for text, why in others[2]:
            for again, more in unlike(text, guesses.queries(text)):
                yield [origin, path, (again, both(why, more)), came[3]]
        for pairs, why in guesses.forms(self._pairs):
            for again, more in self._forms(pairs):
                yield [origin, path, query, (again, both(why, more))]

    @staticmethod
    def _forms(pairs: Pairs) -> Iterator[Guess]:
        for changed, advice in guesses.forms(pairs):
            yield signed_string("", changed), advice
        yield from guesses.unsorted(pairs)

    def _contents(self, query: str) -> Iterator[Guess]:
        """Yield what the query and the fields may have been together."""
        yield from guesses.moved(query, self._pairs, bool(self._hashes))
        if self._fragment:
            advice = "Twilio never signs a fragment: whoever signed this did, and should not"
            yield f"{query}#{self._fragment}{self._fields}", advice
        if self._body is not None and not self._hashes:
            computed = hashlib.sha256(self._body).hexdigest()
            advice = "the bodySHA256 that Twilio added to the query was dropped: keep it"
            yield f"{query}{'&' if query else '?'}bodySHA256={computed}", advice

    def _no_idea(self) -> str:
        """Return what to check if nothing was found: most often the URL or the token is wrong."""
        key = re.search(r"(?:^|,)\s*key=([^,]+)", self._settings)
        if key:
            return (
                f"signed with the SharedKey {printable(key[1].strip(), 60)}, and no secret that is"
                " set here matches: add that key's secret to the auth tokens"
            )
        if any(b"," in token for token in self._tokens):
            return "the auth token has a comma in it: if these are several tokens, pass a list"
        told = self._headers.get("x-forwarded-host")
        host = f" A proxy was asked for the host {printable(told, 100)}." if told else ""
        if not self._pairs and "AccountSid=" not in self._url and not self._hashes:
            host += " There are no fields: the body was read before, or nothing parsed it."
        elif self._pairs and "AccountSid" not in dict(self._pairs):
            host += " There is no AccountSid, which Twilio always sends: pass all of the fields."
        return (
            f"not signed for {shown(self._url)} with {len(self._pairs)} fields, nor for anything much"
            f" like it, with this auth token.{host} Compare this URL with the one in Twilio's console."
            " If that one begins differently, pass what it has before this path as public_url. If"
            " both are the same, check the token: it must be the primary one of the number's account"
        )


def digest_of(signature: bytes) -> bytes:
    try:
        return binascii.a2b_base64(signature)
    except ValueError:
        return b""


def shown(url: str) -> str:
    """Return *url* without what nobody needs to read: credentials, and the query."""
    return printable(re.sub("//[^/?#]*@", "//…@", url).partition("?")[0], 300)


def both(one: str, other: str) -> str:
    return one if one == other else f"{one}; {other}"


def unlike(came: str, found: Iterable[Guess]) -> list[Guess]:
    """Return what is in *found*, each text once, with its first advice, and not what came."""
    advice_for: dict[str, str] = {came: ""}
    for text, advice in found:
        advice_for.setdefault(text, advice)
    return list(advice_for.items())[1:]
