"""Several Twilio accounts, one webhook: python3 smsreply.py serve examples/several_accounts.py:application

A request is checked with its own account's token only, so one customer cannot speak for another.
"""

import smsreply

TOKENS = {  # from your secrets' store; two tokens while one is being replaced
    "AC0123456789abcdef0123456789abcdef": "the first account's token",
    "AC00112233445566778899aabbccddeeff": ["the second's new token", "the second's old token"],
}
NAMES = dict(zip(TOKENS, ["Pizzeria Ada", "Bob's Bikes"]))


def reply(message):
    return f"This is {NAMES[message['AccountSid']]}."


application = smsreply.App(reply, auth_token=TOKENS)
