"""1. Read: what comes is read within limits, and whatever else comes has one answer."""

from __future__ import annotations

import io
import re
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from conftest import MESSAGE, call, make_environ

import smsreply

KIB64 = 64 * 1024
FORM = "application/x-www-form-urlencoded"
BODY = b"From=%2B14017122661&Body=Hi"


class Input:
    """A body that comes in pieces; it counts what is read, and never ends by itself."""

    def __init__(self, body, piece=10**9, then=None):
        self.rest, self.piece, self.then, self.taken = body, piece, then, 0

    def read(self, size):
        assert size > 0, "only what is announced may be read"
        if not self.rest and self.then:
            raise self.then
        got, self.rest = self.rest[: min(size, self.piece)], self.rest[min(size, self.piece) :]
        self.taken += len(got)
        return got


class Blocking:
    def read(self, *size):
        raise AssertionError("a read here would block for ever")


def app(reply=lambda message: f"{message.from_}: {message.body}"):
    return smsreply.App(reply, verify=False)


def answer(environ, *, validate=False, reply=lambda message: f"{message.from_}: {message.body}"):
    return call(app(reply), environ, validate=validate)


def padded(size):
    """Return a form of *size* bytes."""
    return (BODY + b"&Pad=").ljust(size, b"x")


# ----------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("size", "status"),
    [(KIB64 - 1, "200 OK"), (KIB64, "200 OK"), (KIB64 + 1, "413 Content Too Large")],
)
def test_a_body_may_have_64_kib(size, status):
    announced, decoded = Input(padded(size)), Input(padded(size))
    assert answer(make_environ(padded(size)), validate=True)[0] == status
    assert answer(make_environ(CONTENT_LENGTH=str(size), **{"wsgi.input": announced}))[0] == status
    assert announced.taken == (size if size <= KIB64 else 0)
    if size > KIB64:
        line = answer(make_environ(padded(size)))[2]
        assert line == b"the body is longer than 65536 bytes\n"
    chunked = {"wsgi.input": decoded, "wsgi.input_terminated": True, "CONTENT_LENGTH": None}
    assert answer(make_environ(HTTP_TRANSFER_ENCODING="chunked", **chunked))[0] == status


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("size", "status"),
    [(KIB64 - 1, "200 OK"), (KIB64, "200 OK"), (KIB64 + 1, "413 Content Too Large")],
)
def test_a_query_may_have_64_kib(method, size, status):
    environ = make_environ(BODY, method=method, QUERY_STRING=padded(size).decode())
    assert answer(environ, validate=True)[0] == status


@pytest.mark.parametrize(
    ("count", "status"), [(999, "200 OK"), (1000, "200 OK"), (1001, "400 Bad Request")]
)
@pytest.mark.parametrize(
    "field", [pytest.param(b"&a=b", id="usual"), pytest.param(b"&a", id="without =")]
)
def test_there_may_be_1000_fields(count, status, field):
    form = BODY + field * (count - 2)
    assert answer(make_environ(form), validate=True)[0] == status
    assert answer(make_environ(method="GET", QUERY_STRING=form.decode()))[0] == status
    got, _, line = answer(make_environ(BODY, QUERY_STRING=form.decode()))
    assert got == status
    assert status == "200 OK" or line == b"the query has over 1000 fields\n"


def test_a_decoded_body_is_read_one_byte_past_the_limit_and_no_further():
    endless = Input(padded(2**20))
    more = {"wsgi.input": endless, "wsgi.input_terminated": True, "CONTENT_LENGTH": None}
    status, _, line = answer(make_environ(**more))
    assert status == "413 Content Too Large"
    assert line == b"the body is longer than 65536 bytes\n"
    assert endless.taken == KIB64 + 1


# ------------------------------------------------------------------ how long the body is


@pytest.mark.parametrize(
    "length",
    [
        "abc", "-1", "+5", " 5", "5 ", "1_0", "5.0", "1e3", "0x10", "5,5", "5, 5", "-", "²", "\x005",
        pytest.param("9" * 5000, id="too long for int()"),
        pytest.param("9" * 20, id="20 digits"),
    ],
)  # fmt: skip
def test_a_length_that_is_no_number_is_400_and_nothing_is_read(length):
    environ = make_environ(CONTENT_LENGTH=length, **{"wsgi.input": Blocking()})
    status, headers, line = answer(environ)
    assert (status, line) == ("400 Bad Request", b"the Content-Length is not a number\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_length_of_19_digits_is_too_large_and_nothing_is_read():
    environ = make_environ(CONTENT_LENGTH="9" * 19, **{"wsgi.input": Blocking()})
    assert answer(environ)[0] == "413 Content Too Large"


@pytest.mark.parametrize("short_by", [1, len(BODY)])
def test_a_body_that_is_shorter_than_announced_is_400(short_by):
    status, _, line = answer(make_environ(BODY[:-short_by], CONTENT_LENGTH=str(len(BODY))))
    assert (status, line) == ("400 Bad Request", line)
    assert line == b"the body is shorter than its Content-Length, or was read before\n"


def test_bytes_behind_the_announced_ones_are_not_read():
    stream = io.BytesIO(BODY + b"&Body=smuggled")
    environ = make_environ(CONTENT_LENGTH=str(len(BODY)), **{"wsgi.input": stream})
    assert b"14017122661: Hi<" in answer(environ, validate=True)[2]
    assert stream.read() == b"&Body=smuggled"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(), ConnectionResetError(), OSError("no more data"),
        pytest.param(ValueError("invalid literal for int()"), id="a server that decodes bad chunks"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("came", [b"", BODY])
def test_a_sender_who_leaves_is_400(error, came):
    environ = make_environ(CONTENT_LENGTH="100", **{"wsgi.input": Input(came, then=error)})
    status, _, line = answer(environ)
    assert (status, line) == ("400 Bad Request", b"the body did not come\n")


@pytest.mark.parametrize("decoded", [False, True])
def test_a_body_may_come_in_pieces(decoded):
    more = {"wsgi.input": Input(BODY, piece=3)}
    if decoded:
        more.update({"wsgi.input_terminated": True, "CONTENT_LENGTH": None})
    else:
        more["CONTENT_LENGTH"] = str(len(BODY))
    assert b"14017122661: Hi<" in answer(make_environ(**more))[2]


def test_no_piece_is_read_past_the_announced_end():
    stream = Input(BODY + b"&Body=smuggled", piece=len(BODY) - 1)
    environ = make_environ(CONTENT_LENGTH=str(len(BODY)), **{"wsgi.input": stream})
    assert b"14017122661: Hi<" in answer(environ)[2]
    assert stream.taken == len(BODY)


def test_chunks_are_411_where_the_server_does_not_decode_them():
    more = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": Blocking()}
    for length in (None, "", "27"):  # both headers: a way to smuggle, RFC 9112, 6.3
        status, _, line = answer(make_environ(CONTENT_LENGTH=length, **more))
        assert status == "411 Length Required"
        assert line == b"this server does not decode chunks: send a Content-Length\n"


@pytest.mark.parametrize("length", [None, ""])
def test_without_a_length_there_is_no_body(length):
    environ = make_environ(CONTENT_LENGTH=length, **{"wsgi.input": Blocking()})
    status, _, line = answer(environ)
    assert status == "400 Bad Request"
    assert line.startswith(b"this is a webhook for Twilio")


def test_the_body_of_a_get_is_left_alone():
    more = {"CONTENT_LENGTH": "abc", "wsgi.input": Blocking()}
    environ = make_environ(method="GET", QUERY_STRING=BODY.decode(), **more)
    assert answer(environ)[0] == "200 OK"


# ------------------------------------------------------------------------ type, method


@pytest.mark.parametrize(
    "content_type",
    [
        FORM, FORM + "; charset=UTF-8", FORM + ";charset=utf-8", FORM.upper(), FORM + " ; x=y", " " + FORM,
        "", None, "text/plain",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_type_that_is_a_form(content_type, method):
    more = {"QUERY_STRING": BODY.decode()} if method == "GET" else {}
    assert answer(make_environ(BODY, method, CONTENT_TYPE=content_type, **more))[0] == "200 OK"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json", "multipart/form-data; boundary=x", "text/plain; charset=utf-8", "text/xml",
        FORM + "x", "x" + FORM, "application/json; " + FORM, f"{FORM}, {FORM}", ";", "\xff\x00",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_type_that_is_not_a_form_is_415(content_type, method):
    more = {"QUERY_STRING": BODY.decode()} if method == "GET" else {}
    environ = make_environ(BODY, method, CONTENT_TYPE=content_type, **more)
    status, _, line = answer(environ)
    assert (status, line) == (
        "415 Unsupported Media Type",
        b"the type of a message is application/x-www-form-urlencoded\n",
    )


@pytest.mark.parametrize(
    "method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post", "", "G\nT"]
)
def test_only_get_and_post_are_answered(method):
    environ = make_environ(BODY, method=method, QUERY_STRING=BODY.decode())
    status, headers, line = answer(environ, validate=method in {"HEAD", "PUT", "DELETE"})
    assert status == "405 Method Not Allowed"
    assert headers["Allow"] == "GET, POST"
    assert line == (b"" if method == "HEAD" else b"only GET and POST are answered\n")


# ------------------------------------------------------------------------------ encoding


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(b"From=a&Body=\xff", id="a byte"),
        pytest.param(b"From=a&Body=%FF", id="an escape"),
        pytest.param(b"From=a&Body=caf%E9", id="Latin-1"),
        pytest.param(b"From=a&Body=%C3&Pad=%A9", id="half in each of two fields"),
        pytest.param(b"From=a&Body=%C3=%A9", id="half on each side of ="),
        pytest.param(b"From=a&Body=%ED%A0%BD", id="a surrogate"),
        pytest.param(b"From=a&Body=%C0%80", id="overlong"),
        pytest.param(b"From=a&%FF=b", id="in a name"),
        pytest.param(b"From=a&Body=\xc3%A9", id="half escaped"),
        pytest.param(b"From=a&Body=%C3\x80", id="the other half escaped"),
    ],
)
def test_a_form_that_is_not_utf_8_is_400(form):
    for environ in (
        make_environ(form),
        make_environ(method="GET", QUERY_STRING=form.decode("latin-1")),
        make_environ(BODY, QUERY_STRING=form.decode("latin-1")),
    ):
        status, _, line = answer(environ)
        what = "query" if environ["QUERY_STRING"] else "form"
        assert (status, line) == ("400 Bad Request", f"the {what} is not UTF-8\n".encode())


@pytest.mark.parametrize(
    "escape",
    [b"%", b"%4", b"%zz", b"%%41", b"%4g", b"%+4", b"% 41", b"%&", b"%=", b"%\n41", b"%0x"],
)
@pytest.mark.parametrize("form", [b"From=a&Body=%b", b"From=a&Body=%b&x=y", b"%b=a&From=a"])
def test_a_malformed_escape_is_400(form, escape):
    form = form.replace(b"%b", escape)
    for environ in (make_environ(form), make_environ(BODY, QUERY_STRING=form.decode())):
        status, _, line = answer(environ)
        assert status == "400 Bad Request"
        what = "query" if environ["QUERY_STRING"] else "form"
        assert line == f"the {what} has a % that is not followed by two hex digits\n".encode()


def test_text_that_is_utf_8_but_not_escaped_is_read():
    got = []
    environ = make_environ("From=a&Body=café 😀".encode())
    assert answer(environ, reply=lambda message: got.append(message.body))[0] == "200 OK"
    assert got == ["café 😀"]


# ----------------------------------------------------------------------------- environ


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_environ_is_left_as_it_is(method):
    environ = make_environ(BODY, method, QUERY_STRING=BODY.decode())
    before = dict(environ)
    assert answer(environ)[0] == "200 OK"
    assert environ == before


@pytest.mark.parametrize(
    "broken",
    [
        {"REQUEST_URI": "/sms?a=\u20ac"}, {"REQUEST_URI": "/\U0001f600"}, {"QUERY_STRING": "\u20ac=a"},
        {"PATH_INFO": "/\u20ac"}, {"SCRIPT_NAME": "/\ud800"}, {"RAW_URI": "/\ud800?\udfff=1"},
    ],
)  # fmt: skip
def test_an_environ_with_more_than_bytes_is_no_reason_to_raise(broken):
    """PEP 3333 forbids it: each character stands for a byte."""
    assert answer(make_environ(BODY, **broken))[0] == "200 OK"


def test_path_and_mount_may_be_absent():
    """PEP 3333: an empty one need not be there."""
    environ = make_environ(BODY, SCRIPT_NAME=None, PATH_INFO=None, QUERY_STRING=None)
    assert answer(environ, reply=lambda message: message.url)[2].count(b">https://abc.example/<")


@pytest.mark.parametrize(
    "target",
    [
        "xhttp://abc.example/sms",
        "ftp://x/sms",
        "http://x:80a/sms",
        "http:/sms",
        "*",
        "x:443",
        "http:",
    ],
)
def test_a_target_that_is_neither_a_path_nor_a_url_is_400(target):
    """Servers take this or that of it for the path, which then is not the one that is signed."""
    status, _, line = answer(make_environ(BODY, REQUEST_URI=target))
    assert status == "400 Bad Request"
    assert line == b"the request's target is neither a path nor a URL\n"


# ------------------------------------------------------------------------- another oracle


def outcome(function, form):
    try:
        return function(form)
    except (smsreply.Refused, ValueError):
        return "refused"


def oracle(form):
    text = form.decode()  # a UnicodeDecodeError is a ValueError
    if re.search("%(?![0-9a-fA-F]{2})", text):
        raise ValueError(text)
    return parse_qsl(text, keep_blank_values=True, errors="strict", separator="&")


def pairs(form):
    """Return what `parse` does, a dict unless a name comes twice, in pairs as the oracle has it."""
    fields = smsreply.parse(form)
    if isinstance(fields, dict):
        return list(fields.items())
    assert len(dict(fields)) < len(fields)
    return fields


@pytest.mark.parametrize(
    "form",
    [
        b"", b"&", b"&&", b"=", b"==", b"=&=", b"a", b"a&b", b"a=", b"=b", b"a==b", b"a=b=c", b"&a=b", b"a=b&",
        b"a=b&&c=d", b"a=b&a=c", b"a+b=c+d", b"%26=%3D", b"a=%00", b"a=%01", b"%00=b", b"a%01b", b"a=\x00",
        b"a=\x01", b"a=%00&b=%01", b"a&%00", b"a=b\r\nc=d", b"a=b\n", b"a=%\n", b"a=%0D%0A", b"a=b ", b"a=b\t",
        b"a=b%20", b"a= \n", b"a=b;c=d", b"a=%25%32%35", b"a=%2b", b"a=.", b"a=\n.\n", b"a=b%00c=d", b"a=b\x00c=d", b"a=%\r", b"a=b%01", b"a%01=b&c",
        b"a=%\rb", b"a_=_", b"a=\x7f\x1b",
        b"a=\xef\xbb\xbfb", b"\xef\xbb\xbfa=b", b"a=\xc2\x85", b"a=%E2%80%A8", b"a=" + b"x" * 1000,
    ],
)  # fmt: skip
def test_a_form_is_read_as_parse_qsl_reads_it(form):
    assert outcome(pairs, form) == outcome(oracle, form)


def test_any_form_is_read_as_parse_qsl_reads_it():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    settings = hypothesis.settings(max_examples=400, deadline=None, database=None)
    marks = st.sampled_from(
        [b"&", b"=", b"+", b"%", b"\x00", b"\x01", b"\r", b"\n", b"\r\n", b" ", b"\t"]
    )
    some = [
        f"%{byte:02x}".encode() for byte in (0, 1, 9, 10, 13, 32, 37, 38, 43, 61, 0x41, 0xC3, 0xA9)
    ]
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    escaped = text.map(lambda text: quote(text, safe="").encode())
    raw = text.map(lambda text: text.replace("%", "").encode())
    well_formed = st.lists(st.one_of(marks.filter(lambda b: b != b"%"), escaped, raw)).map(b"".join)
    some += [b"\xc3", b"\xa9"]
    pieces = st.one_of(marks, st.sampled_from(some), escaped, raw, st.binary(max_size=3))

    @settings
    @hypothesis.given(well_formed)
    def whatever_is_well_formed(form):
        assert pairs(form) == oracle(form)

    @settings
    @hypothesis.given(st.one_of(st.lists(pieces).map(b"".join), st.binary()))
    def whatever_comes(form):
        assert outcome(pairs, form) == outcome(oracle, form)

    whatever_is_well_formed()
    whatever_comes()


def test_a_message_of_twilios_takes_the_short_way(monkeypatch):
    """Or else nobody would notice that it is five times as slow."""
    monkeypatch.delattr(smsreply, "parse_each")
    form = urlencode(MESSAGE).encode()
    assert pairs(form) == parse_qsl(form.decode(), keep_blank_values=True)
