"""Twilio's side of a webhook, offline: a phone for tests, the terminal and the browser.

    from smsphone import Phone

    phone = Phone(application, auth_token="12345")
    assert phone.text("hello").reply == "You said 'hello'."

``python3 -m smsphone text "hello"`` does it on a terminal, ``python3 -m smsphone phone`` in
a browser.  `explain` says why a signature does not match.
"""

from .answer import SentMessage
from .errors import TwilioError
from .exchange import Exchange
from .explain import explain
from .phone import Phone

__all__ = ["Exchange", "Phone", "SentMessage", "TwilioError", "explain"]
