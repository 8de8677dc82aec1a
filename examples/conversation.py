"""A conversation without a database: python3 smsreply.py serve examples/conversation.py

The session is kept in a cookie, which Twilio sends back with the pair's next message.
Try it: python3 smsreply.py text
"""

import smsreply

QUESTIONS = {"size": "Which size: S, M or L?", "topping": "Which topping?", "street": "Where to?"}


def reply(message):
    order = message.session
    if "asked" in order:
        order[order.pop("asked")] = message.body
    for what, question in QUESTIONS.items():
        if what not in order:
            order["asked"] = what
            return question
    done = "A pizza {size} with {topping} comes to {street}.".format(**order)
    order.clear()
    return done


application = smsreply.App(reply)
