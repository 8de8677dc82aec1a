"""3. Understand: the whole requests of Twilio's, as they come over the wire."""

from __future__ import annotations

import copy
import pickle
from urllib.parse import parse_qsl

import pytest
from conftest import MESSAGE, SID, TOKEN, call, make_environ
from texter import Texter

import smsreply

MMS = SID.replace("SM", "MM")
MEDIA = (
    "https://api.twilio.com/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef"
    "/Messages/MM0123456789abcdef0123456789abcdef/Media/ME"
)

# Verbatim, one line each on the wire.
BODIES = {
    "SMS": (
        b"ToCountry=US&ToState=CA&SmsMessageSid=SM0123456789abcdef0123456789abcdef&NumMedia=0&ToCity=SAUSALITO"
        b"&FromZip=&SmsSid=SM0123456789abcdef0123456789abcdef&FromState=CA&SmsStatus=received&FromCity="
        b"&Body=Hello+%26+%3Cb%3Ecaf%C3%A9%3C%2Fb%3E+%F0%9F%98%80+it%E2%80%99s+100%25%2B1&FromCountry=US"
        b"&To=%2B15558675310&ToZip=94965&NumSegments=1&MessageSid=SM0123456789abcdef0123456789abcdef"
        b"&AccountSid=AC0123456789abcdef0123456789abcdef&From=%2B14017122661&ApiVersion=2010-04-01"
    ),
    "MMS": (
        b"ToCountry=US&MediaContentType0=image%2Fjpeg&ToState=CA&SmsMessageSid=MM0123456789abcdef0123456789abcdef"
        b"&NumMedia=2&ToCity=SAUSALITO&FromZip=94103&SmsSid=MM0123456789abcdef0123456789abcdef&FromState=CA"
        b"&SmsStatus=received&FromCity=SAN+FRANCISCO&Body=&FromCountry=US&To=%2B15558675310"
        b"&MediaUrl1=https%3A%2F%2Fapi.twilio.com%2F2010-04-01%2FAccounts%2FAC0123456789abcdef0123456789abcdef"
        b"%2FMessages%2FMM0123456789abcdef0123456789abcdef%2FMedia%2FMEbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
        b"&ToZip=94965&MediaContentType1=image%2Fpng&NumSegments=2&MessageSid=MM0123456789abcdef0123456789abcdef"
        b"&AccountSid=AC0123456789abcdef0123456789abcdef&From=%2B14017122661"
        b"&MediaUrl0=https%3A%2F%2Fapi.twilio.com%2F2010-04-01%2FAccounts%2FAC0123456789abcdef0123456789abcdef"
        b"%2FMessages%2FMM0123456789abcdef0123456789abcdef%2FMedia%2FMEaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        b"&ApiVersion=2010-04-01"
    ),
    "WhatsApp": (
        b"Latitude=51.51322977399644&Longitude=-0.2197976373036567&SmsMessageSid=SM0123456789abcdef0123456789abcdef"
        b"&NumMedia=0&ProfileName=Perspective+Coffee&Address=187+Freston+Road%2C+London%2C+Greater+London+W10+6TH"
        b"&Label=The+Harrow+Club&SmsSid=SM0123456789abcdef0123456789abcdef&WaId=14017122661&SmsStatus=received&Body="
        b"&To=whatsapp%3A%2B15558675310&NumSegments=1&ReferralNumMedia=0&MessageSid=SM0123456789abcdef0123456789abcdef"
        b"&AccountSid=AC0123456789abcdef0123456789abcdef&From=whatsapp%3A%2B14017122661&ApiVersion=2010-04-01"
    ),
    "opt-out": (
        b"ToCountry=US&ToState=&SmsMessageSid=SM0123456789abcdef0123456789abcdef&NumMedia=0&ToCity=&FromZip="
        b"&SmsSid=SM0123456789abcdef0123456789abcdef&OptOutType=STOP&FromState=&SmsStatus=received&FromCity=&Body=Stop"
        b"&FromCountry=US&To=%2B15558675310&MessagingServiceSid=MG0123456789abcdef0123456789abcdef&ToZip="
        b"&NumSegments=1&MessageSid=SM0123456789abcdef0123456789abcdef&AccountSid=AC0123456789abcdef0123456789abcdef"
        b"&From=%2B14017122661&ApiVersion=2010-04-01"
    ),
    "status": (
        b"SmsSid=SM0123456789abcdef0123456789abcdef&SmsStatus=undelivered&MessageStatus=undelivered&To=%2B14017122661"
        b"&MessageSid=SM0123456789abcdef0123456789abcdef&AccountSid=AC0123456789abcdef0123456789abcdef&ErrorCode=30003"
        b"&From=%2B15558675310&RawDlrDoneDate=2508131205&ApiVersion=2010-04-01"
    ),
}  # fmt: skip
# What each is, with sid, from_, to, body and media as the attributes have them.
UNDERSTOOD = {
    "SMS": (SID, "+14017122661", "+15558675310", "Hello & <b>café</b> 😀 it’s 100%+1", ()),
    "MMS": (
        MMS,
        "+14017122661",
        "+15558675310",
        "",
        ((MEDIA + "a" * 32, "image/jpeg"), (MEDIA + "b" * 32, "image/png")),
    ),
    "WhatsApp": (SID, "whatsapp:+14017122661", "whatsapp:+15558675310", "", ()),
    "opt-out": (SID, "+14017122661", "+15558675310", "Stop", ()),
    "status": (SID, "+15558675310", "+14017122661", "", ()),
}
PARAMETERS = {
    "SMS": MESSAGE,
    "MMS": {"NumMedia": "2", "FromCity": "SAN FRANCISCO", "FromZip": "94103", "MediaContentType1": "image/png"},
    "WhatsApp": {
        "Latitude": "51.51322977399644",
        "Longitude": "-0.2197976373036567",
        "ProfileName": "Perspective Coffee",
        "Address": "187 Freston Road, London, Greater London W10 6TH",
        "Label": "The Harrow Club",
        "WaId": "14017122661",
        "ReferralNumMedia": "0",
    },
    "opt-out": {"OptOutType": "STOP", "MessagingServiceSid": "MG0123456789abcdef0123456789abcdef", "ToZip": ""},
    "status": {"MessageStatus": "undelivered", "ErrorCode": "30003", "RawDlrDoneDate": "2508131205"},
}  # fmt: skip


def received(environ, **options):
    """Return the message that a handler gets of *environ*."""
    got = []
    app = smsreply.App(got.append, verify=False, **options)
    status, headers, body = call(app, environ)
    assert status == "200 OK"
    assert headers["Content-Type"] == "text/xml; charset=utf-8"
    assert body == b'<?xml version="1.0" encoding="UTF-8"?><Response />'
    (message,) = got
    return message


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("name", BODIES)
def test_a_whole_request_of_twilios_is_understood(name, method):
    more = {"QUERY_STRING": BODIES[name].decode()} if method == "GET" else {}
    message = received(make_environ(BODIES[name], method, **more))
    attributes = (message.sid, message.from_, message.to, message.body, message.media)
    assert attributes == UNDERSTOOD[name]
    assert PARAMETERS[name].items() <= message.items()
    assert message == dict(parse_qsl(BODIES[name].decode(), keep_blank_values=True))
    assert isinstance(message, dict)


def test_the_message_of_conftest_is_the_whole_sms():
    assert received(make_environ(BODIES["SMS"])) == MESSAGE


def test_blank_values_are_kept():
    message = received(make_environ(BODIES["opt-out"]))
    blank = {name for name, value in message.items() if value == ""}
    assert blank == {"ToState", "ToCity", "FromZip", "FromState", "FromCity", "ToZip"}


def test_what_is_not_there_is_blank_and_not_an_error():
    message = received(make_environ(b"From=a"))
    assert (message.sid, message.from_, message.to, message.body) == ("", "a", "", "")
    assert (message.media, message.query, message.session) == ((), {}, {})


def test_a_message_of_nothing_is_blank_all_over():
    message = smsreply.IncomingMessage()
    assert [message.sid, message.from_, message.to, message.body, message.url] == [""] * 5
    assert (message.media, message.query, message.session) == ((), {}, {})


def test_of_a_name_that_comes_twice_the_last_value_counts():
    message = received(make_environ(b"From=a&Body=1&From=b&Body=2"))
    assert message == {"From": "b", "Body": "2"}


def test_an_old_name_of_the_sid_will_do():
    assert received(make_environ(b"From=a&SmsSid=SM1")).sid == "SM1"
    assert received(make_environ(b"From=a&SmsSid=SM1&MessageSid=")).sid == "SM1"


def test_the_new_name_of_the_sid_comes_first():
    assert received(make_environ(b"From=a&SmsSid=SM1&MessageSid=SM2")).sid == "SM2"
    assert received(make_environ(b"From=a&MessageSid=SM2")).sid == "SM2"


@pytest.mark.parametrize(
    ("form", "media"),
    [
        pytest.param(b"MediaUrl1=b&MediaUrl0=a", (("a", ""), ("b", "")), id="any order, no type"),
        pytest.param(b"MediaUrl0=a&MediaUrl2=c&NumMedia=3", (("a", ""),), id="a gap"),
        pytest.param(b"MediaUrl1=b&NumMedia=1", (), id="not zero-based"),
        pytest.param(b"MediaContentType0=image/png&NumMedia=1", (), id="a type alone"),
        pytest.param(
            b"&".join(b"MediaUrl%d=%d" % (n, n) for n in range(11)),
            tuple((str(n), "") for n in range(11)),
            id="over ten",
        ),
    ],
)
def test_media_are_numbered_from_zero(form, media):
    assert received(make_environ(b"From=a&" + form)).media == media


@pytest.mark.parametrize(
    ("query", "understood"),
    [
        ("", {}),
        ("lang=de", {"lang": "de"}),
        ("a=1&a=2&blank=&caf%C3%A9=%26+", {"a": "2", "blank": "", "café": "& "}),
        ("From=evil&Body=evil", {"From": "evil", "Body": "evil"}),
    ],
)
def test_the_query_of_a_post_stands_beside_the_message(query, understood):
    message = received(make_environ(MESSAGE, QUERY_STRING=query))
    assert message.query == understood
    assert message == MESSAGE
    assert message.url == "https://abc.example/sms" + ("?" + query if query else "")


def test_the_message_of_a_get_is_its_query():
    query = BODIES["SMS"].decode() + "&lang=de"
    message = received(make_environ(method="GET", QUERY_STRING=query))
    assert message == {**MESSAGE, "lang": "de"}
    assert message.query["lang"] == "de"
    assert message.url == "https://abc.example/sms?" + query


def test_the_url_is_the_one_that_twilio_requested():
    more = {"QUERY_STRING": "x=%41", "SCRIPT_NAME": "", "REQUEST_URI": "//sms/%7e?x=%41"}
    message = received(make_environ(MESSAGE, **more), public_url="https://public.example/pre/")
    assert message.url == "https://public.example/pre//sms/%7e?x=%41"


def test_a_message_made_by_hand_copies_and_pickles_whole():
    message = smsreply.IncomingMessage(
        MESSAGE, url="https://a.example/?x=1", query=[("x", "1")], session={"n": 1}
    )
    for twin in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert type(twin) is smsreply.IncomingMessage
        assert (twin, twin.url, twin.query, twin.session) == (
            MESSAGE,
            "https://a.example/?x=1",
            {"x": "1"},
            {"n": 1},
        )


def test_what_a_text_says_reaches_the_handler_and_comes_back_as_text():
    texter = Texter(smsreply.App(lambda message: message.body, auth_token=TOKEN))
    for text in ("<Response/>", "a&b=c;d", "100%+1 %41", "café 😀", "line\nline", "'\"", "]]>"):
        assert texter.text(text).texts == [text]
