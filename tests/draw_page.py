"""Draw examples/page.png from a real session: python3 tests/draw_page.py

It needs selenium and Chromium, as the tests in a browser do.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import PYTHON, ROOT, TOKEN, free_port, running
from test_page import User, chromium, resize

BOT = """\
import logging

import smsreply

log = logging.getLogger("bot")
ORDERS = {"4711": "Friday"}


def reply(message):
    if message.body.isdigit():
        log.warning("order %s", message.body)
        return f"Order {message.body} comes on {ORDERS[message.body]}."
    return f"You said {message.body!r}. Text me the number of an order."
"""


def draw(file: Path, width: int = 1280, height: int = 800) -> None:
    port, beside = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bot.py").write_text(BOT, encoding="utf-8")
        command = [PYTHON, ROOT / "smsreply.py", "serve", "bot:reply"]
        command += ["--port", port, "--phone-port", beside]
        with running(*command, port=port, cwd=folder, env={"TWILIO_AUTH_TOKEN": TOKEN}):
            browser = chromium(Path(folder, "profile"))
            try:
                resize(browser, width, height)
                user = User(browser, f"http://localhost:{beside}/")
                for number, text in enumerate(("Fish & chips", "0815", "4711"), 1):
                    user.text(text, number)
                user.step(3, 3)
                browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
                time.sleep(0.5)
                browser.save_screenshot(str(file))
            finally:
                browser.quit()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "page.png"
    draw(target)
    print(f"{target}: {os.path.getsize(target):,} bytes")
