"""A Django project's urls.py: gunicorn --workers 2 --threads 64 --bind 127.0.0.1:8767 project.wsgi

No CSRF token comes from Twilio: its signature does.  Every path below /shop/ answers, and a
mapping's paths are whole ones.  No middleware may have read the body before.

Behind nginx, ALLOWED_HOSTS needs the Host that nginx saw, and smsreply the scheme too: pass both on,
as nginx_prefix_kept.conf does.  Where nginx strips the prefix, leave it out below, and set
SMSREPLY_PUBLIC_URL=https://abc.example/shop.  Django's FORCE_SCRIPT_NAME does not count here.

A test of yours texts Phone(get_wsgi_application(), public_url=…), with the URL that Django sees.
Make it a TransactionTestCase: the handler has a database connection of its own.
"""

import os

import bot
from django.db import close_old_connections
from django.http import HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

import smsreply


def reply(message):
    close_old_connections()  # with a cache, this thread is not the request's
    try:
        return bot.reply(message)
    finally:
        close_old_connections()


app = smsreply.App(
    reply,
    # The workers share this file.  The first to start makes it, and owns it: that may be who
    # runs "manage.py migrate".  Name the whole path, or it is wherever that was.
    cache=smsreply.SQLiteCache(os.environ.get("CACHE_FILE", "messages.sqlite")),
    public_url=os.environ.get("SMSREPLY_PUBLIC_URL"),
)


@csrf_exempt
def sms(request):
    answer = HttpResponse()

    def start_response(status, headers, exc_info=None):
        answer.status_code = int(status[:3])
        for name, value in headers:
            answer[name] = value

    answer.content = b"".join(app(request.environ, start_response))
    return answer


urlpatterns = [re_path("^shop/", sms)]
