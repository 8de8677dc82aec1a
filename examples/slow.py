"""A handler that takes a minute: python3 smsreply.py serve examples/slow.py

It asks a language model's API, at MODEL_URL, which takes JSON and gives JSON.  Twilio waits for
15 seconds and no longer; with a cache, App tells it to come back until the answer is there.
"""

import asyncio
import json
import os
import urllib.request

import smsreply


def ask(question):
    request = urllib.request.Request(
        os.environ.get("MODEL_URL", "http://localhost:9000/"),
        json.dumps({"question": question}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["answer"]


async def reply(message):
    return await asyncio.to_thread(ask, message.body)


application = smsreply.App(reply, cache=smsreply.MemoryCache())
