"""Four processes of one machine, and each message handled once:

    gunicorn --workers 4 --threads 64 --bind 127.0.0.1:8767 --chdir examples four_workers:application

The file is shared by the workers, and outlives a restart.
"""

import os

import smsreply


def reply(message):
    return f"You said {message.body!r}, says process {os.getpid()}."


application = smsreply.App(
    reply,
    cache=smsreply.SQLiteCache(os.environ.get("CACHE_FILE", "messages.sqlite")),
    public_url=os.environ.get("SMSREPLY_PUBLIC_URL"),
)
