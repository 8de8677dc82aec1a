"""The smallest bot: python3 smsreply.py serve examples/bot.py"""

import smsreply


def reply(message):
    return f"You said {message.body!r}."


application = smsreply.App(reply)
