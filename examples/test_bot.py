"""A test of one's own bot: PYTHONPATH=. pytest examples/test_bot.py"""

from bot import reply

import smsreply
from smsphone import Phone

phone = Phone(smsreply.App(reply, auth_token="any"), auth_token="any")


def test_it_repeats_what_was_said():
    assert phone.text("hello").reply == "You said 'hello'."


def test_others_are_answered_too():
    exchange = phone.text("hi", from_="+14155550100")
    assert exchange.messages[0].to == "+14155550100"
    assert exchange.error is None
