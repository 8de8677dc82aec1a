"""WhatsApp: who wrote, and what: python3 smsreply.py serve examples/whatsapp.py

Text it: python3 smsreply.py text Hi --from whatsapp:+14017122661
"""

import smsreply

VISITS = {}  # a database, say


def reply(message):
    # A person who takes a username changes `from_`, and keeps `sender`.
    VISITS[message.sender] = visits = VISITS.get(message.sender, 0) + 1
    name = message.get("ProfileName", "stranger")
    if message.get("MessageType") == "location":
        return f"{name}, you are at {message['Latitude']}, {message['Longitude']}."
    return f"Hello {name}, for the {visits}. time."


application = smsreply.App(reply)
