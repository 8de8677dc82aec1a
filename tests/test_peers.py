"""Thousands of random documents, requests and verdicts, beside ElementTree and `twilio`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from conftest import TOKEN

import smsreply
from smsreply import RequestValidator, TwiML, split_text, twiml

hypothesis = pytest.importorskip("hypothesis")
st, given = hypothesis.strategies, hypothesis.given
many = hypothesis.settings(max_examples=250, deadline=None)

try:
    import twilio.request_validator as their_signature
    import twilio.twiml as their_twiml
    from twilio.twiml import messaging_response as theirs
except ImportError:  # an extra: CI has it
    theirs = None
beside_twilio = pytest.mark.skipif(theirs is None, reason="twilio is not installed")

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
NOT_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
WILD = st.text(max_size=20) | st.sampled_from(["]]>", "&amp;", "--", "\r\n", "\0", "<a/>", "😀 "])
NAMES = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]{0,8}\Z")


def clean(text):
    return NOT_XML.sub("", text)


# Beside ElementTree, which wrote the helper library's documents, and reads ours.


@many
@given(WILD | st.text(st.sampled_from("a\0\x0b \n\ud800\uffff<>&\"']"), max_size=6))
def test_one_text_is_written_as_elementtree_writes_it(text):
    root = ElementTree.Element("Response")
    if clean(text).strip():
        ElementTree.SubElement(root, "Message").text = clean(text)
    expected = DECLARATION + ElementTree.tostring(root, encoding="unicode")
    assert twiml(text).decode() == expected == twiml([text]).decode()


def units(text):
    return len(text.encode("utf-16-le")) // 2


@given(
    st.lists(st.tuples(st.sampled_from(["a", "😀", "é ", " \n", "word "]), st.integers(1, 1601)))
)
@hypothesis.settings(many, max_examples=100)
def test_any_long_text_is_kept_but_for_what_is_blank(runs):
    text = "".join(part * count for part, count in runs)
    pieces = split_text(text)
    assert all(piece.strip() and units(piece) <= 1600 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    # The next word would not have fitted, with the space that ends it.
    next_words = [piece.split()[0] for piece in pieces[1:]]
    assert all(units(piece + word) >= 1600 for piece, word in zip(pieces, next_words))


def elements():
    comments = st.builds(lambda text: ("comment", text), WILD)

    def extend(children):
        attributes = st.dictionaries(NAMES, WILD, max_size=3)
        inner = st.lists(WILD | children | comments, max_size=4)
        return st.builds(element, NAMES, st.none() | WILD, attributes, inner)

    return st.recursive(extend(st.nothing()), extend, max_leaves=6)


def element(name, value, attributes, children):
    made = TwiML()
    made.name, made.value, made.attrs = name, value, attributes
    for child in children:
        made.comment(child[1]) if isinstance(child, tuple) else made.append(child)
    return made


def carried(made):
    """Return the texts of *made*, in order, without the comments."""
    verbs = [verb for verb in made.verbs if not isinstance(verb, smsreply.Comment)]
    below = [clean(verb) if isinstance(verb, str) else carried(verb) for verb in verbs]
    return clean(made.value or "") + "".join(below)


@many
@given(elements())
def test_a_document_always_parses_and_carries_the_same(made):
    root = ElementTree.fromstring(str(made))
    # XML 1.0, section 2.11: any line end is read as a newline.
    assert "".join(root.itertext()) == re.sub("\r\n?", "\n", carried(made))
    assert root.tag == made.name
    assert root.attrib == {name: clean(value) for name, value in made.attrs.items()}


# Beside the helper library: documents.  A program is a list of calls that either runs.

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=12) | st.sampled_from(["<&>\"'", "a\tb\r\nc", "é😀"])  # fmt: skip
KEYWORDS = st.sampled_from(["to", "from_", "action", "method", "status_callback", "xml_lang"])
KEYWORDS |= st.sampled_from(["interpret_as", "for_", "break_", "someThing", "a_b_c", "_y", "x_"])
VALUES = st.none() | st.booleans() | st.integers() | TEXT
ATTRIBUTES = st.dictionaries(KEYWORDS, VALUES, max_size=4)
FEW = ATTRIBUTES.map(lambda them: {k: v for k, v in them.items() if k != "method"})
STEPS = st.one_of(
    st.tuples(st.just("message"), st.none() | TEXT, ATTRIBUTES),
    st.tuples(st.just("redirect"), TEXT, ATTRIBUTES),
    st.tuples(st.just("body"), TEXT | st.dictionaries(TEXT, TEXT, max_size=2), FEW),
    st.tuples(st.just("media"), TEXT, FEW),
    st.tuples(st.just("add_child"), TEXT, ATTRIBUTES),
    st.tuples(st.just("append"), TEXT, st.none()),
)


def written(library, steps):
    """Return what *library* makes of *steps*; each string stands behind an element.

    Strings that follow each other are where the libraries differ: the last one wins in
    theirs, and in ours all are kept.
    """
    response = library.MessagingResponse()
    message, last = response.message("first"), "append"
    for step, value, attributes in steps:
        if step == "append":
            if last != "append":
                response.append(value)
        elif step == "add_child":
            response.add_child("Child", value, **attributes).append(library.Body("in it"))
        elif step in ("body", "media"):
            getattr(message, step)(value, **attributes)
            continue
        else:
            child = getattr(response, step)(value, **attributes)
            message = child if step == "message" else message
        last = step
    return str(response), response.to_xml(xml_declaration=False), str(message)


@beside_twilio
@hypothesis.settings(many, max_examples=600)
@given(st.lists(STEPS, max_size=6))
def test_a_document_has_the_helper_librarys_bytes(steps):
    assert written(smsreply, steps) == written(theirs, steps)


@beside_twilio
@many
@given(KEYWORDS | st.from_regex(r"\A[a-z][A-Za-z0-9_]{0,9}[a-z]\Z"))
def test_a_keyword_becomes_the_helper_librarys_attribute(keyword):
    (name,) = their_twiml.TwiML(**{keyword: "x"}).attrs
    assert smsreply.attribute_name(keyword) == name


@beside_twilio
def test_where_the_documents_differ():
    for ours, other in zip(map(str, differing(smsreply)), map(str, differing(theirs))):
        assert ours != other
    assert [str(made).count("kept") for made in differing(smsreply)] == [2, 2]
    with pytest.raises(TypeError):
        str(theirs.Message(["a"]))
    with pytest.raises(smsreply.TwiMLException):
        smsreply.Message(["a"])
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(str(theirs.Message("\x0b")))


def differing(library):
    yield library.MessagingResponse().append("kept").append("kept")
    yield library.Message("kept").append("kept")


@beside_twilio
def test_all_that_the_helper_library_has_for_messages_is_here():
    for name, kind in vars(theirs).items():
        if isinstance(kind, type) and name != "TwiML":
            assert dir(getattr(smsreply, name))
            missing = {n for n in dir(kind) if n[0] != "_"} - set(dir(getattr(smsreply, name)))
            assert missing <= {"MAP"}
    missing = {n for n in dir(their_signature.RequestValidator) if n[0] != "_"} - set(dir(RequestValidator))  # fmt: skip
    assert missing == {"get_values"}


# Beside the helper library: signatures and verdicts.

HOSTS = st.sampled_from(
    ["abc.example", "ABC.example", "xn--caf-dma.example", "10.0.0.7", "localhost"]
)
PORTS = st.sampled_from(["", "", ":80", ":443", ":8080"])
PATHS = st.sampled_from(["", "/", "/sms", "/sms/", "//sms", "/a:b@c/%7E~", "/é", "/a;b=c,d"])
QUERIES = st.sampled_from(["", "", "?a=1&b=", "?b=It's+a%27", "?a=%2B&a=x:y@z", "?x=1?y"])
URLS = st.builds("{}://{}{}{}{}".format, st.sampled_from(["http", "https"]), HOSTS, PORTS, PATHS, QUERIES)  # fmt: skip
PARAMS = st.none() | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), TEXT, max_size=5)  # fmt: skip
ALGORITHMS = st.sampled_from([None, "", "HMAC_SHA1", "HMAC_SHA256", "hmac_sha256"])
validator = RequestValidator(TOKEN)


class MultiDict(dict):
    getall = dict.__getitem__


@beside_twilio
@many
@given(URLS, PARAMS, ALGORITHMS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))  # fmt: skip
def test_a_signature_is_the_helper_librarys(url, params, algorithm, token):
    ours, other = RequestValidator(token), their_signature.RequestValidator(token)
    signature = other.compute_signature(url, params, algorithm)
    assert ours.compute_signature(url, params, algorithm) == signature
    lists = MultiDict((name, [value, "b", "a", "b"]) for name, value in (params or {}).items())
    signature = other.compute_signature(url, lists, algorithm)
    assert ours.compute_signature(url, lists, algorithm) == signature
    assert ours.compute_hash(token) == other.compute_hash(token)


def documented_only(url, signed):
    """Return whether we accept for *url* what was *signed*, and the helper library does not.

    A URL with no path may be signed with a slash, or the other way round.
    """
    seen, other = urlsplit(url), urlsplit(signed)
    return {seen.path, other.path} == {"", "/"}


def verdicts(url, params, signature, algorithm=None):
    other = their_signature.RequestValidator(TOKEN).validate(url, params, signature, algorithm)
    return validator.validate(url, params, signature, algorithm), other


@beside_twilio
@hypothesis.settings(many, max_examples=600)
@given(URLS, URLS | st.none(), PARAMS, PARAMS, ALGORITHMS, ALGORITHMS, st.booleans())
def test_a_verdict_is_the_helper_librarys(url, signed, params, others, algorithm, other, same):
    """Seen and signed are alike in most of these, and so the verdict is not always no."""
    signed = url if signed is None or same else signed
    others, other = (params, algorithm) if same else (others, other)
    signature = their_signature.RequestValidator(TOKEN).compute_signature(signed, others, other)
    ours, theirs_ = verdicts(url, params, signature, algorithm)
    assert ours == theirs_ or (ours and documented_only(url, signed))
    assert ours or not same


def spelled(scheme, port, path, query):
    return f"{scheme}://abc.example{port}{path}{query}"


@beside_twilio
@hypothesis.settings(many, max_examples=600)
@given(st.tuples(st.sampled_from(["http", "https"]), PORTS, PATHS, QUERIES),
       st.tuples(st.sampled_from(["http", "https"]), PORTS, PATHS, QUERIES), st.integers(0, 3))  # fmt: skip
def test_a_verdict_on_a_url_that_differs_in_one_part_is_the_helper_librarys(seen, other, part):
    signed = (*seen[:part], other[part], *seen[part + 1 :])
    url, signed = spelled(*seen), spelled(*signed)
    signature = their_signature.RequestValidator(TOKEN).compute_signature(signed, {"a": "b"})
    ours, theirs_ = verdicts(url, {"a": "b"}, signature)
    assert ours == theirs_ or (ours and documented_only(url, signed))
    if urlsplit(url).path and url == signed:
        assert ours


@beside_twilio
@many
@given(URLS, TEXT, TEXT, st.booleans())
def test_a_verdict_on_a_hashed_body_is_the_helper_librarys(url, body, other, same):
    hashed = validator.compute_hash(body if same else other)
    url = f"{url}{'&' if '?' in url else '?'}bodySHA256={hashed}"
    signature = their_signature.RequestValidator(TOKEN).compute_signature(url, {})
    ours, theirs_ = verdicts(url, body, signature)
    assert ours == theirs_ == (same or body == other)
    assert not validator.validate(url, {}, signature)  # which that library accepts


@beside_twilio
@given(st.text(max_size=60).map(str))
@many
def test_the_settings_are_read_as_the_helper_library_reads_them(text):
    for settings in (text, f"algorithm={text}", f"key=a, algorithm = {text},algorithm=b"):
        theirs_ = their_signature.get_signature_algorithm(settings)
        assert smsreply.signature_algorithm(settings) == theirs_


ACCEPTED_HERE_ALONE = [
    ("https://abc.example", "https://abc.example/", {}),
    ("https://abc.example/sms#rc=2", "https://abc.example/sms", {}),
    ("https://abc.example/sms?", "https://abc.example/sms?", {}),
    ("https://me:pw@abc.example:8443/sms", "https://abc.example/sms", {}),
    ("https://[::1]:8443/sms", "https://[::1]/sms", {}),
    ("https://abc.example/sms", "https://abc.example/smsa1", {"a": ["1"]}),
    ("https://abc.example/sms", "https://abc.example/smsa1", "a=1"),
    ("https://abc.example/sms", "https://abc.example/smsa1", b"a=1"),
]


@beside_twilio
@pytest.mark.parametrize(("url", "signed", "params"), ACCEPTED_HERE_ALONE)
def test_what_is_accepted_here_alone(url, signed, params):
    signature = smsreply.Signer(TOKEN.encode()).sign(signed).decode()
    assert validator.validate(url, params, signature)
    try:
        assert not their_signature.RequestValidator(TOKEN).validate(url, params, signature)
    except (AttributeError, IndexError, TypeError):
        pass  # its defects


@many
@given(st.text() | st.binary() | st.none(), st.none() | st.text() | st.binary(), URLS | st.text(), st.none() | st.text())  # fmt: skip
def test_no_input_is_an_exception(signature, params, url, algorithm):
    assert validator.validate(url, params, signature, algorithm) is False
