"""The signature: Twilio's published vectors, and whatever holds the fields."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from conftest import MESSAGE, TOKEN, call, make_environ

from smsreply import (
    App,
    RequestValidator,
    other_spellings,
    server_origin,
    signature_algorithm,
    signed_string,
)

U = "https://mycompany.com/myapp.php?foo=1&bar=2"
P = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}
SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
REPEATED = [
    ("Sid", "CA123"),
    ("SidAccount", "AC123"),
    ("Digits", "5678"),
    ("Digits", "1234"),
    ("Digits", "1234"),
]
JSON = '{"property": "value", "boolean": true}'
JSON_URL = f"{U}&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
SMS_URL = "https://abc.example/sms"

validator = RequestValidator(TOKEN)


def hand_made(string, token=TOKEN, algorithm="sha1"):
    """Return the signature as Twilio's documentation has it, and not as our code does."""
    return base64.b64encode(hmac.new(token.encode(), string.encode(), algorithm).digest()).decode()


# TWILIO.md, section 2: all of them, and the URLs that it says are equal.
VECTORS = [
    (U, P, SIGNATURE),
    (U.replace(".com", ".com:443"), P, "kvajT1Ptam85bY51eRf/AJRuM3w="),
    (U, P, "kvajT1Ptam85bY51eRf/AJRuM3w="),
    (U.replace("https", "http").replace(".com", ".com:1234"), P, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
    (U.replace("https", "http").replace(".com", ".com:80"), P, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    (U.replace("https", "http"), P, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    (U.replace(".com", ".com:1234"), P, SIGNATURE),
    (U, REPEATED, "IK+Dwps556ElfBT0I3Rgjkr1wJU="),
    (JSON_URL, JSON, "a9nBmqA0ju/hNViExpshrM61xv4="),
    (U.replace("my", "user:pass@my", 1), P, "CukzLTc1tT5dXEDIHm/tKBanW10="),
    (U + "&Body=It's+amazing", P, "dsq4Ehbj6cs+KdTkpF5sSSplOWw="),
]


@pytest.mark.parametrize(("url", "params", "signature"), VECTORS)
def test_a_published_vector_is_accepted_and_its_neighbours_are_not(url, params, signature):
    assert validator.validate(url, params, signature)
    assert not RequestValidator("54321").validate(url, params, signature)
    assert not validator.validate(url.replace("mycompany", "yourcompany"), params, signature)
    assert not validator.validate(url.replace("bar=2", "bar=3"), params, signature)
    assert not validator.validate(url, params, signature[::-1])


def test_a_published_vector_is_what_is_computed():
    assert validator.compute_signature(U, P) == SIGNATURE
    assert validator.compute_signature(U, REPEATED) == "IK+Dwps556ElfBT0I3Rgjkr1wJU="
    assert validator.compute_signature(JSON_URL) == "a9nBmqA0ju/hNViExpshrM61xv4="
    assert validator.compute_hash(JSON) == validator.compute_hash(JSON.encode()) == JSON_URL[-64:]


def test_hmac_sha256_is_accepted_where_it_is_named_and_nowhere_else():
    signature = "033hgUJA9M/hXIZsYjwkerEP/DBm35nEri5FhCYjA5s="
    assert validator.compute_signature(U, P, "HMAC_SHA256") == signature
    assert validator.validate(U, P, signature, "hmac_sha256")
    assert not validator.validate(U, P, signature)
    assert not validator.validate(U, P, SIGNATURE, "HMAC_SHA256")


def test_an_unknown_algorithm_is_refused_and_logged(caplog):
    assert not validator.validate(U, P, SIGNATURE, "HMAC_\nMD5")
    assert "'HMAC_\\nMD5' is not an algorithm" in caplog.messages[0].replace("\\\\", "\\")
    with pytest.raises(ValueError, match="HMAC_MD5.* is neither HMAC_SHA1 nor HMAC_SHA256"):
        validator.compute_signature(U, P, "hmac_md5")


@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [
        (None, "HMAC_SHA1"),
        ("", "HMAC_SHA1"),
        ("key=SK1", "HMAC_SHA1"),
        ("algorithm=", "HMAC_SHA1"),
        ("key=SK1,algorithm=HMAC_SHA256", "HMAC_SHA256"),
        (" algorithm = HMAC_SHA256 , key=SK1", "HMAC_SHA256"),
        ("myalgorithm=HMAC_SHA256", "HMAC_SHA1"),
    ],
)
def test_the_settings_name_the_algorithm(settings, algorithm):
    assert signature_algorithm(settings) == algorithm


@pytest.mark.parametrize(
    ("settings", "algorithm", "status"),
    [
        (None, "sha1", "200"),
        ("key=SK1,algorithm=HMAC_SHA256", "sha256", "200"),
        ("key=SK1,algorithm=HMAC_SHA256", "sha1", "403"),
        (None, "sha256", "403"),
        ("algorithm=HMAC_MD5", "md5", "403"),
    ],
)
def test_app_takes_the_algorithm_that_the_request_names(settings, algorithm, status):
    string = SMS_URL + "".join(name + MESSAGE[name] for name in sorted(MESSAGE))
    environ = make_environ(
        MESSAGE,
        HTTP_X_TWILIO_SIGNATURE=hand_made(string, algorithm=algorithm),
        HTTP_X_TWILIO_WEBHOOKS_SIGNATURE_SETTINGS=settings,
    )
    assert call(App(lambda m: None, auth_token=TOKEN), environ)[0].startswith(status)


class LastOnly(dict):
    """By index and in its items each name has its last value alone."""

    def __getitem__(self, name):
        return self.values_of(name)[-1]

    def items(self):
        return [(name, self[name]) for name in self]

    def values_of(self, name):
        return dict.__getitem__(self, name)


class GetAll(LastOnly):
    """As aiohttp's and webob's MultiDicts."""

    getall = LastOnly.values_of


class GetList(LastOnly):
    """As Django's QueryDict."""

    getlist = LastOnly.values_of


FORM = "Digits=5678&Sid=CA123&Digits=1234&SidAccount=AC123&Digits=1234"
LISTS = {"Sid": ["CA123"], "SidAccount": "AC123", "Digits": ["5678", "1234", "1234"]}


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(LISTS, id="dict of lists"),
        pytest.param({name: tuple(value) for name, value in [*LISTS.items()][::2]}
                     | {"SidAccount": "AC123"}, id="dict of tuples"),
        pytest.param(GetAll(LISTS, SidAccount=["AC123"]), id="getall"),
        pytest.param(GetList(LISTS, SidAccount=["AC123"]), id="getlist"),
        pytest.param(REPEATED, id="pairs"),
        pytest.param(iter(REPEATED), id="an iterator of pairs"),
        pytest.param(FORM, id="str"),
        pytest.param(FORM.encode(), id="bytes"),
        pytest.param(bytearray(FORM.encode()), id="bytearray"),
    ],
)  # fmt: skip
def test_params_are_taken_from_whatever_holds_them(params):
    assert validator.validate(U, params, "IK+Dwps556ElfBT0I3Rgjkr1wJU=")


def test_params_are_taken_from_werkzeug():
    structures = pytest.importorskip("werkzeug.datastructures")
    for kind in (structures.MultiDict, structures.ImmutableMultiDict):
        assert validator.validate(U, kind(REPEATED), "IK+Dwps556ElfBT0I3Rgjkr1wJU=")
    both = structures.CombinedMultiDict([structures.MultiDict(REPEATED)])
    assert validator.validate(U, both, "IK+Dwps556ElfBT0I3Rgjkr1wJU=")


@pytest.mark.parametrize("params", [None, {}, [], "", b"", ()])
def test_no_params_are_the_url_alone(params):
    assert validator.validate(SMS_URL, params, hand_made(SMS_URL))


@pytest.mark.parametrize("form", [dict, lambda text: text, lambda text: text.encode()])
def test_a_blank_value_is_part_of_the_signature(form):
    signature = hand_made(f"{SMS_URL}BodyFromAFromZip")
    params = {"From": "A", "Body": "", "FromZip": ""}
    params = form("From=A&Body=&FromZip=") if form is not dict else params
    assert validator.validate(SMS_URL, params, signature)
    assert not validator.validate(SMS_URL, {"From": "A", "Body": ""}, signature)


def test_fields_are_sorted_by_code_point_and_text_is_utf_8():
    # In UTF-16, U+1F600 would stand before U+FF5E.
    fields = {"b": "2", "B": "é", "a😀": "3", "a～": "4", "a": "5"}
    assert signed_string("u", fields.items()) == "uBéa5a～4a😀3b2"
    signature = hand_made(f"{SMS_URL}Béa5a～4a😀3b2")
    assert validator.validate(SMS_URL, fields, signature)


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(None, id="missing"),
        pytest.param("", id="empty"),
        pytest.param(b"", id="empty bytes"),
        pytest.param(SIGNATURE[:-1], id="a character short"),
        pytest.param(SIGNATURE + "=", id="a character long"),
        pytest.param(SIGNATURE + " ", id="a space behind"),
        pytest.param(SIGNATURE.lower(), id="lower case"),
        pytest.param("é" * 28, id="non-ASCII"),
        pytest.param("\ud800" * 28, id="lone surrogates"),
        pytest.param("A" * 10_000, id="10,000 characters"),
        pytest.param("\0" * 28, id="NUL"),
    ],
)
def test_any_other_header_is_false_and_no_exception(signature):
    assert validator.validate(U, P, signature) is False
    assert validator.validate(JSON_URL, JSON, signature) is False


@pytest.mark.parametrize(
    "signature", [None, "", "\xe9" * 28, "A" * 10_000, SIGNATURE + "," + SIGNATURE]
)
def test_app_refuses_any_other_header(signature):
    environ = make_environ(MESSAGE, HTTP_X_TWILIO_SIGNATURE=signature)
    status, _, body = call(App(lambda m: None, auth_token=TOKEN), environ)
    assert (status, body) == ("403 Forbidden", b"this was not signed by Twilio\n")


def test_a_body_that_is_not_utf_8_is_refused_and_no_exception():
    assert not RequestValidator(TOKEN).validate(
        "https://abc.example/", b"a=\xff%FF", "A" * 27 + "="
    )


def test_a_signature_may_be_bytes():
    assert validator.validate(U, P, SIGNATURE.encode())


@pytest.mark.parametrize("tokens", [["new", TOKEN], (TOKEN, "new"), iter([b"new", TOKEN.encode()])])
def test_each_of_several_tokens_is_accepted(tokens):
    both = RequestValidator(tokens)
    assert both.validate(U, P, SIGNATURE)
    assert both.validate(U, P, RequestValidator("new").compute_signature(U, P))
    assert not both.validate(U, P, RequestValidator("old").compute_signature(U, P))


def test_the_first_of_several_tokens_signs():
    assert RequestValidator([TOKEN, "new"]).compute_signature(U, P) == SIGNATURE


@pytest.mark.parametrize("token", ["", " \n", [], ["", " "], None, b""])
def test_a_blank_token_is_refused(token):
    with pytest.raises(ValueError, match="the token is blank"):
        RequestValidator(token)


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("https://abc.example/sms", "https://abc.example:443/sms"),
        ("https://abc.example:443/sms", "https://abc.example/sms"),
        ("http://abc.example/sms", "http://abc.example:80/sms"),
        ("https://abc.example:8443/sms", "https://abc.example/sms"),
        ("HTTPS://abc.example/sms", "HTTPS://abc.example:443/sms"),
        ("https://abc.example/", "https://abc.example"),
        ("https://abc.example", "https://abc.example/"),
        ("https://abc.example", "https://abc.example:443/"),
        ("https://abc.example/?a=1", "https://abc.example?a=1"),
        ("https://abc.example?a=1", "https://abc.example/?a=1"),
        ("https://me:pw@abc.example/sms", "https://abc.example/sms"),
        ("https://me:pw@abc.example/sms", "https://abc.example:443/sms"),
        ("https://me:pw@abc.example/sms", "https://me:pw@abc.example/sms"),
        ("https://me:pw@abc.example/sms", "https://me:pw@abc.example:443/sms"),
        ("https://m@e:p@w@abc.example/sms", "https://abc.example/sms"),
        ("https://[::1]/sms", "https://[::1]:443/sms"),
        ("https://[::1]:8443/sms", "https://[::1]/sms"),
        ("https://me:pw@[::1]:8443/sms", "https://[::1]:8443/sms"),
        ("https://abc.example/sms#rc=2&rp=all", "https://abc.example/sms"),
        ("https://abc.example/sms?a=1#rc=2", "https://abc.example:443/sms?a=1"),
        ("https://abc.example/sms?", "https://abc.example/sms?"),
        ("https://abc.example/sms?", "https://abc.example:443/sms?"),
        ("https://abc.example//sms", "https://abc.example//sms"),
        ("https://abc.example/s%6Ds?b=%27&a='", "https://abc.example/s%6Ds?b=%27&a='"),
        ("https://abc.example/a@b:c/é", "https://abc.example/a@b:c/é"),
        ("https://abc.example?a=:1@b", "https://abc.example:443?a=:1@b"),
        ("https://abc.example/sms?a=\n", "https://abc.example:443/sms?a=\n"),
    ],
)
def test_a_url_is_accepted_in_each_spelling_that_twilio_signs(url, signed):
    assert validator.validate(url, {"From": "A"}, hand_made(f"{signed}FromA"))


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("https://abc.example/sms", "http://abc.example/sms"),
        ("https://abc.example/sms", "https://abc.example:8443/sms"),
        ("https://abc.example/sms", "https://abc.example:80/sms"),
        ("https://abc.example/sms", "https://abc.example/sms/"),
        ("https://abc.example/sms/", "https://abc.example/sms"),
        ("https://abc.example/sms", "https://abc.example/sms?"),
        ("https://abc.example/sms?", "https://abc.example/sms"),
        ("https://abc.example/sms", "https://abc.example//sms"),
        ("https://abc.example/sms", "https://me:pw@abc.example/sms"),
        ("https://abc.example/sms", "https://abc.example/sms#rc=2"),
        ("https://abc.example/sms#rc=2", "https://abc.example/sms#rc=2"),
        ("https://abc.example/sms?a=%27", "https://abc.example/sms?a='"),
        ("https://abc.example@evil.example/sms", "https://abc.example/sms"),
        ("https://evil.example/https://abc.example/sms", "https://abc.example/sms"),
        ("https://[::1]/sms", "https://[/sms"),
        ("https://[::1?a]/sms", "https://[::1?a]:443/sms"),
        ("https://[::1/a]/sms", "https://[::1/a]:443/sms"),
        ("see https://abc.example/sms", "https://abc.example:443/sms"),
        ("https://abc.example:x/sms", "https://abc.example"),
    ],
)
def test_no_other_url_is_accepted(url, signed):
    assert not validator.validate(url, {"From": "A"}, hand_made(f"{signed}FromA"))


@pytest.mark.parametrize("url", [U, f"{SMS_URL}#rc=2", "https://me:pw@[::1]:1/?#x", "/sms", ""])
def test_what_is_computed_is_accepted(url):
    assert validator.validate(url, P, validator.compute_signature(url, P))


def test_the_likeliest_spelling_is_tried_first_and_none_twice():
    for url in (U, "https://abc.example", "https://me:pw@abc.example:1/?a", "/sms"):
        tried = [url, *other_spellings(url)]
        assert tried[0] == url
        assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(
    "body",
    [JSON + " ", JSON.encode() + b"\n", bytearray(b"{}"), "", b"", "é", "\ud800", b"\xff"],
)
def test_a_body_other_than_the_one_hashed_is_refused(body):
    assert not validator.validate(JSON_URL, body, "a9nBmqA0ju/hNViExpshrM61xv4=")


@pytest.mark.parametrize("body", [b"\xff\x00", b"", bytearray("é".encode()), "é", "a=1&b=2"])
def test_a_hashed_body_may_be_anything(body):
    plain = body.encode() if isinstance(body, str) else bytes(body)
    url = f"{SMS_URL}?bodySHA256={hashlib.sha256(plain).hexdigest()}"
    assert validator.validate(url, body, hand_made(url))


@pytest.mark.parametrize("query", ["a=?&bodySHA256={}", "bodySHA256={}&a=?", "bodySHA256={}#f"])
def test_a_hash_may_stand_anywhere_in_the_query(query):
    url = f"{SMS_URL}?{query.format(hashlib.sha256(b'{}').hexdigest())}"
    signature = hand_made(url.partition("#")[0])
    assert validator.validate(url, "{}", signature)
    assert not validator.validate(url, "[]", signature)


def test_a_url_with_two_hashes_is_refused():
    right = hashlib.sha256(b"{}").hexdigest()
    for first, second in ((right, "0"), ("0", right), (right, right)):
        url = f"{SMS_URL}?bodySHA256={first}&bodySHA256={second}"
        assert not validator.validate(url, "{}", hand_made(url))


@pytest.mark.parametrize("params", [None, {}, [], P])
def test_where_the_url_has_a_hash_the_body_must_be_given(params):
    assert not validator.validate(JSON_URL, params, hand_made(JSON_URL))
    signature = validator.compute_signature(JSON_URL, params)
    assert not validator.validate(JSON_URL, params, signature)


def test_a_hash_is_read_from_the_query_alone():
    url = f"{SMS_URL}?a=1#bodySHA256={'0' * 64}"
    assert validator.validate(url, "b=2", hand_made(f"{SMS_URL}?a=1b2"))


# What comes from a program, and from a request.


@pytest.mark.parametrize("values", [["1", "2"], ("1", "2"), {"1", "2"}, frozenset(["1", "2"])])
def test_a_name_may_have_several_values(values):
    signature = hand_made(f"{SMS_URL}A1A2")
    assert validator.validate(SMS_URL, {"A": values}, signature)


def test_a_value_may_be_a_number():
    assert validator.validate(
        SMS_URL, {"NumMedia": 0, "A": [1]}, hand_made(f"{SMS_URL}A1NumMedia0")
    )


@pytest.mark.parametrize("tokens", [b"12345", [b"12345"], ["", "12345"], (" ", "12345")])
def test_tokens_may_be_bytes_and_blank_ones_do_not_count(tokens):
    assert RequestValidator(tokens).compute_signature(U, P) == SIGNATURE


@pytest.mark.parametrize("token", ["", b"", " \t", None, [], ["", " "]])
def test_a_blank_token_signs_nothing(token):
    with pytest.raises(ValueError, match="^the token is blank: "):
        RequestValidator(token)


def test_only_an_unknown_algorithm_is_worth_a_line(caplog):
    for algorithm in (None, "", "HMAC_SHA1", "hmac_sha256"):
        validator.validate(U, P, SIGNATURE, algorithm)
    assert not caplog.records
    assert not validator.validate(U, P, SIGNATURE, "MD5")
    assert caplog.messages == ["'MD5' is not an algorithm known here"]


@pytest.mark.parametrize(
    "host", ["abc.example/sms", "abc.example?a=1", "abc.example#", "me@abc.example", "abc\\example"]
)
def test_a_host_that_would_be_read_as_more_is_refused(host):
    """Or else what stands behind it was signed, and what came was not."""
    environ = make_environ(MESSAGE, HTTP_HOST=host)
    status, _, line = call(App(lambda message: "ok", auth_token=TOKEN), environ)
    assert (status, line) == ("400 Bad Request", b"the Host is more than a host\n")


@pytest.mark.parametrize(
    ("scheme", "port", "origin"),
    [
        ("http", "80", "http://abc.example"),
        ("https", "443", "https://abc.example"),
        ("http", "443", "http://abc.example:443"),
        ("https", "8443", "https://abc.example:8443"),
    ],
)
def test_without_a_host_the_servers_name_and_port_stand_for_it(scheme, port, origin):
    environ = {"wsgi.url_scheme": scheme, "SERVER_NAME": "abc.example", "SERVER_PORT": port}
    assert server_origin(environ) == origin


def test_who_has_a_signed_request_can_move_its_boundaries_as_the_readme_says():
    """Twilio signs without delimiters: what comes of it is known, and no more than this."""
    text = "?From=%2B1999&Body=Transfer&"
    fields = {"AccountSid": "AC1", "Body": text, "From": "+14017122661", "MessageSid": "SM1"}
    signature = validator.compute_signature(SMS_URL, fields)
    path, _, query = f"/smsAccountSidAC1Body{text}From+14017122661MessageSidSM1".partition("?")
    more = {"PATH_INFO": path, "QUERY_STRING": query, "HTTP_X_TWILIO_SIGNATURE": signature}
    environ = make_environ(method="GET", **more)
    function, paths = (
        App(reply, auth_token=TOKEN)
        for reply in (lambda message: message.from_, {"/sms": lambda message: message.from_})
    )
    assert b"<Message>+1999<" in call(function, environ, validate=False)[2]
    assert call(paths, environ, validate=False)[0] == "404 Not Found"
