"""uvicorn --port 8767 starlette_mounted:app

Starlette, and FastAPI: `app.mount("/shop", WSGIMiddleware(bot.application))`.  Mount("/shop")
redirects the exact path /shop to /shop/, so give Twilio a URL below it: /shop/sms.
"""

import bot
from a2wsgi import WSGIMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount

app = Starlette(routes=[Mount("/shop", WSGIMiddleware(bot.application))])
