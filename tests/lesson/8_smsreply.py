"""A solution of the exercise of stage 8: the session remembers a name."""
# check: remembers

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
import smsreply


def reply(message):
    told = re.fullmatch("My name is (.+)", message.body)
    if told:
        message.session["name"] = told[1]
    name = message.session.get("name", "stranger")
    return f"You are {name}."


application = smsreply.App(reply)

if __name__ == "__main__":
    here = f"{__file__}:application"
    raise SystemExit(smsreply.main(["serve", here, "--port", os.environ.get("PORT", "8767")]))
