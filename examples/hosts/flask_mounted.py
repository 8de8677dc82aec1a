"""gunicorn --bind 127.0.0.1:8767 --threads 64 flask_mounted:app"""

import bot
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

app = Flask(__name__)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/shop": bot.application})
