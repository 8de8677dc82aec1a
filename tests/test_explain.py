"""Why a signature does not match: what was seen, what was signed, and what is said."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
import time
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest
from conftest import MESSAGE, SID, call, make_environ

import smsreply
from smsreply import App, RequestValidator, main

TOKEN = "f0e1d2c3b4a5968778695a4b3c2d1e0f"  # in no field, and so to be found if it is told
URL = "https://abc.example/sms"
FORM = urlencode(MESSAGE)
FULL = {name: value for name, value in MESSAGE.items() if value}
JSON = b'{"a": 1}'
HASHED = f"{URL}?bodySHA256={hashlib.sha256(JSON).hexdigest()}"
BODYS = hashlib.sha256(b'{"a":1}').hexdigest()
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"ada:sesame").decode()}
validator = RequestValidator(TOKEN)


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
    "scheme": ("http://abc.example/sms", {}, {}, URL, {}, PUBLIC + " (a proxy ends TLS"),
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
    "prefix, a gateway's stage": (URL, {}, {}, "https://abc.example/prod/sms", {}, 'pass public_url="https://abc.example/prod" (something stripped /prod from the path)'),
    "prefix, that was not signed": ("https://abc.example/bot/v2/sms", {}, {}, URL, {}, "the path /bot/v2 was not in it: leave it out of public_url, or of the mount"),
    "prefix, and a longer path": ("https://abc.example/bot/a/sms", {}, {}, "https://abc.example/a/sms", {}, "the path /bot was not in it: leave it out of public_url, or of the mount"),
    "slash, dropped": (URL, {}, {}, URL + "/", {}, SLASH.format("/", "ends in a slash: make them alike")),
    "slash, added": (URL + "/", {}, {}, URL, {}, SLASH.format("", "has no slash at its end: make them alike")),
    "slash, of two": (URL, {}, {}, "https://abc.example//sms", {}, "has two slashes where one came"),
    "slash, and query": (URL + "?a=1", {}, {}, URL + "/?a=1", {}, SLASH.format("/", "ends in a slash")),
    "scheme, port and slash": ("http://abc.example:8767/sms", {}, {}, URL + "/", {}, "(a proxy ends TLS in front of this server); the URL in Twilio's console ends in a slash"),
    "slash, and query order": (URL + "/?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, "has no slash at its end: make them alike; " + ORDER),
    "path, unescaped": ("https://abc.example/caf\u00e9", {}, {}, "https://abc.example/caf%C3%A9", {}, "the path is not as Twilio sent it, but escaped in another way"),
    "path, escaped": ("https://abc.example/a%40b", {}, {}, "https://abc.example/a@b", {}, "the path is not as Twilio sent it, but escaped in another way"),
    "query order": (URL + "?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, ORDER),
    "query order, of many": (URL + "?a=1&b=2&c=3&d=4&e=5&f=6", {}, {}, URL + "?f=6&e=5&d=4&c=3&b=2&a=1", {}, ORDER),
    "query order, behind a proxy": ("http://abc.example/sms?b=2&a=1", {}, {}, URL + "?a=1&b=2", {}, "ends TLS in front of this server); " + ORDER),
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
    "blanks dropped, behind a proxy": ("http://abc.example/sms", FULL, {}, URL, MESSAGE, "in front of this server); the blank fields FromCity, FromZip were"),
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
    "POST, that came as a GET": (f"{URL}?{FORM}", None, {}, URL, MESSAGE, "signed as a POST, and requested by GET: something on the way moved the fields to the query, a redirect"),
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
    told = validator.explain(seen, fields, signature, headers=headers)
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
        pytest.param(URL, None, raw(URL), {"algorithm": "HMAC\nMD5"}, "'HMAC\\\\nMD5' is no algorithm that is known here", id="no algorithm"),
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
        pytest.param(URL, MESSAGE, raw("https://other.example/x"), {}, "not signed for https://abc.example/sms with 19 fields, nor for anything much like it: is this the URL in Twilio", id="no near miss"),
    ],
)  # fmt: skip
def test_a_flaw_is_told_in_words(seen, params, signature, more, words):
    assert words in validator.explain(seen, params, signature, **more).partition("\n")[0]


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
    told = validator.explain(seen, MESSAGE, signature_of(signed, MESSAGE), headers=headers)
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
    told = validator.explain(seen, MESSAGE, signature_of(signed, MESSAGE))
    assert told.partition("\n")[0] == (
        f"signed for {signed.partition('?')[0]}: {PUBLIC.partition(': ')[2]}"
        " (a proxy ends TLS in front of this server)"
    )


def test_credentials_in_the_url_are_kept_in_another_scheme():
    url = "http://ada:sesame@abc.example/sms"
    told = validator.explain(url, None, raw(url.replace("http", "https"))).partition("\n")[0]
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
        f"signed for https://abc.example{stage}/sms:"
        f' pass public_url="https://abc.example{stage}" (something stripped {stage} from the path)\n'
    ) in validator.explain(f"{scheme}://abc.example/sms", MESSAGE, signature)


PLACES = ["FromCity", "FromState", "FromZip", "FromCountry", "ToCity", "ToState", "ToZip", "ToCountry"]  # fmt: skip


@pytest.mark.parametrize("name", ["Body", *PLACES])
def test_a_blank_field_that_was_dropped_is_named(name):
    fields = {"From": "+1", "MessageSid": SID}
    told = validator.explain(URL, fields, signature_of(URL, {**fields, name: ""}))
    assert f": the blank fields {name} were dropped: parse with keep_blank_values=True\n" in told


@pytest.mark.parametrize("names", [[*PLACES, "Body"], PLACES, ["Body"], PLACES[:4], PLACES[4:]])
def test_blank_fields_that_were_dropped_behind_a_proxy_are_named(names):
    fields = {"From": "+1", "MessageSid": SID}
    signature = signature_of(URL, {**fields, **dict.fromkeys(names, "")})
    told = validator.explain("http://abc.example/sms", fields, signature)
    assert f"server); the blank fields {', '.join(names)} were dropped" in told


@pytest.mark.parametrize("whole", ["hi ", " hi", "hi\n", "hi\r\n"], ids=repr)
@pytest.mark.parametrize("name", ["Body", "ProfileName", "ButtonText"])
def test_white_space_that_was_trimmed_off_what_people_type_is_told(name, whole):
    signature = signature_of(URL, with_(**{name: whole}))
    told = validator.explain(URL, with_(**{name: "hi"}), signature)
    assert f"white space at an end of {name} was trimmed: use the values as they came\n" in told


@pytest.mark.parametrize("pair", ["' %27", "+ %20", "~ %7E", "* %2A", ", %2C"])
def test_one_character_escaped_in_another_way_is_told(pair):
    for seen, signed in (pair.split(), pair.split()[::-1]):
        # The rest is escaped as no program does it, and so nothing but the one may change.
        seen, signed = [f"{URL}?a=x{text}y&b=%7A" for text in (seen, signed)]
        assert ESCAPED in validator.explain(seen, None, raw(signed))


@pytest.mark.parametrize("space", ["%20", "+"])
@pytest.mark.parametrize(
    "signed",
    ["%27%2A%2F%3A%40%3F", "'%2A%2F%3A%40%3F", "%27*%2F%3A%40%3F", "%27%2A/:%40%3F", "'*/:@?"],
)
def test_a_query_is_escaped_anew_as_five_programs_do(signed, space):
    for seen in ("'%2A/%3A@%3F%20", "'%2A/%3A@%3F+"):
        seen, full = [f"{URL}?a={text}x%3D%C3%A9&b=1" for text in (seen, signed + space)]
        full = full.replace("%3D", "=") if "@" in signed else full
        assert ESCAPED in validator.explain(seen, None, raw(full))


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
    assert words in validator.explain(f"{URL}?{seen}", None, raw(f"{URL}?{signed}"))


@pytest.mark.parametrize(
    ("seen", "signed"),
    [
        ("/it%27s%20caf%C3%A9", "/it's%20caf%C3%A9"),
        ("/it's%20caf%C3%A9", "/it%27s%20caf%C3%A9"),
        ("/a+b%40c%20d", "/a+b@c d"),
    ],
)
def test_a_path_that_was_escaped_in_another_way_is_told(seen, signed):
    told = validator.explain(
        "https://abc.example" + seen, None, raw("https://abc.example" + signed)
    )
    assert ESCAPED.replace("query", "path") in told


@pytest.mark.parametrize("prefix", ["/bot", "/bot/v2", "/a/b/c"])
def test_a_prefix_that_was_not_signed_is_named(prefix):
    told = validator.explain(
        f"https://abc.example{prefix}/sms", MESSAGE, signature_of(URL, MESSAGE)
    )
    assert f"the path {prefix} was not in it: leave it out of public_url, or of the mount\n" in told


def test_hex_digits_of_the_other_case_are_told():
    lower, upper = URL + "?a=%2fx%7e", URL + "?a=%2Fx%7E"
    for seen, signed in ((lower, upper), (upper, lower)):
        assert ESCAPED in validator.explain(seen, None, raw(signed))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (f" {TOKEN}\n", "the auth token has white space around it: set it without"),
        (f"'{TOKEN}'", "the auth token has quotes around it: set it without"),
        ("AC" + "0" * 32, "what is set as the auth token is an SID"),
    ],
)
def test_a_flaw_of_the_token_is_told_in_words(token, words):
    told = RequestValidator(token).explain(URL, MESSAGE, signature_of(URL, MESSAGE))
    assert words in told
    assert token.strip() not in told


@pytest.mark.parametrize("token", [f" {TOKEN}", f'"{TOKEN}"'])
def test_a_token_is_faulted_only_where_the_one_without_the_fault_matches(token):
    told = RequestValidator(token).explain(URL, MESSAGE, raw("https://other.example/x"))
    assert told.startswith("not signed for")


def test_a_token_of_quotes_alone_is_a_token_like_another():
    told = RequestValidator("''").explain(URL, MESSAGE, signature_of(URL, MESSAGE))
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
    said = RequestValidator(tokens).explain(URL, MESSAGE, signature_of(URL, MESSAGE))
    assert said.startswith("what is set as the auth token is an SID") == told


def test_the_algorithm_may_be_named_in_lower_case():
    signature = raw(URL, algorithm="sha256")
    told = validator.explain(URL, None, signature, algorithm="hmac_sha256")
    assert told.startswith("nothing is wrong")


def test_the_second_line_is_what_two_people_can_compare():
    told = validator.explain(URL + "?q=1", {"b": "2", "a": "é\n"}, raw("x"))
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
    told = validator.explain(url, MESSAGE, raw("https://other.example/x"))
    assert told.startswith(f"not signed for {shown} with 19 fields")


def test_each_token_is_tried():
    several = RequestValidator(["old", TOKEN])
    assert PUBLIC in several.explain(URL.replace("https", "http"), None, raw(URL))


def test_nothing_is_wrong_only_where_the_request_is_accepted():
    for url in (URL, URL + "#rc=2", HASHED, "https://me:pw@abc.example", "/sms", ""):
        for params in (None, JSON, MESSAGE):
            for signed in (URL, HASHED, "https://abc.example/"):
                told = validator.explain(url, params, raw(signed))
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


def test_at_debug_the_log_has_what_the_signature_is_checked_against(app, caplog):
    caplog.set_level(logging.DEBUG)
    refused(app, {"From": "+1", "Body": "é" * 10_000})
    assert f"the signature is checked against: '{URL}Body{'é' * 10_000}From+1'" in caplog.messages


def test_forwarded_headers_explain_and_never_admit(app):
    forged = {"HTTP_X_FORWARDED_HOST": "abc.example", "HTTP_HOST": "evil.example"}
    assert refused(app, signature=signature_of(URL, MESSAGE), **forged)[0] == "403 Forbidden"


def test_app_explains_a_get(app, caplog):
    environ = make_environ(
        method="GET", QUERY_STRING=FORM, HTTP_X_TWILIO_SIGNATURE=signature_of(URL, MESSAGE)
    )
    assert call(app, environ)[0] == "403 Forbidden"
    assert "signed as a POST, and requested by GET" in caplog.messages[0]


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


def test_a_flood_is_explained_once_a_second(app, caplog, monkeypatch):
    now = [100.0]
    explained = []
    monkeypatch.setattr(smsreply.time, "monotonic", lambda: now[0])
    why = smsreply.Diagnosis.why
    monkeypatch.setattr(smsreply.Diagnosis, "why", lambda *a: explained.append(1) or why(*a))
    for _ in range(50):
        assert refused(app)[0] == "403 Forbidden"
    assert (len(caplog.messages), len(explained)) == (1, 1)
    now[0] += 1
    refused(app)
    assert (len(caplog.messages), len(explained)) == (2, 2)
    assert caplog.messages[1].endswith("(and 49 more since the last such line)")


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
    # Under 20 ms; three times that is allowed for, as coverage and slow machines are.
    headers = proxy(Proto="http", Host="x.example:1", Port="2", Prefix="/p") | LOGIN
    spent = []
    for _ in range(3):
        before = time.thread_time()
        validator.explain(
            f"http://abc.example/a/b/c/sms?{query}", fields, "A" * 27 + "=", headers=headers
        )
        spent.append(time.thread_time() - before)
    assert min(spent) < 0.06


def test_a_signature_that_is_far_too_long_is_not_said_to_be_missing():
    told = validator.explain(URL, {}, None, headers={"X-Twilio-Signature": "A" * 5000})
    assert told.startswith("the signature has 5000 characters, and one made with HMAC_SHA1 has 28")


def test_a_header_too_long_to_be_one_is_not_looked_at():
    headers = proxy(Proto="https", Host="x" * 1000 + ".example", Prefix="/p" * 600)
    told = validator.explain(URL, {}, raw(f"https://{'x' * 1000}.example/sms"), headers=headers)
    assert told.startswith("not signed for ")


def test_what_is_tried_is_bounded(monkeypatch):
    tried = []
    sign = smsreply.Signer.sign
    monkeypatch.setattr(smsreply.Signer, "sign", lambda *a: tried.append(len(a[1])) or sign(*a))
    for known in (validator, RequestValidator([TOKEN, "another", "a third"])):
        for case in COSTLY:
            tried.clear()
            known.explain(f"{URL}?{case.values[1]}", case.values[0], "A" * 27 + "=")
            assert len(tried) < 1600
            assert sum(tried) < 6_000_000


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
        PUBLIC + " (a proxy ends TLS in front of this server)",
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
        ([], None, "set TWILIO_AUTH_TOKEN to the token that the request should be signed with"),
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
    "the path twice": ("https://abc.example/hooks/sms/sms", {}, "https://abc.example/hooks/sms", {}, "the path /sms was in it only once"),
    "two steps twice": ("https://abc.example/x/a/b/a/b", {}, "https://abc.example/x/a/b", {}, "the path /a/b was in it only once"),
    "a stage, and a port": ("https://abc.example:8443/sms", {}, "https://abc.example:8443/api/sms", {}, 'pass public_url="https://abc.example:8443/api"'),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_what_people_stumbled_over_is_found(name):
    seen, fields, signed, signed_fields, advice = AGAIN[name]
    signature = validator.compute_signature(signed, signed_fields or MESSAGE)
    assert advice in validator.explain(seen, fields or MESSAGE, signature)


def test_a_token_with_a_comma_is_said_to_be_several():
    found = RequestValidator("old,new").explain(URL, MESSAGE, validator.compute_signature(URL, {}))
    assert found.startswith(
        "the auth token has a comma in it: if those are several, pass them as a list"
    )
