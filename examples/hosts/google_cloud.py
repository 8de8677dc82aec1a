"""Google Cloud Functions: functions-framework --target sms --source google_cloud.py

The function sees no path: Twilio signed https://REGION-PROJECT.cloudfunctions.net/sms, so set
SMSREPLY_PUBLIC_URL to that whole URL.
"""

import os

from bot import application as app

app.public_url = app.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")


def sms(request):
    """Answer a request of Flask's, as the framework has it."""
    query = request.environ.get("QUERY_STRING", "")
    url = f"https://{request.host}{request.path}{'?' if query else ''}{query}"
    status, headers, body = app.answer(
        request.method, url, dict(request.headers), request.get_data()
    )
    return body, int(status[:3]), headers
