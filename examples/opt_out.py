"""STOP, START and HELP: python3 smsreply.py serve examples/opt_out.py

Where Advanced Opt-Out is on, Twilio has answered these itself: a second reply is one too many.
Text it: python3 smsreply.py text STOP --param OptOutType=STOP
"""

import smsreply

SUBSCRIBERS = set()  # a database, say


def reply(message):
    if message.get("OptOutType") == "STOP":
        SUBSCRIBERS.discard(message.sender)
    if "OptOutType" in message:
        return None
    SUBSCRIBERS.add(message.sender)
    return "You are subscribed. Reply STOP to leave."


application = smsreply.App(reply)
