"""Stage 8: the same, with smsreply.

Each stage is a step of `smsreply.App`.  What you have not written yet is in there too: limits on
all that is read, errors that say what to do, and a cache that other processes and machines share.

Yours now: a conversation.  Let it know who it talks to.
"""
# check: remembers

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # where smsreply.py is
import smsreply

SLOW = float(os.environ.get("SLOW", "25"))  # seconds that a slow reply takes

orders = []


def reply(message):
    """Take an order: this is the part that is yours."""
    time.sleep(SLOW if message.body == "slow" else 0)
    orders.append(message.body)
    return f"You ordered: {message.body}. This is order {len(orders)}."


application = smsreply.App(
    reply,
    public_url=os.environ.get("PUBLIC_URL"),
    cache=smsreply.MemoryCache(),
    patience=float(os.environ.get("PATIENCE", "10")),
)

if __name__ == "__main__":
    here = f"{__file__}:application"
    raise SystemExit(smsreply.main(["serve", here, "--port", os.environ.get("PORT", "8767")]))
