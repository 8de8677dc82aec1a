"""PYTHONPATH=. cheroot --bind 127.0.0.1:8767 --threads 64 cheroot_mounted:application"""

import bot
from cheroot.wsgi import PathInfoDispatcher

application = PathInfoDispatcher({"/shop": bot.application})
