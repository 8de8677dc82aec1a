"""python3 serve_bjoern.py: one message at a time, and no mounts."""

import bjoern
from bot import application

bjoern.run(application, "127.0.0.1", 8767)
