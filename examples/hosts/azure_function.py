"""Azure Functions, the v2 model: this is function_app.py.

The URL is https://NAME.azurewebsites.net/api/sms.  Set SMSREPLY_PUBLIC_URL to
https://NAME.azurewebsites.net.
"""

import os

import azure.functions as func
from bot import application as bot

bot.public_url = bot.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route(route="sms", methods=["GET", "POST"])
def sms(request: func.HttpRequest) -> func.HttpResponse:
    status, headers, body = bot.answer(
        request.method, request.url, dict(request.headers), request.get_body()
    )
    return func.HttpResponse(body, status_code=int(status[:3]), headers=dict(headers))
