"""ASGI without a library: uvicorn --port 8767 asgi:application"""

import asyncio

from bot import application as app


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more and len(body) <= 64 * 1024:  # App refuses more than that
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    target = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    url = f"{scope['scheme']}://{headers.get('host', 'localhost')}{target}"
    url += f"?{query}" if query else ""
    status, found, content = await asyncio.to_thread(
        app.answer, scope["method"], url, headers, body
    )
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in found]
    await send({"type": "http.response.start", "status": int(status[:3]), "headers": fields})
    await send({"type": "http.response.body", "body": content})
