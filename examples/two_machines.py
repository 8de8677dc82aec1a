"""Two machines, and each message handled once: both run

    smsreply serve examples/two_machines.py:application --production

In Twilio's console, end the webhook's URL in #rc=2&rp=all: if one machine dies, Twilio asks the
other one.  Needs Redis at REDIS_HOST, and the packages cachelib and redis.
"""

import os

from cachelib import RedisCache

import smsreply

# Without the last two arguments, the client waits for seconds for a Redis that is gone.
cache = RedisCache(
    os.environ.get("REDIS_HOST", "localhost"), key_prefix="sms:", socket_timeout=1, retry=None
)


def reply(message):
    return f"You said {message.body!r}."


application = smsreply.App(reply, cache=cache, public_url=os.environ.get("SMSREPLY_PUBLIC_URL"))
