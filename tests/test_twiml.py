"""TwiML: the helper library's interface, and what a handler may return."""

from __future__ import annotations

import copy
import json
import pickle
import runpy
from xml.etree import ElementTree

import pytest
from conftest import MESSAGE, TOKEN, call, make_environ

from smsreply import (
    App,
    Body,
    Media,
    Message,
    MessagingResponse,
    RawTwiML,
    Redirect,
    RequestValidator,
    TwiML,
    TwiMLException,
    split_text,
    twiml,
)

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
LIMIT = 1600  # UTF-16 units a message


def inside(response):
    """Return what is in <Response>, as it is written."""
    text = response.decode() if isinstance(response, bytes) else str(response)
    if text == f"{DECLARATION}<Response />":
        return ""
    assert text.startswith(f"{DECLARATION}<Response>")
    assert text.endswith("</Response>")
    return text[len(f"{DECLARATION}<Response>") : -len("</Response>")]


def texts(document):
    return [message.text for message in ElementTree.fromstring(document).iter("Message")]


def response(*children):
    made = MessagingResponse()
    for child in children:
        made.append(child)
    return made


# The helper library's interface.


def test_an_empty_response_is_written_with_a_space_and_no_newline():
    assert str(MessagingResponse()) == f"{DECLARATION}<Response />"
    assert MessagingResponse().to_xml(xml_declaration=False) == "<Response />"


def test_each_method_adds_an_element_and_returns_it():
    made = MessagingResponse()
    message = made.message("a < b & c", to="+1", from_="+2", action="/x?a=1&b=2", method="POST")
    assert type(message) is Message
    assert type(message.body("B")) is Body
    assert type(message.media("https://abc.example/1.png")) is Media
    assert type(made.redirect("/next", method="GET")) is Redirect
    assert inside(made) == (
        '<Message action="/x?a=1&amp;b=2" from="+2" method="POST" to="+1">a &lt; b &amp; c'
        "<Body>B</Body><Media>https://abc.example/1.png</Media></Message>"
        '<Redirect method="GET">/next</Redirect>'
    )


def test_the_arguments_stand_in_the_helper_librarys_order():
    made = MessagingResponse()
    made.message("b", "to", "from", "action", "method", "callback")
    made.redirect("u", "GET")
    assert inside(made) == (
        '<Message action="action" from="from" method="method" statusCallback="callback" to="to">b'
        '</Message><Redirect method="GET">u</Redirect>'
    )


@pytest.mark.parametrize(
    ("attributes", "written"),
    [
        ({"from_": "+1"}, 'from="+1"'),
        ({"for_": "x", "break_": "y"}, 'break="y" for="x"'),
        ({"xml_lang": "en", "interpret_as": "date"}, 'interpret-as="date" xml:lang="en"'),
        ({"status_callback_event": "a b"}, 'statusCallbackEvent="a b"'),
        ({"statusCallback": "x"}, 'statusCallback="x"'),
        ({"z": True, "b": False, "n": 1.5, "none": None}, 'b="false" n="1.5" z="true"'),
        ({"q": '<"&>\n\t'}, 'q="&lt;&quot;&amp;&gt;&#10;&#09;"'),
    ],
)
def test_keyword_arguments_become_attributes(attributes, written):
    assert inside(response(Message("x", **attributes))) == f"<Message {written}>x</Message>"


def test_each_element_takes_any_attribute():
    made = MessagingResponse()
    message = made.message(any_name="1")
    message.body("b", any_name="2")
    message.media("m", any_name="3")
    made.redirect("r", any_name="4")
    assert inside(made) == (
        '<Message anyName="1"><Body anyName="2">b</Body><Media anyName="3">m</Media></Message>'
        '<Redirect anyName="4">r</Redirect>'
    )


def test_append_returns_the_parent_and_nest_the_child():
    made, message = MessagingResponse(), Message("a")
    assert made.append(message) is made
    assert made.nest(message) is message
    assert made.nest("text") == "text"


def test_a_child_of_any_name_can_be_added():
    made = MessagingResponse()
    child = made.add_child("Say", "Hi", voice="alice")
    child.add_child("prosody", rate="slow").append("x")
    assert inside(made) == '<Say voice="alice">Hi<prosody rate="slow">x</prosody></Say>'


def test_a_child_of_any_name_may_have_an_attribute_of_any_name():
    child = MessagingResponse().add_child("Say", "Hi", text="a", body="b")
    assert child.to_xml(False) == '<Say body="b" text="a">Hi</Say>'


def test_both_are_context_managers_that_let_exceptions_through():
    with MessagingResponse() as made, made.message() as message:
        message.body("x")
    assert inside(made) == "<Message><Body>x</Body></Message>"
    with pytest.raises(ZeroDivisionError), MessagingResponse():
        raise ZeroDivisionError


def test_a_dict_is_written_as_json():
    assert inside(response(Body({"a": "<"}))) == '<Body>{"a": "&lt;"}</Body>'


def test_an_empty_dict_is_no_text():
    assert inside(response(Body({}))) == "<Body />"


def test_a_comment_stands_where_it_was_put():
    made = response(Message("a")).comment("b & c").append(Redirect("d"))
    assert inside(made) == "<Message>a</Message><!--b & c--><Redirect>d</Redirect>"
    assert [(verb.verbs, verb.attrs) for verb in made.verbs] == [([], {})] * 3


def test_what_is_in_the_tree_may_be_changed_until_it_is_written():
    message = Message("a", to="+1")
    message.value, message.attrs["to"], message.name = "b", "+2", "Sms"
    message.verbs.append(Body("c"))
    assert message.to_xml(False) == '<Sms to="+2">b<Body>c</Body></Sms>'


# Where the helper library loses data, or breaks.


def test_consecutive_strings_are_both_kept():
    made = response("a", "b", Message("m"), "c", "d")
    assert inside(made) == "ab<Message>m</Message>cd"
    assert Message("a").append("b").append("c").to_xml(False) == "<Message>abc</Message>"


@pytest.mark.parametrize("body", [["a"], ("a",), 5, 1.5, b"a", object(), True, 0, [], Message("x")])
@pytest.mark.parametrize("make", [Message, Body, Media, Redirect, MessagingResponse().message,
                                  lambda body: MessagingResponse().add_child("Say", body)])  # fmt: skip
def test_a_body_that_is_no_text_is_refused_where_it_is_given(make, body):
    # Not what it is: that may be somebody's message, and a traceback is logged.
    with pytest.raises(
        TwiMLException,
        match=rf"^the text of <\w+> is a str, and not of the type {type(body).__name__}$",
    ):
        make(body)


@pytest.mark.parametrize("verb", [None, 5, b"a", ["a"], {"a": 1}])
@pytest.mark.parametrize("method", ["append", "nest"])
def test_only_twiml_and_text_can_be_nested(method, verb):
    with pytest.raises(TwiMLException, match="<Response> holds TwiML and str, not "):
        getattr(MessagingResponse(), method)(verb)


NOT_XML = [*map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]), "\ud800", "\udfff"]


@pytest.mark.parametrize("character", NOT_XML, ids=ascii)
def test_what_xml_cannot_carry_is_removed(character):
    text = f"a{character}b"
    made = MessagingResponse()
    made.message(text, to=text).body({"k": text})
    made.append(text).comment(text)
    for document in (str(made), twiml(text), twiml([text]), twiml(text + "x" * LIMIT)):
        ElementTree.fromstring(document)
        assert character not in str(document)
    assert inside(made).startswith('<Message to="ab">ab<Body>')
    assert inside(twiml(text)) == "<Message>ab</Message>"


@pytest.mark.parametrize("character", "\t\n\x20\x7f\x85\xa0\u2028\ud7ff\ue000\ufffd\U0001f600\U0010ffff", ids=ascii)  # fmt: skip
def test_what_xml_can_carry_is_kept(character):
    assert texts(twiml(f"a{character}b")) == [f"a{character}b"]


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a>", "1a", "-a", "a:b", "a/", "é", "a\n", 'a="b"', "\0"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(TwiMLException, match="is not a name in TwiML"):
        MessagingResponse().add_child(name)
    with pytest.raises(TwiMLException, match="is not a name in TwiML"):
        Message("x", **{name: "y"})
    for spoilt in (TwiML(), TwiML(a="b")):
        spoilt.name = name if not spoilt.attrs else "A"
        spoilt.attrs = {name: "b"} if spoilt.attrs else {}
        with pytest.raises(TwiMLException, match="is not a name in TwiML"):
            str(spoilt)


@pytest.mark.parametrize("name", [None, 5, b"Say", ["Say"]])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(TwiMLException, match="is not a name in TwiML"):
        MessagingResponse().add_child(name)


@pytest.mark.parametrize(
    ("text", "written"), [("", ""), ("a-b", "a-b"), ("a--b---", "a- -b- - - "), ("-", "- ")]
)
def test_a_space_parts_the_hyphens_of_a_comment(text, written):
    assert inside(MessagingResponse().comment(text)) == f"<!--{written}-->"


def test_a_comment_whose_text_was_taken_away_is_empty():
    made = MessagingResponse().comment("a")
    made.verbs[0].value = None
    assert inside(made) == "<!---->"


@pytest.mark.parametrize("text", ["hello", "", "--", "---", "a--><Redirect>x</Redirect><!--", "-", "a-", "->", ">", "a-\n", "-\0-", "-\0", "&amp; <", "-\ud800->"])  # fmt: skip
def test_a_comment_cannot_break_out(text):
    made = MessagingResponse()
    assert made.comment(text) is made
    made.message("x")
    assert inside(made).startswith("<!--")
    content = inside(made)[4:].partition("-->")[0]
    assert "--" not in content
    assert not content.endswith("-")
    assert [child.tag for child in ElementTree.fromstring(str(made))] == ["Message"]


@pytest.mark.parametrize("text", [5, b"a"])
def test_a_comment_is_a_text(text):
    with pytest.raises(
        TwiMLException,
        match=f"the text of <Comment> is a str, and not of the type {type(text).__name__}",
    ):
        MessagingResponse().comment(text)


# The document as a value.


def test_str_of_a_response_is_raw_twiml():
    made = response(Message("<"))
    for document in (str(made), f"{made}", made.to_xml(), made.to_xml(False)):
        assert type(document) is RawTwiML
    assert twiml(str(made)) == str(made).encode() == twiml(made)


def test_what_is_made_of_raw_twiml_is_text_again():
    document = RawTwiML("<Response/>")
    for text in (document + "", document[:3], document.upper(), f"{document}!"):
        assert type(text) is str


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))]
)
def test_copies_and_pickles_are_whole(clone):
    made = response("a", Message("m", to="+1").append(Media("u")), Redirect("r"), "b")
    made.comment("c")
    assert str(clone(made)) == str(made)
    assert type(clone(made)) is MessagingResponse
    assert type(clone(str(made))) is RawTwiML


def test_a_deep_copy_is_another():
    made = response(Message("m"))
    copied = copy.deepcopy(made)
    copied.verbs[0].value = "other"
    assert inside(made) == "<Message>m</Message>"


@pytest.mark.parametrize("empty", [MessagingResponse(), Message(), Redirect(""), TwiML()])
def test_an_empty_element_is_truthy(empty):
    assert empty


# What a handler may return: each row of the table.


@pytest.mark.parametrize(
    ("reply", "written"),
    [
        (None, ""),
        ("", ""),
        (" \n\t\u2003", ""),
        ("\0\x01", ""),
        ("Hi", "<Message>Hi</Message>"),
        (" a <b> & 'c' \"d\" ]]> ", "<Message> a &lt;b&gt; &amp; 'c' \"d\" ]]&gt; </Message>"),
        ("<Response><a/></Response>", "<Message>&lt;Response&gt;&lt;a/&gt;&lt;/Response&gt;</Message>"),
        ("é😀", "<Message>é😀</Message>"),
        (MessagingResponse(), ""),
        (response(Message("a"), "t"), "<Message>a</Message>t"),
        (Message("a", to="+1"), '<Message to="+1">a</Message>'),
        (Redirect("/x", method="GET"), '<Redirect method="GET">/x</Redirect>'),
        ([], ""),
        ((), ""),
        ([None, "", " "], ""),
        (["a", None, Message("b"), "c", Redirect("/x")],
         "<Message>a</Message><Message>b</Message><Message>c</Message><Redirect>/x</Redirect>"),
        (("a", "b"), "<Message>a</Message><Message>b</Message>"),
        (["x" * 1601], f"<Message>{'x' * 1600}</Message><Message>x</Message>"),
    ],
)  # fmt: skip
def test_a_reply_becomes_a_document(reply, written):
    assert inside(twiml(reply)) == written


@pytest.mark.parametrize("raw", ["<Response><Say>é</Say></Response>", "", "no XML"])
def test_raw_twiml_and_bytes_are_sent_as_they_are(raw):
    assert twiml(RawTwiML(raw)) == raw.encode()
    assert twiml(raw.encode()) == raw.encode()


class Text(str):
    """As a template engine's Markup is, or an enum's member."""

    def __str__(self):
        return "something else"

    def replace(self, *pair):
        return Text("something else")


def test_a_subclass_of_str_is_text():
    assert texts(twiml(Text("a & b"))) == texts(twiml([Text("a & b")])) == ["a & b"]


@pytest.mark.parametrize(
    "reply",
    [5, 0, True, False, 1.5, {"a": 1}, {}, {"a"}, iter("ab"), bytearray(b"a"), object(), Body("x"),
     Media("x"), TwiML(), [5], [b"a"], [RawTwiML("<Response/>")], [MessagingResponse()], [["a"]],
     ["a", 0]],
    ids=repr,
)  # fmt: skip
def test_anything_else_is_a_type_error_that_lists_what_may_be_returned(reply):
    with pytest.raises(TypeError) as caught:
        twiml(reply)
    name = type(reply[-1] if isinstance(reply, list) else reply).__name__
    assert f"something of the type {name} cannot be a reply" in str(caught.value)
    kinds = ("None", "str", "MessagingResponse", "Message", "Redirect", "list", "tuple", "bytes")
    for kind in (*kinds, "RawTwiML"):
        assert kind in str(caught.value)


@pytest.mark.parametrize(
    ("element", "needed"), [(Media, "url"), (Redirect, "url"), (Body, "message")]
)
def test_an_element_that_needs_a_text_says_so(element, needed):
    with pytest.raises(TypeError, match=f"<{element.name}> needs its {needed}"):
        element()
    assert element(**{needed: "https://abc.example"}).value == "https://abc.example"


def test_an_argument_too_many_is_a_type_error():
    with pytest.raises(TypeError, match="<Redirect> takes no 3 arguments without a name"):
        Redirect("https://abc.example", "POST", "more")
    with pytest.raises(TypeError, match="<Response> takes no 1 arguments without a name"):
        MessagingResponse("Hi")


@pytest.mark.parametrize(
    ("name", "twice"),
    [
        ("body", {"body": "b"}),
        ("body", {"to": "+1", "body": None}),
        ("from", {"from_": "+2", "from": "+3"}),
        ("statusCallback", {"status_callback": "/a", "statusCallback": "/b"}),
    ],
)
def test_an_argument_that_is_given_twice_is_a_type_error(name, twice):
    with pytest.raises(TypeError, match=f"<Message> got its {name} twice"):
        Message("a", **twice)


def test_an_argument_that_is_given_by_place_and_by_name_is_a_type_error():
    with pytest.raises(TypeError, match="<Message> got its from twice"):
        Message("a", "+1", "+2", from_="+3")


# Texts that are too long for one message.


def units(text):
    return sum(2 if ord(character) > 0xFFFF else 1 for character in text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("x" * 1599, [1599]),
        ("x" * 1600, [1600]),
        ("x" * 1601, [1600, 1]),
        ("😀" * 799, [1598]),
        ("😀" * 800, [1600]),
        ("😀" * 801, [1600, 2]),
        ("x" + "😀" * 799, [1599]),
        ("x" + "😀" * 800, [1599, 2]),
        ("x" * 1599 + "😀", [1599, 2]),
        ("é" * 1601, [1600, 1]),
        ("x" * 1599 + " y", [1600, 1]),
        ("x" * 1600 + " y", [1600, 2]),
        ("x" * 1000 + " " + "y" * 1000, [1001, 1000]),
        ("x" * 1000 + " " + "y" * 599, [1600]),
        ("x" * 1000 + "\n" + "y" * 600, [1001, 600]),
        ("x" * 1000 + "\u3000" + "y" * 600, [1001, 600]),
        (" " + "y" * 1600, [1600]),
        ("x" + " " * 1600, [1600]),
        ("word " * 640, [1600, 1600]),
    ],
)
def test_a_long_text_is_split_behind_white_space(text, pieces):
    assert [units(piece) for piece in split_text(text)] == pieces


def test_a_text_for_two_messages_is_two_messages():
    assert texts(twiml("x" * 1601)) == ["x" * 1600, "x"]


@pytest.mark.parametrize("text", ["x" * 5000, "ab " * 2000, "😀" * 2500, "é 😀\n" * 1000, "x" + "😀y" * 1999])  # fmt: skip
def test_the_pieces_join_to_the_text_and_none_is_too_long(text):
    pieces = texts(twiml(text))
    assert "".join(pieces) == text
    assert max(map(units, pieces)) <= LIMIT
    assert len(pieces) <= -(-units(text) // (LIMIT - 4))


def test_a_text_of_more_characters_than_a_document_has_bytes_is_refused():
    assert "".join(split_text("x" * 65536)) == "x" * 65536
    with pytest.raises(ValueError, match="^the TwiML has .* bytes, and Twilio refuses more than 6"):
        twiml("x" * 10_000_000)


# A program that was written for the helper library, its import line changed.

LESSON = '''
from flask import Flask, request
from twilio.twiml.messaging_response import MessagingResponse

app = Flask(__name__)

@app.route("/sms", methods=["GET", "POST"])
def incoming_sms():
    """Send a dynamic reply to an incoming text message"""
    # Get the message the user sent our Twilio number
    body = request.values.get("Body", None)

    # Start our TwiML response
    resp = MessagingResponse()

    # Determine the right reply for this message
    if body == "hello":
        resp.message("Hi!")
    elif body == "bye":
        resp.message("Goodbye")

    return str(resp)
'''

SECURED = '''
from functools import wraps
from flask import Flask, abort, request
from twilio.request_validator import RequestValidator
from twilio.twiml.messaging_response import MessagingResponse

app = Flask(__name__)

def validate_twilio_request(f):
    """Validates that incoming requests genuinely originated from Twilio"""
    @wraps(f)
    def decorated_function(*args, **kwargs):
        validator = RequestValidator("12345")
        request_valid = validator.validate(
            request.url, request.form, request.headers.get("X-TWILIO-SIGNATURE", ""))
        if request_valid:
            return f(*args, **kwargs)
        else:
            return abort(403)
    return decorated_function

@app.route("/message", methods=["POST"])
@validate_twilio_request
def incoming_message():
    """Twilio Messaging URL - receives incoming messages from Twilio"""
    resp = MessagingResponse()
    num_media = int(request.values["NumMedia"])
    resp.message(f"Your text to me was {len(request.values['Body'])} characters long.")
    return str(resp)
'''


@pytest.fixture
def run(bot):
    pytest.importorskip("flask")
    return lambda source: client(bot, source)


def client(bot, source):
    for module in ("twilio.twiml.messaging_response", "twilio.request_validator"):
        source = source.replace(f"from {module} ", "from smsreply ")
    assert "twilio." not in source
    return runpy.run_path(bot(source))["app"].test_client()


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ("hello", "<Response><Message>Hi!</Message></Response>"),
        ("bye", "<Response><Message>Goodbye</Message></Response>"),
        ("what", "<Response />"),
    ],
)
def test_the_lessons_own_example_runs(run, method, body, reply):
    where = {"query_string" if method == "get" else "data": {"Body": body}}
    answer = getattr(run(LESSON), method)("/sms", **where)
    assert (answer.status_code, answer.text) == (200, DECLARATION + reply)
    assert answer.mimetype == "text/html"


def test_the_lessons_own_decorator_admits_twilio_alone(run):
    signature = RequestValidator(TOKEN).compute_signature("https://abc.example/message", MESSAGE)
    for header, status in ((signature, 200), ("", 403), (None, 403), ("é", 403)):
        headers = {"X-Twilio-Signature": header} if header is not None else {}
        answer = run(SECURED).post(
            "/message", data=MESSAGE, headers=headers, base_url="https://abc.example"
        )
        assert answer.status_code == status


def test_a_handler_may_end_as_the_lessons_do():
    def reply(message):
        made = MessagingResponse()
        made.message(f"<{message.body}>")
        return str(made)

    environ = make_environ({"From": "+1", "Body": "&"})
    assert texts(call(App(reply, verify=False), environ)[2]) == ["<&>"]


def test_a_text_is_never_markup():
    environ = make_environ({"From": "+1", "Body": f"{DECLARATION}<Response/>"})
    document = call(App(lambda message: message.body, verify=False), environ)[2]
    assert texts(document) == [f"{DECLARATION}<Response/>"]


def test_json_in_a_body_is_whole():
    value = {"text": 'é"<&\u2028'}
    document = str(MessagingResponse().append(Body(value)))
    assert json.loads(ElementTree.fromstring(document)[0].text) == value
