"""Why a signature does not match: what was seen, what was signed, and what is said."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import logging
import re
import time
from urllib.parse import parse_qsl, quote_plus, unquote, unquote_plus, urlencode

import pytest
from conftest import MESSAGE, SID, call, make_environ, slow

import smsreply
from smsphone import explain as explained_by
from smsphone.command import main
from smsreply import App, RequestValidator

TOKEN = "f0e1d2c3b4a5968778695a4b3c2d1e0f"  # in no field, and so to be found if it is told
URL = "https://abc.example/sms"
FORM = urlencode(MESSAGE)
FULL = {name: value for name, value in MESSAGE.items() if value}
JSON = b'{"a": 1}'
HASHED = f"{URL}?bodySHA256={hashlib.sha256(JSON).hexdigest()}"
BODYS = hashlib.sha256(b'{"a":1}').hexdigest()
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"ada:sesame").decode()}
validator = RequestValidator(TOKEN)


def explained(url, params, signature, algorithm=None, headers=None):
    return explained_by(TOKEN, url, params, signature, algorithm, headers)


def proxy(**said):
    return {f"X-Forwarded-{name}": value for name, value in said.items()}


def with_(**fields):
    return {**MESSAGE, **fields}


def raw(string, token=TOKEN, algorithm="sha1"):
    """Return a signature of exactly *string*."""
    return smsreply.Signer(token.encode()).sign(string, f"HMAC_{algorithm.upper()}").decode()


PUBLIC = 'signed for https://abc.example/sms: pass public_url="https://abc.example"'
SLASH = "signed for https://abc.example/sms{}: the URL in Twilio's console {}"
ORDER = "the query is not as Twilio sent it, but in another order: use the raw one (REQUEST_URI"
ESCAPED = "the query is not as Twilio sent it, but escaped in another way: use the raw one"

# As seen: URL, fields, headers.  As signed: URL, fields.  What the sentence has.
NEAR_MISSES = {
    "scheme": ("http://abc.example/sms", {}, {}, URL, {}, PUBLIC),
    "scheme, the other way": (URL, {}, {}, "http://abc.example/sms", {}, 'public_url="http://abc.'),
    "scheme, with an inner port": ("http://abc.example:8767/sms", {}, {}, URL, {}, PUBLIC),
    "scheme, and the port stays": ("http://abc.example:8443/sms", {}, {}, "https://abc.example:8443/sms", {}, 'pass public_url="https://abc.example:8443"'),
    "scheme, signed with :443": ("http://abc.example/sms", {}, {}, "https://abc.example:443/sms", {}, 'pass public_url="https://abc.example"'),
    "scheme, signed with :80": (URL, {}, {}, "http://abc.example:80/sms", {}, 'pass public_url="http://abc.example"'),
    "scheme, of an IPv6 host, signed with :443": ("http://[::1]/sms", {}, {}, "https://[::1]:443/sms", {}, 'pass public_url="https://[::1]"'),
    "scheme, in capitals": ("HTTPS://abc.example/sms", {}, {}, URL, {}, PUBLIC),
    "scheme, in capitals, the other way": ("HTTPS://abc.example/sms", {}, {}, "http://abc.example/sms", {}, 'pass public_url="http://abc.example"'),
    "host without www": (URL, {}, {}, "https://www.abc.example/sms", {}, 'pass public_url="https://www.abc.example"'),
    "host with www": ("https://www.abc.example/sms", {}, {}, URL, {}, PUBLIC),
    "host, forwarded": ("http://10.0.0.7:8767/sms", {}, proxy(Proto="https", Host="abc.example"), URL, {}, PUBLIC),
    "host, forwarded alone": ("http://10.0.0.7:8767/sms", {}, proxy(Host="abc.example"), URL, {}, PUBLIC),
    "host, through two proxies": ("http://10.0.0.7/sms", {}, proxy(Proto="https, http", Host="abc.example, inner"), URL, {}, PUBLIC),
    "scheme, forwarded alone": ("http://abc.example:8767/sms", {}, proxy(Proto="https"), URL, {}, PUBLIC),
    "port, forwarded": ("http://abc.example/sms", {}, proxy(Proto="https", Port="8443"), "https://abc.example:8443/sms", {}, 'pass public_url="https://abc.example:8443"'),
    "port, inner, signed with :443": ("https://abc.example:8767/sms", {}, {}, "https://abc.example:443/sms", {}, 'pass public_url="https://abc.example"'),
    "prefix, forwarded": ("http://in/sms", {}, proxy(Proto="https", Host="abc.example", Prefix="/bot/"), "https://abc.example/bot/sms", {}, 'signed for https://abc.example/bot/sms: pass public_url="https://abc.example/bot"'),
    "prefix, forwarded and not stripped": ("http://in/bot/sms", {}, proxy(Host="abc.example", Prefix="/bot", Proto="https"), "https://abc.example/bot/sms", {}, PUBLIC.replace("/sms", "/bot/sms")),
    "prefix, a gateway's stage": (URL, {}, {}, "https://abc.example/prod/sms", {}, 'pass public_url="https://abc.example/prod"'),
    "prefix, that was not signed": ("https://abc.example/bot/v2/sms", {}, {}, URL, {}, "Twilio's URL has no /bot/v2: leave it out of public_url, or of the server's mount point"),
    "prefix, and a longer path": ("https://abc.example/bot/a/sms", {}, {}, "https://abc.example/a/sms", {}, "Twilio's URL has no /bot: leave it out of public_url, or of the server's mount point"),
    "slash, dropped": (URL, {}, {}, URL + "/", {}, SLASH.format("/", "ends in a slash: give it and the server the same path")),
    "slash, added": (URL + "/", {}, {}, URL, {}, SLASH.format("", "has no slash at its end: give it and the server the same path")),
    "slash, of two": (URL, {}, {}, "https://abc.example//sms", {}, "has two slashes where the server got one"),
    "slash, and query": (URL + "?a=1", {}, {}, URL + "/?a=1", {}, SLASH.format("/", "ends in a slash")),
    "scheme, port and slash": ("http://abc.example:8767/sms", {}, {}, URL + "/", {}, "; the URL in Twilio's console ends in a slash"),
    "slash, and query order": (URL + "/?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, "has no slash at its end: give it and the server the same path; " + ORDER),
    "path, unescaped": ("https://abc.example/caf\u00e9", {}, {}, "https://abc.example/caf%C3%A9", {}, "the path is not as Twilio sent it, but escaped in another way"),
    "path, escaped": ("https://abc.example/a%40b", {}, {}, "https://abc.example/a@b", {}, "the path is not as Twilio sent it, but escaped in another way"),
    "query order": (URL + "?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, ORDER),
    "query order, of many": (URL + "?a=1&b=2&c=3&d=4&e=5&f=6", {}, {}, URL + "?f=6&e=5&d=4&c=3&b=2&a=1", {}, ORDER),
    "query order, behind a proxy": ("http://abc.example/sms?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, "; " + ORDER),
    "query, ' escaped": (URL + "?a=It%27s", {}, {}, URL + "?a=It's", {}, ESCAPED),
    "query, ' unescaped": (URL + "?a=It's", {}, {}, URL + "?a=It%27s", {}, ESCAPED),
    "query, + for %20": (URL + "?a=b+c", {}, {}, URL + "?a=b%20c", {}, ESCAPED),
    "query, %20 for +": (URL + "?a=b%20c", {}, {}, URL + "?a=b+c", {}, ESCAPED),
    "query, %2b for %2B": (URL + "?a=%2b1", {}, {}, URL + "?a=%2B1", {}, ESCAPED),
    "query, decoded": (URL + "?a=caf\u00e9 au lait", {}, {}, URL + "?a=caf%C3%A9+au+lait", {}, ESCAPED),
    "query, with an escaped &": (URL + "?a=x%26y&b=it%27s", {}, {}, URL + "?a=x%26y&b=it's", {}, ESCAPED),
    "query dropped its ?": (URL, {}, {}, URL + "?", {}, "the query is not as Twilio sent it, but without the lone ? at its end: use the raw one"),
    "query added": (URL + "?utm=1", {}, {}, URL, {}, ": the query was added on the way, or is not in the URL that Twilio was given"),
    "query, blanks added": (URL + "?a=1&b=", {}, {}, URL + "?a=1", {}, "the query is not as Twilio sent it, but with blank values that were not signed: use the raw one"),
    "blanks dropped": (URL, FULL, {}, URL, MESSAGE, "the blank fields FromCity, FromZip were dropped: parse with keep_blank_values=True"),
    "blanks dropped, Body too": (URL, {**FULL, "Body": None}, {}, URL, with_(Body=""), "the blank fields FromCity, FromZip, Body were dropped"),
    "blank Body dropped": (URL, {"From": "whatsapp:+1", "MessageSid": SID}, {}, URL, {"From": "whatsapp:+1", "MessageSid": SID, "Body": ""}, "the blank fields Body were dropped"),
    "a blank Body and another dropped": (URL, {"From": "+1", "MessageSid": SID}, {}, URL, {"From": "+1", "MessageSid": SID, "Body": "", "ToZip": ""}, "the blank fields Body, ToZip were dropped"),
    "one blank of many dropped": (URL, {"From": "+1", "Body": "hi"}, {}, URL, {"From": "+1", "Body": "hi", "ToZip": ""}, "the blank fields ToZip were dropped"),
    "blanks dropped, behind a proxy": ("http://abc.example/sms", FULL, {}, URL, MESSAGE, "; the blank fields FromCity, FromZip were"),
    "blanks added": (URL, MESSAGE, {}, URL, FULL, "blank values were not signed: something added them"),
    "space trimmed": (URL, with_(Body="hi"), {}, URL, with_(Body="hi "), "white space at an end of Body was trimmed: use the values as they came"),
    "line end trimmed": (URL, with_(ProfileName="Ada"), {}, URL, with_(ProfileName="Ada\n"), "white space at an end of ProfileName was trimmed"),
    "space added": (URL, with_(ApiVersion="2010-04-01\n"), {}, URL, MESSAGE, "a value has white space around it that was not signed"),
    "+ decoded twice": (URL, with_(From=" 14017122661", To=" 15558675310"), {}, URL, MESSAGE, "the + of a number became a space: something decoded the form twice"),
    "+ in a text decoded twice": (URL, with_(Body="1 2"), {}, URL, with_(Body="1+2"), "a + in a value became a space: something decoded the form twice"),
    "escaped values": (URL, {name: quote_plus(value) for name, value in MESSAGE.items()}, {}, URL, MESSAGE, "the values were signed decoded, and came escaped: decode the form once"),
    "line ends to \\n": (URL, with_(Body="a\nb"), {}, URL, with_(Body="a\r\nb"), "line ends were changed to \\n"),
    "line ends to \\r\\n": (URL, with_(Body="a\r\nb"), {}, URL, with_(Body="a\nb"), "line ends were changed to \\r\\n"),
    "Latin-1": (URL, with_(Body="caf\u00c3\u00a9"), {}, URL, with_(Body="caf\u00e9"), "the form was decoded as Latin-1: it is UTF-8"),
    "duplicate signed once": (URL, [("a", "1"), ("a", "2")], {}, URL, {"a": "2"}, "a field that comes twice was signed once: drop the other one"),
    "duplicate signed once, the first": (URL, [("a", "1"), ("a", "2")], {}, URL, {"a": "1"}, "a field that comes twice was signed once: drop the other one"),
    "field added": (URL, with_(csrf="x"), {}, URL, MESSAGE, "the field 'csrf' was not signed: something on the way added it"),
    "GET, given params too": (f"{URL}?{FORM}", MESSAGE, {}, f"{URL}?{FORM}", {}, "signed as a GET, whose fields are only in the URL: pass None for them"),
    "GET, that came as a POST": (URL, MESSAGE, {}, f"{URL}?{FORM}", {}, "signed as a GET, and came as a POST"),
    "GET with a query, that came as a POST": (URL + "?v=2", MESSAGE, {}, f"{URL}?v=2&{FORM}", {}, "signed as a GET, and came as a POST"),
    "POST with a query of two, as a GET": (f"{URL}?v=2&w=3&{FORM}", None, {}, URL + "?v=2&w=3", MESSAGE, "signed as a POST, and requested by GET"),
    "POST, that came as a GET": (f"{URL}?{FORM}", None, {}, URL, MESSAGE, "signed as a POST, and requested by GET: something on the way moved the fields to the query, such as a redirect"),
    "POST with a query, as a GET": (f"{URL}?v=2&{FORM}", None, {}, URL + "?v=2", MESSAGE, "signed as a POST, and requested by GET"),
    "JSON, given as a dict": (HASHED, {"a": "1"}, {}, HASHED, None, "the URL has a bodySHA256: pass the body as it came"),
    "JSON, and the hash dropped": (URL, JSON, {}, HASHED, None, "the bodySHA256 that Twilio added to the query was dropped: keep it"),
    "JSON, and the hash dropped from a query": (URL + "?a=1", JSON, {}, HASHED.replace("?", "?a=1&"), None, "the bodySHA256 that Twilio added to the query was dropped: keep it"),
    "credentials dropped": (URL, {}, LOGIN, "https://ada:sesame@abc.example/sms", {}, 'signed for https://…@abc.example/sms: the credentials in the URL were signed: pass public_url="https://USER:PASSWORD@abc.example"'),
    "credentials that are none": ("http://abc.example/sms", {}, {"Authorization": "Basic \u00e9"}, URL, {}, PUBLIC),
    "credentials, and scheme": ("http://abc.example/sms", {}, LOGIN, "https://ada:sesame@abc.example/sms", {}, 'pass public_url="https://USER:PASSWORD@abc.example"'),
}  # fmt: skip


def fields_of(fields):
    if isinstance(fields, dict):
        return {name: value for name, value in (fields or MESSAGE).items() if value is not None}
    return fields


def signature_of(signed_url, signed_fields):
    # As Twilio signs, and not as our code does.
    string = signed_url + "".join(n + v for n, v in sorted((signed_fields or {}).items()))
    return raw(string)


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_a_near_miss_is_told_in_words(case):
    seen, fields, headers, signed_url, signed_fields, words = NEAR_MISSES[case]
    # An empty dict stands for the message, but where a GET or JSON is signed without fields.
    get = "bodySHA256" in signed_url or "From=" in signed_url
    signature = signature_of(signed_url, None if get else fields_of(signed_fields))
    fields = fields_of(fields)
    assert not validator.validate(seen, fields, signature)
    told = explained(seen, fields, signature, headers=headers)
    assert words in told.partition("\n")[0]
    secrets = {TOKEN, signature, validator.compute_signature(seen, fields), "sesame"}
    assert not [secret for secret in secrets if secret in told]


@pytest.mark.parametrize(
    ("seen", "params", "signature", "more", "words"),
    [
        pytest.param(URL, MESSAGE, None, {}, "X-Twilio-Signature is missing or empty: Twilio did not send this, or something on the way drops", id="no header"),
        pytest.param(URL, MESSAGE, "", {}, "missing or empty", id="an empty header"),
        pytest.param("/sms", MESSAGE, raw(URL), {}, "'/sms' is not a whole URL, like https://abc.example/sms", id="no whole URL"),
        pytest.param("x" + URL, MESSAGE, raw(URL), {}, "is not a whole URL", id="more in front of a URL"),
        pytest.param("https://abc.example:80x/sms", MESSAGE, raw(URL), {}, "is not a whole URL", id="a port that is none"),
        pytest.param(URL, None, raw(URL) + " ", {}, "has white space or quotes around it", id="a signature with a space"),
        pytest.param(URL, None, f'"{raw(URL)}"', {}, "has white space or quotes around it", id="a signature in quotes"),
        pytest.param(URL, None, raw("x") + " ", {}, "not signed for https://abc.example/sms with 0 fields", id="another's signature with a space"),
        pytest.param(URL, None, f"{raw(URL)},{raw(URL)}", {}, "the signature has 57 characters, and one made with HMAC_SHA1 has 28", id="the header twice"),
        pytest.param(URL, None, raw(URL, algorithm="sha256"), {}, "signed with HMAC_SHA256 and checked with HMAC_SHA1: pass on the header X-Twilio-Webhooks-Signature-Settings", id="the other algorithm"),
        pytest.param(URL, None, raw(URL), {"algorithm": "HMAC_SHA256"}, "signed with HMAC_SHA1 and checked with HMAC_SHA256", id="the other way"),
        pytest.param(URL, None, raw(URL), {"algorithm": "HMAC\nMD5"}, "'HMAC\\\\nMD5' is not an algorithm that Twilio uses", id="no algorithm"),
        pytest.param("http://abc.example/sms", None, raw(URL, algorithm="sha256"), {"headers": {"X-Twilio-Webhooks-Signature-Settings": "algorithm=HMAC_SHA256"}}, PUBLIC, id="the algorithm that the headers name"),
        pytest.param("http://abc.example/sms", None, None, {"headers": {"x-twilio-signature": raw(URL)}}, PUBLIC, id="the signature in the headers"),
        pytest.param(HASHED, b'{"a":1}', raw(HASHED), {}, f"the URL is signed, but its bodySHA256 is {HASHED[-64:]}, and the body's is {BODYS}: pass the body's very bytes", id="another body than the one hashed"),
        pytest.param(HASHED, JSON, raw(HASHED), {}, "nothing is wrong: the signature and the body's hash match", id="JSON that matches"),
        pytest.param(HASHED, JSON.decode(), raw(HASHED), {}, "nothing is wrong: the signature and the body's hash match", id="JSON in a str"),
        pytest.param(HASHED, bytearray(JSON), raw(HASHED), {}, "nothing is wrong: the signature and the body's hash match", id="JSON in a bytearray"),
        pytest.param(HASHED.replace("https", "http"), JSON, raw(HASHED), {}, PUBLIC, id="JSON behind a proxy"),
        pytest.param(URL, None, raw(URL), {}, "nothing is wrong: the signature matches", id="a match"),
        pytest.param(URL + "#rc=2", None, raw(URL + "#rc=2"), {}, "Twilio never signs a fragment: whoever signed this did, and should not", id="a fragment"),
        pytest.param(URL, [("a", "1"), ("a", "1")], raw(URL + "a1a1"), {}, "signs no value twice", id="a value signed twice"),
        pytest.param(URL, [("b", "1"), ("a", "1"), ("a", "1")], raw(URL + "a1a1b1"), {}, "signs no value twice", id="sorted, and a value signed twice"),
        pytest.param(URL, [("b", "1"), ("a", "1")], raw(URL + "b1a1"), {}, "Twilio sorts the fields", id="fields not sorted"),
        pytest.param(URL, MESSAGE, raw("https://other.example/x"), {}, "not signed for https://abc.example/sms with 19 fields, nor for anything much like it, with this auth token", id="no near miss"),
    ],
)  # fmt: skip
def test_a_flaw_is_told_in_words(seen, params, signature, more, words):
    assert words in explained(seen, params, signature, **more).partition("\n")[0]


@pytest.mark.parametrize(
    ("seen", "headers", "signed"),
    [
        (URL, {}, "http://abc.example/sms"),
        (URL, {}, "https://www.abc.example/sms"),
        ("http://abc.example/sms", proxy(Proto="https"), URL),
        ("http://abc.example:8443/sms", proxy(Proto="https"), "https://abc.example:8443/sms"),
        ("https://in/sms", proxy(Proto="http", Host="abc.example"), "http://abc.example/sms"),
        ("HTTPS://in/sms", proxy(Proto="wss", Host="abc.example"), URL),
        ("https://in/sms", proxy(Host="abc.example"), URL),
        ("https://in/sms", proxy(Host=" abc.example , inner"), URL),
        ("https://in/sms", proxy(Host="abc.example:8443"), "https://abc.example:8443/sms"),
        ("https://in/sms", proxy(Host="abc.example:8443"), URL),
        ("https://in/sms", proxy(Host="abc.example:"), URL),
        ("https://in/sms", proxy(Host="[::1]:80", Port="8443"), "https://[::1]:8443/sms"),
        (URL, proxy(Port="8443"), "https://abc.example:8443/sms"),
        (URL, proxy(Host="abc.example:1", Port="8443"), "https://abc.example:8443/sms"),
        (URL, proxy(Host="abc.example:1", Port="8443"), "https://abc.example:1/sms"),
        (URL, proxy(Prefix="/bot"), "https://abc.example/bot/sms"),
        (URL, proxy(Prefix="bot/v2/"), "https://abc.example/bot/v2/sms"),
        ("https://in/sms", proxy(Host="abc.example", Prefix="/"), URL),
        ("https://in/sms", proxy(Host="abc.example", Prefix="/bot"), URL),
    ],
)
def test_another_public_url_is_told_without_a_remark(seen, headers, signed):
    told = explained(seen, MESSAGE, signature_of(signed, MESSAGE), headers=headers)
    public = signed.removesuffix("/sms")
    assert told.partition("\n")[0] == f'signed for {signed}: pass public_url="{public}"'


@pytest.mark.parametrize(
    ("seen", "signed"),
    [
        ("http://abc.example", "https://abc.example/"),
        ("http://abc.example/", "https://abc.example"),
        ("http://abc.example?a=1", "https://abc.example/?a=1"),
        ("http://abc.example/?a=1", "https://abc.example?a=1"),
    ],
)
def test_a_path_of_nothing_is_tried_with_and_without_its_slash(seen, signed):
    told = explained(seen, MESSAGE, signature_of(signed, MESSAGE))
    assert told.partition("\n")[0] == (
        f"signed for {signed.partition('?')[0]}: {PUBLIC.partition(': ')[2]}"
    )


def test_credentials_in_the_url_are_kept_in_another_scheme():
    url = "http://ada:sesame@abc.example/sms"
    told = explained(url, None, raw(url.replace("http", "https"))).partition("\n")[0]
    assert told == (
        "signed for https://…@abc.example/sms: the credentials in the URL were signed:"
        ' pass public_url="https://USER:PASSWORD@abc.example"'
    )


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize(
    "stage",
    ["/prod", "/dev", "/stage", "/staging", "/test", "/default", "/api", "/v1", "/twilio"],
)
def test_a_stage_that_a_gateway_stripped_is_named(scheme, stage):
    signature = signature_of(f"https://abc.example{stage}/sms", MESSAGE)
    assert (
        f'signed for https://abc.example{stage}/sms: pass public_url="https://abc.example{stage}"\n'
    ) in explained(f"{scheme}://abc.example/sms", MESSAGE, signature)


PLACES = ["FromCity", "FromState", "FromZip", "FromCountry", "ToCity", "ToState", "ToZip", "ToCountry"]  # fmt: skip


@pytest.mark.parametrize("name", ["Body", *PLACES])
def test_a_blank_field_that_was_dropped_is_named(name):
    fields = {"From": "+1", "MessageSid": SID}
    told = explained(URL, fields, signature_of(URL, {**fields, name: ""}))
    assert f": the blank fields {name} were dropped: parse with keep_blank_values=True\n" in told


@pytest.mark.parametrize("names", [[*PLACES, "Body"], PLACES, ["Body"], PLACES[:4], PLACES[4:]])
def test_blank_fields_that_were_dropped_behind_a_proxy_are_named(names):
    fields = {"From": "+1", "MessageSid": SID}
    signature = signature_of(URL, {**fields, **dict.fromkeys(names, "")})
    told = explained("http://abc.example/sms", fields, signature)
    assert f"; the blank fields {', '.join(names)} were dropped" in told


@pytest.mark.parametrize("whole", ["hi ", " hi", "hi\n", "hi\r\n"], ids=repr)
@pytest.mark.parametrize("name", ["Body", "ProfileName", "ButtonText"])
def test_white_space_that_was_trimmed_off_what_people_type_is_told(name, whole):
    signature = signature_of(URL, with_(**{name: whole}))
    told = explained(URL, with_(**{name: "hi"}), signature)
    assert f"white space at an end of {name} was trimmed: use the values as they came\n" in told


@pytest.mark.parametrize("pair", ["' %27", "+ %20", "~ %7E", "* %2A", ", %2C"])
def test_one_character_escaped_in_another_way_is_told(pair):
    for seen, signed in (pair.split(), pair.split()[::-1]):
        # The rest is escaped as no program does it, and so nothing but the one may change.
        seen, signed = [f"{URL}?a=x{text}y&b=%7A" for text in (seen, signed)]
        assert ESCAPED in explained(seen, None, raw(signed))


@pytest.mark.parametrize("space", ["%20", "+"])
@pytest.mark.parametrize(
    "signed",
    ["%27%2A%2F%3A%40%3F", "'%2A%2F%3A%40%3F", "%27*%2F%3A%40%3F", "%27%2A/:%40%3F", "'*/:@?"],
)
def test_a_query_is_escaped_anew_as_five_programs_do(signed, space):
    for seen in ("'%2A/%3A@%3F%20", "'%2A/%3A@%3F+"):
        seen, full = [f"{URL}?a={text}x%3D%C3%A9&b=1" for text in (seen, signed + space)]
        full = full.replace("%3D", "=") if "@" in signed else full
        assert ESCAPED in explained(seen, None, raw(full))


@pytest.mark.parametrize(
    ("seen", "signed", "words"),
    [
        ("a=b+c%C3%A9", "a=b+c\u00e9", ESCAPED),
        ("a=b+c%C3%A9", "a=b c\u00e9", ESCAPED),
        ("a=b=c&d=@", "a=b%3Dc&d=%40", ESCAPED),
        ("a=1&b", "a=1", "blank values that were not signed"),
        ("a=1&b=&c=3", "a=1&c=3", "blank values that were not signed"),
        ("d=4&a=1&c=3&b=2", "b=2&d=4&a=1&c=3", ORDER),
        ("b=2&a=1&e=5&d=4&c=3", "a=1&b=2&c=3&d=4&e=5", ORDER),
    ],
)
def test_what_became_of_a_query_is_told(seen, signed, words):
    assert words in explained(f"{URL}?{seen}", None, raw(f"{URL}?{signed}"))


@pytest.mark.parametrize(
    ("seen", "signed"),
    [
        ("/it%27s%20caf%C3%A9", "/it's%20caf%C3%A9"),
        ("/it's%20caf%C3%A9", "/it%27s%20caf%C3%A9"),
        ("/a+b%40c%20d", "/a+b@c d"),
    ],
)
def test_a_path_that_was_escaped_in_another_way_is_told(seen, signed):
    told = explained("https://abc.example" + seen, None, raw("https://abc.example" + signed))
    assert ESCAPED.replace("query", "path") in told


@pytest.mark.parametrize("prefix", ["/bot", "/bot/v2", "/a/b/c"])
def test_a_prefix_that_was_not_signed_is_named(prefix):
    told = explained(f"https://abc.example{prefix}/sms", MESSAGE, signature_of(URL, MESSAGE))
    assert (
        f"Twilio's URL has no {prefix}: leave it out of public_url, or of the server's mount point\n"
        in told
    )


def test_hex_digits_of_the_other_case_are_told():
    lower, upper = URL + "?a=%2fx%7e", URL + "?a=%2Fx%7E"
    for seen, signed in ((lower, upper), (upper, lower)):
        assert ESCAPED in explained(seen, None, raw(signed))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (f" {TOKEN}\n", "the auth token has white space around it: set it without"),
        (f"'{TOKEN}'", "the auth token has quotes around it: set it without"),
        ("AC" + "0" * 32, "is an SID, which is no secret"),
    ],
)
def test_a_flaw_of_the_token_is_told_in_words(token, words):
    told = explained_by(token, URL, MESSAGE, signature_of(URL, MESSAGE))
    assert words in told
    assert TOKEN not in told


@pytest.mark.parametrize("token", [f" {TOKEN}", f'"{TOKEN}"'])
def test_a_token_is_faulted_only_where_the_one_without_the_fault_matches(token):
    told = explained_by(token, URL, MESSAGE, raw("https://other.example/x"))
    assert told.startswith("not signed for")


def test_a_token_of_quotes_alone_is_a_token_like_another():
    told = explained_by("''", URL, MESSAGE, signature_of(URL, MESSAGE))
    assert told.startswith("not signed for")


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["AC" + "0a" * 16, "other"], True),
        (["other", "SK" + "0a" * 16], True),
        (["AC" + "0a" * 16 + "0"], False),
        (["XAC" + "0a" * 16], False),
    ],
)
def test_a_token_that_is_an_sid_is_told_whichever_it_is(tokens, told):
    said = explained_by(tokens, URL, MESSAGE, signature_of(URL, MESSAGE))
    assert ("is an SID, which is no secret" in said) == told


def test_the_algorithm_may_be_named_in_lower_case():
    signature = raw(URL, algorithm="sha256")
    told = explained(URL, None, signature, algorithm="hmac_sha256")
    assert told.startswith("nothing is wrong")


def test_the_second_line_is_what_two_people_can_compare():
    told = explained(URL + "?q=1", {"b": "2", "a": "é\n"}, raw("x"))
    assert told.splitlines()[1] == f"the signature is checked against: '{URL}?q=1aé\\nb2'"
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://abc.example?mail=a@b", "https://abc.example"),
        ("https://me:pw@abc.example/a@b?c@d", "https://…@abc.example/a@b"),
        (f"{URL}/{'x' * 400}", f"{URL}/{'x' * (299 - len(URL))}…"),
    ],
)
def test_a_url_is_shown_without_credentials_and_query_and_cut(url, shown):
    told = explained(url, MESSAGE, raw("https://other.example/x"))
    assert told.startswith(f"not signed for {shown} with 19 fields")


def test_each_token_is_tried():
    assert PUBLIC in explained_by(["old", TOKEN], URL.replace("https", "http"), None, raw(URL))


def test_nothing_is_wrong_only_where_the_request_is_accepted():
    for url in (URL, URL + "#rc=2", HASHED, "https://me:pw@abc.example", "/sms", ""):
        for params in (None, JSON, MESSAGE):
            for signed in (URL, HASHED, "https://abc.example/"):
                told = explained(url, params, raw(signed))
                assert told.startswith("nothing is wrong") == validator.validate(
                    url, params, raw(signed)
                )


# What App logs.


def refused(app, body=MESSAGE, signature="A" * 27 + "=", **more):
    return call(app, make_environ(body, HTTP_X_TWILIO_SIGNATURE=signature, **more))


@pytest.fixture
def app():
    return App(lambda message: None, auth_token=TOKEN)


def test_app_logs_one_warning_and_the_answer_does_not_tell(app, caplog):
    more = {"wsgi.url_scheme": "http", "HTTP_HOST": "10.0.0.7:8767"}
    more.update(HTTP_X_FORWARDED_PROTO="https", HTTP_X_FORWARDED_HOST="abc.example")
    status, headers, body = refused(app, signature=signature_of(URL, MESSAGE), **more)
    assert (status, body) == ("403 Forbidden", b"this was not signed by Twilio\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("403 Forbidden for POST /sms")
    assert SID in record.getMessage()
    assert record.getMessage().endswith(f": {PUBLIC}")


def test_forwarded_headers_explain_and_never_admit(app):
    forged = {"HTTP_X_FORWARDED_HOST": "abc.example", "HTTP_HOST": "evil.example"}
    assert refused(app, signature=signature_of(URL, MESSAGE), **forged)[0] == "403 Forbidden"


@pytest.mark.parametrize("more", [{}, {"HTTP_AUTHORIZATION": LOGIN["Authorization"]}])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("near", [True, False])
def test_nothing_personal_is_logged_at_warning(app, caplog, method, near, more):
    caplog.set_level(logging.DEBUG, logger="smsreply")
    private = with_(Body="my secret", ProfileName="Ada", FromCity="Paris")
    url, fields = (URL, private) if method == "POST" else (f"{URL}?{urlencode(private)}", None)
    signature = signature_of(url.replace("https:", "http:") if near else "x", fields)
    if method == "POST":
        refused(app, private, signature, **more)
    else:
        query = {"QUERY_STRING": urlencode(private), "HTTP_X_TWILIO_SIGNATURE": signature}
        call(app, make_environ(method="GET", **query, **more))
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert ("signed for http://abc.example/sms: pass" in warnings[0]) == near
    for secret in ("14017122661", "15558675310", "secret", "Ada", "Paris", "sesame", TOKEN):
        assert secret not in warnings[0].replace(SID, "")
    right = validator.compute_signature(url, fields)
    assert right not in caplog.text
    assert TOKEN not in caplog.text.replace(SID, "").replace(MESSAGE["AccountSid"], "")


def test_no_line_of_the_log_can_be_forged(app, caplog):
    caplog.set_level(logging.DEBUG, logger="smsreply")
    forged = with_(MessageSid="SM\n2026 ERROR\x1b[31m", Body="a\r\nb")
    refused(app, forged, HTTP_X_FORWARDED_HOST="x\ny", PATH_INFO="/\nsms")
    for message in caplog.messages:
        assert message.isprintable()


COSTLY = [
    pytest.param({"From": "+1"}, "a=1&b=2+3&c=%27&d=4&e=", id="no places"),
    pytest.param(MESSAGE, "&".join(f"a{n}=%20'" for n in range(900)), id="a query of 900"),
    pytest.param({"From": "+1", "B": "x" * 65_000}, "a=1&b=2", id="64 KiB"),
    pytest.param({f"n{n}": "x" * 58 for n in range(990)}, "", id="990 fields"),
    pytest.param({f"n{n}": "x" * 95 for n in range(59)}, "a='&b=%20&c=&d=4", id="59 fields"),
    pytest.param({}, "&".join(f"a{n}=%20" + "%C3%A9" * 13 for n in range(59)), id="a GET of 59"),
    pytest.param({f"&{n}": "" for n in range(990)}, "+".join("%27&" * 900), id="odd"),
]


@pytest.mark.parametrize(("fields", "query"), COSTLY)
def test_an_explanation_costs_little_whatever_came(fields, query):
    # Under a second, on a slow machine and with coverage.
    headers = proxy(Proto="http", Host="x.example:1", Port="2", Prefix="/p") | LOGIN
    spent = []
    for _ in range(1):
        before = time.thread_time()
        explained(f"http://abc.example/a/b/c/sms?{query}", fields, "A" * 27 + "=", headers=headers)
        spent.append(time.thread_time() - before)
    assert min(spent) < 3


def test_a_signature_that_is_far_too_long_is_not_said_to_be_missing():
    told = explained(URL, {}, None, headers={"X-Twilio-Signature": "A" * 5000})
    assert told.startswith("the signature has 5000 characters, and one made with HMAC_SHA1 has 28")


def test_a_header_too_long_to_be_one_is_not_looked_at():
    headers = proxy(Proto="https", Host="x" * 1000 + ".example", Prefix="/p" * 600)
    told = explained(URL, {}, raw(f"https://{'x' * 1000}.example/sms"), headers=headers)
    assert told.startswith("not signed for ")


# The command.


@pytest.fixture
def explain(monkeypatch, capsys):
    def run(*argv, body=b"", token=TOKEN):
        if token is not None:
            monkeypatch.setenv("TWILIO_AUTH_TOKEN", token)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))
        return main(["explain", *argv]), *capsys.readouterr()

    return run


@pytest.mark.parametrize("header", [False, "X-Twilio-Signature", "x-twilio-signature"])
def test_the_command_says_that_nothing_is_wrong(explain, header):
    signature = signature_of(URL, MESSAGE)
    given = ["--header", f"{header}: {signature}"] if header else ["--signature", signature]
    status, out, err = explain("--url", URL, *given, body=FORM.encode())
    assert (status, out.splitlines()[0], err) == (0, "nothing is wrong: the signature matches", "")


def test_the_command_says_what_is_wrong(explain):
    signature = signature_of(URL, MESSAGE)
    seen = URL.replace("https", "http")
    status, out, _ = explain("--url", seen, "--signature", signature, body=FORM.encode())
    assert (status, out.splitlines()[0]) == (
        1,
        PUBLIC,
    )
    assert TOKEN not in out
    assert signature not in out


def test_the_command_takes_params_and_headers(explain):
    params = [
        part for pair in FORM.split("&") for part in ("--param", "=".join(parse_qsl(pair, True)[0]))
    ]
    headers = ["--header", "X-Forwarded-Host: abc.example", "--header", "X-Forwarded-Proto:https"]
    signature = signature_of(URL, MESSAGE)
    status, out, _ = explain("--url", "http://in/sms", "--signature", signature, *params, *headers)
    assert status == 1
    assert out.startswith(PUBLIC)


def test_the_command_takes_a_json_body_and_the_settings(explain):
    settings = "X-Twilio-Webhooks-Signature-Settings: key=SK1,algorithm=HMAC_SHA256"
    signature = raw(HASHED, algorithm="sha256")
    given = ["--url", HASHED, "--signature", signature]
    assert explain(*given, "--header", settings, body=JSON)[0] == 0
    status, out, _ = explain(*given, "--header", settings, body=JSON + b"\n")
    assert status == 1
    assert "its bodySHA256 is" in out
    assert "signed with HMAC_SHA256 and checked with HMAC_SHA1" in explain(*given, body=JSON)[1]


def test_the_command_says_that_a_file_ends_in_a_line_end(explain):
    signature = signature_of(URL, MESSAGE)
    out = explain("--url", URL, "--signature", signature, body=FORM.encode() + b"\n")[1]
    assert "a value has white space around it that was not signed" in out


def test_the_command_escapes_what_it_prints(explain):
    out = explain("--url", URL, "--signature", "x", "--param", "Body=\x1b[31m\n")[1]
    assert "\x1b" not in out
    assert re.search(r"Body\\x1b\[31m\\n'", out)


@pytest.mark.parametrize(
    ("argv", "token", "error"),
    [
        ([], None, "set TWILIO_AUTH_TOKEN to the token that the request is signed with"),
        ([], " ", "set TWILIO_AUTH_TOKEN"),
        (["--param", "Body"], TOKEN, "'Body' is not like NAME=VALUE"),
        (["--header", "Host"], TOKEN, "'Host' is not like NAME:VALUE"),
    ],
)
def test_the_command_says_how_it_is_used(explain, argv, token, error):
    status, out, err = explain("--url", URL, *argv, token=token)
    assert (status, out) == (2, "")
    assert err.startswith(f"smsreply: {error}")


AGAIN = {
    "white space at both ends": (URL, with_(Body="hi"), URL, with_(Body=" hi "), "white space at an end of Body"),
    "host, in capitals": ("https://ABC.example/sms", {}, URL, {}, 'pass public_url="https://abc.example"'),
    "two slashes within": ("https://abc.example/a/sms", {}, "https://abc.example/a//sms", {}, "has two slashes"),
    "the + of a number": (URL, with_(From="14017122661"), URL, with_(From="+14017122661"), "the + of a number was lost"),
    "the path twice": ("https://abc.example/hooks/sms/sms", {}, "https://abc.example/hooks/sms", {}, "Twilio's URL has /sms only once"),
    "two steps twice": ("https://abc.example/x/a/b/a/b", {}, "https://abc.example/x/a/b", {}, "Twilio's URL has /a/b only once"),
    "a stage, and a port": ("https://abc.example:8443/sms", {}, "https://abc.example:8443/api/sms", {}, 'pass public_url="https://abc.example:8443/api"'),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_what_people_stumbled_over_is_found(name):
    seen, fields, signed, signed_fields, advice = AGAIN[name]
    signature = validator.compute_signature(signed, signed_fields or MESSAGE)
    assert advice in explained(seen, fields or MESSAGE, signature)


def test_a_token_with_a_comma_is_said_to_be_several():
    found = explained_by("old,new", URL, MESSAGE, validator.compute_signature(URL, {}))
    assert found.startswith(
        "the auth token has a comma in it: if these are several tokens, pass a list"
    )


def test_an_explanation_says_that_nothing_is_wrong_just_where_that_is_so():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    urls = st.sampled_from([URL, URL + "/", URL + "?a=1", HASHED, "http://abc.example"])
    params = st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=4)

    @hypothesis.settings(max_examples=50, deadline=None, database=None)
    @hypothesis.given(urls, urls, params)
    def consistent(url, signed, fields):
        signature = validator.compute_signature(signed, fields)
        told = explained(url, fields, signature)
        assert told.startswith("nothing is wrong") == validator.validate(url, fields, signature)
        assert TOKEN not in told
        assert signature not in told

    consistent()


@pytest.mark.parametrize(
    "token",
    ["", " ", None, [], ["", " "], 5, [5], object(), {}, {"AC1": "x"}, b"", ["a", None]],
    ids=repr,
)
@pytest.mark.parametrize("url", [URL, None, 5, "", "\ud800"], ids=repr)
def test_nonsense_gets_an_answer_in_words_and_no_exception(token, url):
    for params in (None, {"a": "b"}, 5, [("a",)], object()):
        for signature in ("x", None, 5, b"\xff"):
            told = explained_by(token, url, params, signature)
            assert isinstance(told, str)
            assert len(told) > 20


def test_not_even_an_object_that_raises_makes_an_exception():
    class Hostile:
        def _raise(self, *_):
            raise Unprintable

        __str__ = __repr__ = __iter__ = __len__ = __bool__ = __eq__ = __hash__ = _raise
        strip = items = encode = _raise

    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no")

    hostile = Hostile()
    whole = ("token", URL, {}, "x", None, {})
    for index in range(6):
        told = explained_by(*whole[:index], hostile, *whole[index + 1 :])
        assert told.startswith(
            ("this cannot be explained (Unprintable): pass the token", "the auth")
        )


def test_of_a_mapping_the_requests_own_accounts_token_is_tried():
    account = MESSAGE["AccountSid"]
    signature = signature_of(URL, MESSAGE)
    told = explained_by(
        {account: TOKEN, "AC2": "other"}, URL.replace("s:", ":"), MESSAGE, signature
    )
    assert told.startswith(PUBLIC)
    told = explained_by({"AC2": TOKEN}, URL, MESSAGE, signature)
    assert told == f"there is no auth token for the account {account!r}"


SHARED = {"X-Twilio-Webhooks-Signature-Settings": "key=SK0123,algorithm=HMAC_SHA256"}


def test_a_shared_key_whose_secret_is_not_known_is_named():
    told = explained(URL, MESSAGE, raw("x", "another secret", "sha256"), headers=SHARED)
    assert told.startswith(
        "signed with the SharedKey SK0123, and no secret that is set here matches"
    )


TWICE = {
    "sorted and re-encoded": (URL + "?a=x%20y&b=2", {}, URL + "?b=2&a=x+y"),
    "re-encoded twice": (URL + "?a=%27x+y", {}, URL + "?a='x%20y"),
}


@pytest.mark.parametrize("name", ["sorted and re-encoded", "re-encoded twice"])
def test_two_changes_of_one_part_are_found_in_under_a_second(name):
    seen, _, signed = TWICE[name]
    started = time.monotonic()
    told = explained(seen, MESSAGE, signature_of(signed, MESSAGE))
    assert told.startswith("signed for https://abc.example/sms: the query is not as Twilio sent it")
    assert time.monotonic() - started < 1


def test_two_changes_of_the_fields_are_found():
    whole = {**MESSAGE, "Body": "hi "}
    told = explained(URL, {**FULL, "Body": "hi"}, signature_of(URL, whole))
    assert "blank fields" in told
    assert "white space at an end of Body was trimmed" in told


@pytest.mark.parametrize("body", ["Hello & <b>, it's 100%+1 😀", "100%25", "a%2Bb", "a + b"])
def test_a_form_that_was_decoded_twice_is_told(body):
    fields = with_(Body=body)
    seen = {name: unquote_plus(value) for name, value in fields.items()}
    told = explained(URL, seen, signature_of(URL, fields))
    assert "something decoded the form twice" in told


@pytest.mark.parametrize("blank", ["FromCity", "ToZip"])
def test_one_blank_field_that_was_dropped_is_found_with_another_change(blank):
    fields = {**MESSAGE, "Body": "hi ", blank: ""}
    signature = signature_of(URL, fields)
    del fields[blank]
    told = explained(URL.replace("https", "http"), fields, signature)
    assert told.startswith(f"{PUBLIC}; the blank fields {blank} were dropped")
    told = explained(URL, {**fields, "Body": "hi"}, signature)
    assert f"the blank fields {blank} were dropped" in told
    assert "white space at an end of Body was trimmed" in told


@pytest.mark.parametrize(
    ("used", "checked"), [("HMAC_SHA256", "HMAC_SHA1"), ("HMAC_SHA1", "HMAC_SHA256")]
)
def test_a_lost_algorithm_is_found_with_another_change(used, checked):
    signature = smsreply.RequestValidator(TOKEN).compute_signature(URL, MESSAGE, used)
    headers = {"X-Twilio-Webhooks-Signature-Settings": f"algorithm={checked}"}
    told = explained(URL.replace("https", "http"), MESSAGE, signature, headers=headers)
    assert told.startswith(f"{PUBLIC}; signed with {used} and checked with {checked}")


def test_a_path_that_a_proxy_rewrote_is_named():
    told = explained("https://abc.example/sms", MESSAGE, signature_of("https://abc.example/one", MESSAGE),
                     headers={"X-Original-URI": "/one?x=1"})  # fmt: skip
    assert "a proxy rewrote the path /one" in told


def test_where_nothing_matches_the_host_that_a_proxy_was_asked_for_is_named():
    told = explained(URL, MESSAGE, raw("x"), headers=proxy(Host="shop.example"))
    assert "A proxy was asked for the host shop.example." in told


# What really stands between Twilio and a program: what the program saw, what Twilio signed,
# and the advice.  None is the message's own fields.

HOOK = "https://abc.example/hooks/sms"
LOCAL = "http://127.0.0.1:8000/sms"
BASE64 = base64.b64encode(FORM.encode()).decode()
RAILS = with_(controller="sms", action="create")
TRIMMED = {**FULL, "Body": "hi"}
SPACED = with_(Body="hi ")
TEXTED = with_(Body="1 < 2 & 3")
NOT_NEAR = "not signed for"
# A signature with a + in it, and of which field.
PLUSES, PLUS = next((n, s) for n in map(str, range(99)) if "+" in (s := raw(f"{URL}n{n}")))
SITUATIONS = {
    # A tunnel, a load balancer, a gateway: scheme, host, port and prefix.
    "ngrok: TLS ends there, the host stays": ("http://abc.example/sms", None, {}, URL, None, PUBLIC),
    "ngrok --host-header=rewrite": ("http://localhost:8000/sms", None, proxy(Proto="https", Host="abc.example"), URL, None, PUBLIC),
    "Heroku's router": ("http://abc.example/sms", None, proxy(Proto="https", Port="443"), URL, None, PUBLIC),
    "an AWS load balancer on a port of its own": ("http://abc.example/sms", None, proxy(Proto="https", Port="8443"), "https://abc.example:8443/sms", None, 'public_url="https://abc.example:8443"'),
    "Cloudflare, flexible": ("http://abc.example/sms", None, {"CF-Visitor": '{"scheme":"https"}'}, URL, None, PUBLIC),
    "nginx with proxy_set_header Host $host, which drops the port": ("http://abc.example/sms", None, {}, "https://abc.example:8443/sms", None, NOT_NEAR),
    "nginx without proxy_set_header": (LOCAL, None, {}, URL, None, "If that one begins differently, pass what it has before this path as public_url"),
    "nginx without proxy_set_header, which says the host elsewhere": (LOCAL, None, {"X-Original-Host": "abc.example"}, URL, None, PUBLIC),
    "a proxy that follows RFC 7239": (LOCAL, None, {"Forwarded": 'for=1.2.3.4;host="abc.example";proto=https, for=10.0.0.1'}, URL, None, PUBLIC),
    "two proxies, each of which adds its host": (LOCAL, None, proxy(Proto="https,http", Host="abc.example, inner.example"), URL, None, PUBLIC),
    "Azure's front door": ("https://app.azurewebsites.example/sms", None, {"X-Original-Host": "abc.example"}, URL, None, PUBLIC),
    "Vercel, with a deployment's own host": ("https://app-git-main.example/sms", None, proxy(Host="abc.example", Proto="https"), URL, None, PUBLIC),
    "Kubernetes: http, and the Host has the inner port": ("http://abc.example:8080/sms", None, {}, URL, None, PUBLIC),
    "HAProxy: https, and the Host's port is 80": ("https://abc.example:80/sms", None, {}, URL, None, "nothing is wrong"),
    "an inner host in capitals": ("http://ABC.example/sms", None, {}, URL, None, PUBLIC),
    "a redirect from the bare domain to www": ("https://www.abc.example/sms", None, {}, URL, None, PUBLIC),
    "AWS API Gateway's stage": ("https://abc.example/sms", None, {}, "https://abc.example/prod/sms", None, 'public_url="https://abc.example/prod"'),
    "AWS API Gateway's stage, behind TLS that ended": ("http://abc.example/sms", None, {}, "https://abc.example/dev/sms", None, 'public_url="https://abc.example/dev"'),
    "Traefik's StripPrefix": ("http://10.0.0.2/sms", None, proxy(Proto="https", Host="abc.example", Prefix="/shop"), "https://abc.example/shop/sms", None, 'public_url="https://abc.example/shop"'),
    "a router that is mounted below /api": ("https://abc.example/sms", None, {}, "https://abc.example/api/sms", None, 'public_url="https://abc.example/api"'),
    # What rewrites or re-spells the path.
    "ingress-nginx with rewrite-target": ("https://abc.example/", None, {"X-Original-URI": "/hooks/sms"}, HOOK, None, "a proxy rewrote the path /hooks/sms"),
    "IIS's URL Rewrite": ("https://abc.example/index.aspx", None, {"X-Original-URL": "/hooks/sms"}, HOOK, None, "a proxy rewrote the path /hooks/sms"),
    "Envoy's prefix_rewrite": ("http://abc.example/v1", None, {"X-Envoy-Original-Path": "/hooks/sms", **proxy(Proto="https")}, HOOK, None, "a proxy rewrote the path /hooks/sms"),
    "a rewrite that loses the query": ("https://abc.example/x", None, {"X-Original-URI": "/hooks/sms?shop=1"}, HOOK + "?shop=1", None, "the header x-original-uri has it"),
    "Google's Cloud Functions: the function's name is gone": ("https://abc.example/", None, {}, URL, None, "something rewrote the path: Twilio's URL has /sms"),
    "Netlify's functions behind a rewrite": ("https://abc.example/.netlify/functions/sms", None, {}, URL, None, "Twilio's URL has no /.netlify/functions"),
    "PHP's front controller": ("https://abc.example/index.php/sms", None, {}, URL, None, "Twilio's URL has no /index.php"),
    "public_url has the whole URL, and the path came once more": ("https://abc.example/sms/sms", None, {}, URL, None, "Twilio's URL has no /sms: leave it out of public_url"),
    "public_url ends in a slash": ("https://abc.example//sms", None, {}, URL, None, "has one slash where the server got two"),
    "nginx's merge_slashes": ("https://abc.example/a/sms", None, {}, "https://abc.example/a//sms", None, "has two slashes where the server got one"),
    "Django's APPEND_SLASH": (URL + "/", None, {}, URL, None, "has no slash at its end: give it and the server the same path"),
    "Flask's strict_slashes, off": (URL, None, {}, URL + "/", None, "ends in a slash: give it and the server the same path"),
    "ASP.NET's display URL is unescaped": ("https://abc.example/my hooks/sms", None, {}, "https://abc.example/my%20hooks/sms", None, "the path is not as Twilio sent it, but escaped in another way"),
    # What rewrites or re-spells the query.
    "Flask's request.url un-escapes the query": (URL + "?a=It's", None, {}, URL + "?a=It%27s", None, ESCAPED),
    "Node's URLSearchParams writes + for %20": (URL + "?a=b+c", None, {}, URL + "?a=b%20c", None, ESCAPED),
    "a CDN that sorts the query": (URL + "?a=1&b=2&c=3", None, {}, URL + "?c=3&a=1&b=2", None, ORDER),
    "a CDN that sorts the query and re-encodes it": (URL + "?a=x%20y&b=2", None, {}, URL + "?b=2&a=x+y", None, ESCAPED),
    "Spring's getRequestURL has no query": (URL, None, {}, URL + "?shop=1", None, NOT_NEAR),
    "a tracker that adds to the query": (URL + "?shop=1&utm=2", None, {}, URL + "?shop=1", None, "utm was added to the query on the way"),
    "WordPress's rest_route": (URL + "?rest_route=/twilio", None, {}, URL, None, "the query was added on the way"),
    # What a decoder or a framework makes of the fields.
    "parse_qsl drops blank values": (URL, FULL, {}, URL, None, "the blank fields FromCity, FromZip were dropped"),
    "Laravel turns blank values into null": ("http://abc.example/sms", FULL, {}, URL, None, "the blank fields FromCity, FromZip were dropped"),
    "Laravel trims, and turns blank values into null": (URL, TRIMMED, {}, URL, SPACED, "white space at an end of Body was trimmed"),
    "a form's model that strips white space": (URL, with_(Body="hi"), {}, URL, SPACED, "white space at an end of Body was trimmed"),
    "Rails adds controller and action": (URL, RAILS, {}, URL, None, "the field 'action' was not signed"),
    "a framework's CSRF token": (URL, with_(_token="x"), {}, URL, None, "the field '_token' was not signed"),
    "request.values, $_REQUEST: the query is among the fields": (URL + "?shop=1&lang=en", with_(shop="1", lang="en"), {}, URL + "?shop=1&lang=en", None, "pass the body's fields alone"),
    "the same behind a proxy": ("http://abc.example/sms?shop=1", with_(shop="1"), {}, URL + "?shop=1", None, "pass the body's fields alone"),
    "Express without body-parser": (URL, {}, {}, URL, MESSAGE, "There are no fields: the body was read before, or nothing parsed it"),
    "FastAPI's Form(), with three of the fields": (URL, {"From": "+1", "To": "+2", "Body": "hi"}, {}, URL, None, "There is no AccountSid, which Twilio always sends: pass all of the fields"),
    "a handler that decodes once more": (URL, with_(From=" 14017122661", To=" 15558675310"), {}, URL, None, "the + of a number became a space: something decoded the form twice"),
    "xss-clean escapes for HTML": (URL, with_(Body="1 &lt; 2 &amp; 3"), {}, URL, TEXTED, "a value has HTML's escapes"),
    "a servlet that reads Latin-1": (URL, with_(Body="caf\u00c3\u00a9"), {}, URL, with_(Body="caf\u00e9"), "the form was decoded as Latin-1: it is UTF-8"),
    "AWS Lambda with isBase64Encoded": (URL, BASE64, {}, URL, None, "the body came in base64"),
    "AWS Lambda with isBase64Encoded, behind a stage": (URL, BASE64, {}, "https://abc.example/prod/sms", None, "the body came in base64"),
    "a mail-like gateway that changes line ends": (URL, with_(Body="a\nb"), {}, URL, with_(Body="a\r\nb"), "line ends were changed to \\n"),
    # The method.
    "http to https by a 301: the POST became a GET": (f"{URL}?{FORM}", {}, {}, URL, MESSAGE, "signed as a POST, and requested by GET"),
    "a validator that is given a GET's fields too": (f"{URL}?{FORM}", None, {}, f"{URL}?{FORM}", {}, "pass None for them"),
    # Two places at once.
    "a tunnel, and a slash": ("http://abc.example/sms/", None, {}, URL, None, "has no slash at its end"),
    "a tunnel, and blank values dropped": ("http://abc.example/sms", FULL, {}, URL, None, "the blank fields FromCity, FromZip were dropped"),
    "a tunnel, and Flask's query": ("http://abc.example/sms?a=It's", None, {}, URL + "?a=It%27s", None, "; " + ESCAPED),
    "a tunnel, and Rails's format": ("http://abc.example/sms", with_(format="xml"), {}, URL, None, "the field 'format' was not signed"),
    "a gateway's stage, and white space trimmed": (URL, with_(Body="hi"), {}, "https://abc.example/prod/sms", SPACED, "white space at an end of Body was trimmed"),
    "a sorted query, and blank values dropped": (URL + "?a=1&b=2", FULL, {}, URL + "?b=2&a=1", None, ORDER),
    "a slash, and a field added": (URL + "/", with_(_token="x"), {}, URL, None, "the field '_token' was not signed"),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_gets_its_advice_in_under_a_second(name):
    seen, fields, headers, signed, signed_fields, advice = SITUATIONS[name]
    signature = signature_of(signed, MESSAGE if signed_fields is None else signed_fields)
    before = time.thread_time()
    told = explained(seen, MESSAGE if fields is None else fields, signature, headers=headers)
    assert time.thread_time() - before < 1
    assert advice in told.partition("\n")[0]


@pytest.mark.parametrize(
    ("token", "signature", "advice"),
    [
        pytest.param(TOKEN + "\n", raw(URL), "the auth token has white space around it", id="an env file with a line end"),
        pytest.param(f'"{TOKEN}"', raw(URL), "the auth token has quotes around it", id="docker --env-file with quotes"),
        pytest.param("AC" + "0" * 32, raw(URL), "is an SID, which is no secret", id="the Account SID for the token"),
        pytest.param("SK" + "0" * 32, raw(URL), "is an SID, which is no secret", id="an API key's SID for the token"),
        pytest.param("0" * 32, raw(URL), "check the token: it must be the primary one of the number's account", id="a subaccount's token, or the secondary one"),
        pytest.param("", raw(URL), "the auth token is blank: set TWILIO_AUTH_TOKEN", id="the variable is not set"),
        pytest.param(f"{TOKEN},{'0' * 32}", raw(URL), "if these are several tokens, pass a list", id="two tokens in one variable"),
        pytest.param(TOKEN, None, "X-Twilio-Signature is missing or empty", id="a proxy drops the header"),
        pytest.param(TOKEN, f"{raw(URL)}, {raw(URL)}", "the signature has 58 characters", id="a proxy doubles the header"),
        pytest.param(TOKEN, PLUS.replace("+", " "), "a + in the signature became a space", id="a queue that decodes the header"),
        pytest.param(TOKEN, raw(URL).rstrip("="), "the signature has 27 characters", id="base64 without its ="),
        pytest.param(TOKEN, raw(URL, algorithm="sha256"), "signed with HMAC_SHA256 and checked with HMAC_SHA1", id="a SharedKey, and an old validator"),
    ],
)  # fmt: skip
def test_each_flaw_of_the_token_or_the_header_gets_its_advice(token, signature, advice):
    fields = {"n": PLUSES} if signature == PLUS.replace("+", " ") else None
    assert advice in explained_by(token, URL, fields, signature).partition("\n")[0]


# Each change is what a proxy or a framework makes of what Twilio signed: a URL and fields.

WHOLE = "https://abc.example/prod/caf%C3%A9/sms?b=it's&a=x+y&%C3%A9=1"
CHANGES = {
    "TLS ends": lambda url, fields: (url.replace("https:", "http:"), fields),
    "an inner host": lambda url, fields: (url.replace("abc.example", "10.0.0.1:8000"), fields),
    "www": lambda url, fields: (url.replace("//abc", "//www.abc"), fields),
    "a stage is stripped": lambda url, fields: (url.replace("/prod", ""), fields),
    "a slash is added": lambda url, fields: (re.sub(r"/sms(?=[?]|$)", "/sms/", url), fields),
    "a prefix is added": lambda url, fields: (url.replace(".example/", ".example/bot/"), fields),
    "the path is unescaped": lambda url, fields: (url.replace("caf%C3%A9", "caf\u00e9"), fields),
    "the path is in lower case": lambda url, fields: (url.replace("caf%C3%A9", "caf%c3%a9"), fields),
    "the query is sorted": lambda url, fields: (of_query(url, lambda q: "&".join(sorted(q.split("&")))), fields),
    "' is escaped": lambda url, fields: (of_query(url, lambda q: q.replace("'", "%27")), fields),
    "+ is %20": lambda url, fields: (of_query(url, lambda q: q.replace("+", "%20")), fields),
    "the query is longer": lambda url, fields: (of_query(url, lambda q: q + "&utm=1"), fields),
    "the query is unescaped": lambda url, fields: (of_query(url, unquote), fields),
    "blank values are dropped": lambda url, fields: (url, {n: v for n, v in fields.items() if v}),
    "values are trimmed": lambda url, fields: (url, {n: v.strip() for n, v in fields.items()}),
    "a field is added": lambda url, fields: (url, {**fields, "_token": "x"}),
    "+ is a space": lambda url, fields: (url, {n: v.replace("+", " ") for n, v in fields.items()}),
    "Latin-1": lambda url, fields: (url, {n: v.encode().decode("latin-1") for n, v in fields.items()}),
    "HTML": lambda url, fields: (url, {n: html.escape(v) for n, v in fields.items()}),
    "not decoded": lambda url, fields: (url, {n: quote_plus(v) for n, v in fields.items()}),
}  # fmt: skip


def of_query(url, change):
    path, _, query = url.partition("?")
    return f"{path}?{change(query)}"


@slow
@pytest.mark.parametrize("first", CHANGES)
def test_every_change_is_found_alone_and_with_every_other_in_under_a_second(first):
    fields = with_(Body="caf\u00e9<3 ")
    signature = signature_of(WHOLE, fields)
    headers = proxy(Host="abc.example", Proto="https")
    lost = []
    for second in [""] + [name for name in CHANGES if name != first]:
        seen = CHANGES[first](WHOLE, fields)
        seen = CHANGES[second](*seen) if second else seen
        before = time.thread_time()
        told = explained(*seen, signature, headers=headers)
        assert time.thread_time() - before < 1
        if not told.startswith(("signed ", "nothing is wrong")):
            lost.append(second)
    assert not lost
