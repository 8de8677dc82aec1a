"""What Twilio may have signed instead of what the program saw, with advice.

Frameworks, proxies and parsers change a request in known ways.  Each function here undoes
the changes of one part, and yields pairs: what the part may have been, and the advice.
"""

from __future__ import annotations

import binascii
import html
import itertools
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlencode

from smsreply import PATH_CHARACTERS, likely_urls, printable, signed_string

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Pairs = list[tuple[str, str]]
    Guess = tuple[str, str]

# Twilio sends these for each number, blank where it does not know the place.
PLACES = [side + part for side in ("From", "To") for part in ("City", "State", "Zip", "Country")]
# Where a proxy that rewrites a URL says what it was.
REWRITTEN = (
    "x-original-uri",
    "x-original-url",
    "x-forwarded-uri",
    "x-rewrite-url",
    "x-envoy-original-path",
)
PADDED = ("Body", "ProfileName", "ButtonText")  # what people type may end in white space
SLASH = "the URL in Twilio's console {}: give it and the server the same path"
RAW = "the {} is not as Twilio sent it, but {}: use the raw one (REQUEST_URI, RAW_URI)"
NOT_IN_IT = "Twilio's URL has no {}: leave it out of public_url, or of the server's mount point"
TWICE = "something decoded the form twice"


def told_by_proxies(headers: Mapping[str, str]) -> dict[str, str]:
    """Return *headers* with what RFC 7239 and Azure call otherwise under the common names."""
    found = dict(headers)
    for name, value in re.findall(r'\b(host|proto)="?([^;,"\s]+)', headers.get("forwarded", "")):
        found.setdefault(f"x-forwarded-{name}", value)
    if "x-original-host" in headers:
        found.setdefault("x-forwarded-host", headers["x-original-host"])
    return found


def origins(origin: str, headers: Mapping[str, str]) -> Iterator[Guess]:
    """Yield scheme, host, port and prefix as a proxy may have seen them."""
    likely = [(url, cure) for url, cure in likely_urls(origin + "/", headers) if url.endswith("/")]
    simple = [(url[:-1], cure) for url, cure in likely if ";" not in cure and "public_url" in cure]
    login = re.sub("^.*//|@.*$", "", origin) if "@" in origin else basic(headers)
    for public, cure in simple:
        yield public, cure
        scheme, _, rest = public.partition("://")
        host, slash, prefix = rest.partition("/")
        if not re.search(r":\d+$", host):
            port = "443" if scheme == "https" else "80"
            yield f"{scheme}://{host}:{port}{slash}{prefix}", cure
    if login:
        for public, _ in [(re.sub("//[^/]*@", "//", origin), ""), *simple]:
            scheme, _, rest = public.partition("://")
            shown = printable(f"{scheme}://USER:PASSWORD@{rest}", 200)
            advice = f'the credentials in the URL were signed: pass public_url="{shown}"'
            yield f"{scheme}://{login}@{rest}", advice


def basic(headers: Mapping[str, str]) -> str:
    """Return the ``user:password`` that the request brought, or an empty string."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    try:
        return binascii.a2b_base64(value).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


def paths(path: str) -> Iterator[Guess]:
    """Yield what the path may have been."""
    if path in ("", "/"):
        yield "/" if path == "" else "", ""  # Twilio means the same by both
    elif path.endswith("/"):
        yield path[:-1], SLASH.format("has no slash at its end")
    else:
        yield path + "/", SLASH.format("ends in a slash")
    steps = path.split("/")
    if "//" in path:
        yield re.sub("/+", "/", path), SLASH.format("has one slash where the server got two")
    for count in range(1, min(len(steps), 5)):
        doubled = "/".join([*steps[:count], "", *steps[count:]])
        yield doubled, SLASH.format("has two slashes where the server got one")
    for count in range(2, min(len(steps), 5)):
        prefix = printable("/".join(steps[:count]), 100)
        yield "/" + "/".join(steps[count:]), NOT_IN_IT.format(prefix)
    for count in range(1, min(len(steps), 10) // 2 + 1):
        if steps[-count:] == steps[-2 * count : -count]:
            twice = printable("/" + "/".join(steps[-count:]), 100)
            advice = f"Twilio's URL has {twice} only once: leave it out of public_url"
            yield "/".join(steps[:-count]), advice
    plain = unquote(path)
    advice = RAW.format("path", "escaped in another way")
    for text in (plain, quote(plain, safe=PATH_CHARACTERS), quote(plain), path.lower()):
        yield text, advice
        yield re.sub("%..", lambda escape: escape[0].lower(), text), advice
    rewritten = "something rewrote the path: Twilio's URL has {}, so pass the raw one on"
    for other in ("/sms", "/", "/webhook", "/twilio", "/api/sms", "/message", "/reply"):
        yield other, rewritten.format(other)


def rewritten(headers: Mapping[str, str]) -> Iterator[tuple[Guess, Guess]]:
    """Yield the path, and the query with its mark, that a proxy says it was asked for."""
    for name in REWRITTEN:
        if name in headers:
            found = re.sub("^https?://[^/]*", "", headers[name])
            path, mark, query = found.partition("?")
            advice = f"a proxy rewrote the path {printable(path, 100)}: pass the raw one on"
            dropped = f"the query is not as Twilio sent it: the header {name} has it"
            yield (path, advice), (mark + query, dropped)


def queries(query: str) -> Iterator[Guess]:
    """Yield what the query may have been, with its mark.

    Frameworks decode it, keep it in a dict, and encode it again.  That changes the order,
    drops what is blank, and spells in another way what may be spelled in two.
    """
    if query in ("", "?"):
        yield "" if query else "?", RAW.format("query", "without the lone ? at its end")
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
    for count in range(len(pieces)):
        rest = "&".join(pieces[:count] + pieces[count + 1 :])
        name = printable(pieces[count].partition("=")[0], 60)
        yield f"?{rest}" if rest else "", f"{name} was added to the query on the way"


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


def moved(query: str, pairs: Pairs, hashed: bool) -> Iterator[Guess]:
    """Yield query and fields together, as if the fields had moved into the URL or out of it."""
    if pairs and hashed:
        yield query, "the URL has a bodySHA256: pass the body as it came, and not its fields"
    elif pairs:
        yield query, "signed as a GET, whose fields are only in the URL: pass None for them"
        added = urlencode(pairs)
        added = f"{query}&{added}" if query else f"?{added}"
        yield added, "signed as a GET, and came as a POST: something took the fields off the URL"
        own = parse_qsl(query[1:], keep_blank_values=True, separator="&")
        advice = (
            "the parameters of the URL's query are among the fields, as in request.values,"
            " getParameterMap or $_REQUEST: pass the body's fields alone"
        )
        yield signed_string(query, [pair for pair in pairs if pair not in own]), advice
    elif query:
        advice = (
            "signed as a POST, and requested by GET: something on the way moved the fields to the"
            " query, such as a redirect"
        )
        pieces = query[1:].split("&")
        fields = [parse_qsl(piece, keep_blank_values=True, separator="&") for piece in pieces]
        for count in range(len(pieces)):  # so many are of the webhook's own query
            kept = "?" + "&".join(pieces[:count]) if count else ""
            yield signed_string(kept, itertools.chain(*fields[count:])), advice


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
    (html.unescape, "a value has HTML's escapes, &amp; and the like: use the values as they came"),
    (utf_8_again, "the form was decoded as Latin-1: it is UTF-8"),
)


def forms(pairs: Pairs) -> Iterator[tuple[Pairs, str]]:
    """Yield what the fields may have been.

    Parsers and middleware trim values, decode them once more or not at all, and drop blank
    values and repeated names.
    """
    if not pairs:
        return
    if len(pairs) == 1:
        yield from base64_form(*pairs[0])
    for change, advice in CHANGES:
        yield [(name, change(value)) for name, value in pairs], advice
    for name, value in pairs:
        if name in PADDED:
            rest = [pair for pair in pairs if pair != (name, value)]
            for text in (value + " ", " " + value, f" {value} ", value + "\n", value + "\r\n"):
                advice = f"white space at an end of {name} was trimmed: use the values as they came"
                yield [*rest, (name, text)], advice
    for once in (dict(pairs), dict(pairs[::-1])):
        yield list(once.items()), "a field that comes twice was signed once: drop the other one"
    filled = [pair for pair in pairs if pair[1]]
    yield filled, "blank values were not signed: something added them"
    one_each = [[name] for name in PLACES]
    for names in ([*PLACES, "Body"], PLACES, ["Body"], PLACES[:4], PLACES[4:], *one_each):
        yield with_blanks(pairs, names)
    yield from decoded_twice(pairs)
    for name in dict(pairs):
        rest = [pair for pair in pairs if pair[0] != name]
        advice = f"the field {printable(name, 80)!r} was not signed: something on the way added it"
        yield rest, advice


def decoded_twice(pairs: Pairs) -> Iterator[tuple[Pairs, str]]:
    """Yield the fields as they were before a + or a % in a text was decoded once more."""
    numbers = [(name, re.sub("^ ", "+", value)) for name, value in pairs]
    for number, (name, value) in enumerate(numbers):
        if name not in PADDED:
            continue
        texts = [value.replace("%", "%25"), value.replace("+", "%2B")]
        spaces = itertools.islice(re.finditer(" ", value), 40)
        texts += [f"{value[: space.start()]}+{value[space.end() :]}" for space in spaces]
        for text in texts:
            yield [*numbers[:number], (name, text), *numbers[number + 1 :]], TWICE


def base64_form(name: str, value: str) -> Iterator[tuple[Pairs, str]]:
    """Yield the fields of a body that is still in base64: it was parsed as one name."""
    text = name.replace(" ", "+") + ("" if value.strip("=") else "==")
    try:
        form = binascii.a2b_base64(text).decode()
    except ValueError:
        return
    advice = "the body came in base64, as gateways pass it on: decode it first (isBase64Encoded)"
    yield parse_qsl(form, keep_blank_values=True, separator="&"), advice


def with_blanks(pairs: Pairs, names: Iterable[str]) -> tuple[Pairs, str]:
    """Return the fields with those of *names* that did not come, blank, and the advice."""
    there = dict(pairs)
    blank = [name for name in names if name not in there]
    advice = f"the blank fields {', '.join(blank)} were dropped: parse with keep_blank_values=True"
    return [*pairs, *[(name, "") for name in blank]], advice


def rare_forms(pairs: Pairs) -> Iterator[tuple[Pairs, str]]:
    """Yield every choice of dropped blank fields: too many to combine with other changes."""
    names = dict(pairs)
    absent = [name for name in ["Body", *PLACES] if names and name not in names]
    for count in range(1, len(absent)):
        for chosen in itertools.combinations(absent, count):
            yield with_blanks(pairs, chosen)


def unsorted(pairs: Pairs) -> Iterator[Guess]:
    """Yield the fields as a program that does not know Twilio's order would sign them."""
    advice = "Twilio sorts the fields, and signs no value twice: whoever signed this did not"
    for order in (sorted(pairs), pairs):
        yield "".join([name + value for name, value in order]), advice
