"""AWS Lambda, behind a REST API (v1), an HTTP API (v2), a function URL, or a load balancer.

The handler is aws_lambda.lambda_handler.  With v1 set SMSREPLY_PUBLIC_URL to the URL up to the
stage: https://abc123.execute-api.eu-west-1.amazonaws.com/prod.  A function that has answered is
frozen, so a slow handler stands still until the next message.
"""

import base64
import os
from urllib.parse import urlencode

from bot import application as app

app.public_url = app.public_url or os.environ.get("SMSREPLY_PUBLIC_URL")


def lambda_handler(event, context):
    headers = event.get("headers") or {n: v[-1] for n, v in event["multiValueHeaders"].items()}
    headers = {name.lower(): value for name, value in headers.items()}
    at, balanced = event["requestContext"], "elb" in event["requestContext"]
    if event.get("version") == "2.0":
        method, path, query = at["http"]["method"], event["rawPath"], event["rawQueryString"]
        headers["cookie"] = "; ".join(event.get("cookies", ()))
    else:  # v1 has lost how the query was spelled, and App tries the usual ways
        values = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters")
        pairs = [
            (n, v)
            for n, vs in (values or {}).items()
            for v in ([vs] if isinstance(vs, str) else vs)
        ]
        query = "&".join([f"{n}={v}" for n, v in pairs]) if balanced else urlencode(pairs)
        method, path = event["httpMethod"], event["path"]
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    url = f"https://{headers.get('host', 'localhost')}{path}{'?' if query else ''}{query}"
    status, found, content = app.answer(method, url, headers, raw)
    answer = {"statusCode": int(status[:3]), "headers": dict(found), "body": content.decode()}
    answer["multiValueHeaders"] = {name: [value] for name, value in found}
    return {**answer, "statusDescription": status} if balanced else answer
