"""Draw the pictures of examples/pictures/: from the code's own words, and from real exchanges.

    python3 tests/draw.py

tests/test_pictures.py fails when one of them is out of date.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import smsreply
from smsphone import Phone

FOLDER = ROOT / "examples" / "pictures"
STYLE = """
  text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #1b1f24 }
  .name { font-weight: bold }
  .quiet { fill: #57606a }
  .a { fill: #9a3412 } .b { fill: #0b6b50 } .c { fill: #1d4ed8 }
  rect { fill: #f6f8fa; stroke: #8c959f }
  line, path { stroke: #57606a; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9da7b3 } rect { fill: #161b22; stroke: #57606a }
    .a { fill: #fdba74 } .b { fill: #5eead4 } .c { fill: #93c5fd } line, path { stroke: #9da7b3 }
  }
"""
TWILIO, APP = 150, 590  # where the two lifelines of a sequence are


def svg(title, width, height, parts):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x, y, width, height):
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'


def arrow(y, start, end, words):
    tip = 8 if start < end else -8
    return [
        f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}"/>',
        f'<path d="M{end - tip} {y - 5} L{end} {y} L{end - tip} {y + 5}"/>',
        text((start + end) // 2, y - 6, words, anchor="middle"),
    ]


def steps():
    """Draw the path of a message: the steps, as the module's docstring numbers them."""
    found = re.findall(r"^ {4}(\d)\. (\w+) +(.*)$", smsreply.__doc__, re.M)[:5]
    parts = [text(20, 30, "Twilio’s request", "name")]
    for row, (number, name, what) in enumerate(found):
        y = 50 + 70 * row
        parts += [f'<path d="M60 {y - 18} V{y}"/>', box(20, y, 700, 52)]
        parts += [text(36, y + 31, f"{number} {name}", "name"), text(190, y + 31, what)]
    end = 50 + 70 * len(found)
    parts += [f'<path d="M60 {end - 18} V{end}"/>', text(20, end + 20, "the answer: TwiML", "name")]
    return svg("The path of a message through smsreply", 740, end + 40, parts)


def rounds():
    """Draw what a slow handler makes of one message, as it was between the phone and an App."""
    memory = smsreply.Memory

    def reply(message):
        time.sleep(0.5)
        return "It is 42."

    app = smsreply.App(reply, auth_token="12345", cache=smsreply.MemoryCache(), patience=0.2)
    exchange = Phone(app, auth_token="12345").text("Why?")
    y, parts = (
        30,
        [text(TWILIO, 24, "Twilio", "name", "middle"), text(APP, 24, "App", "name", "middle")],
    )
    for request, answer in zip(exchange.requests, exchange.answers):
        query = request.url.partition("?")[2]
        again = re.sub(r"=[0-9a-f]{64}", "=KEY", query)
        parts += arrow(y + 40, TWILIO, APP, f"POST /sms{'?' if again else ''}{again}")
        waits = "<Redirect" in answer.body.decode()
        parts.append(text(APP + 14, y + 76, "10 s" if waits else "done", "quiet"))
        parts += arrow(y + 100, APP, TWILIO, "<Redirect>" if waits else "<Message>It is 42.")
        y += 100
    parts[:0] = [f'<line x1="{x}" y1="34" x2="{x}" y2="{y + 20}"/>' for x in (TWILIO, APP)]
    last = f"at most {memory.ROUNDS} rounds; Twilio waits for {memory.TWILIO_WAITS} s in each"
    parts.append(text((TWILIO + APP) // 2, y + 44, last, "quiet", "middle"))
    return svg("A message whose handler takes long", 740, y + 60, parts)


def signed():
    """Draw what is signed of a short message: the URL, then each name and value, sorted."""
    fields = {"From": "+14017122661", "To": "+15558675310", "Body": "Hi & bye"}
    url = "https://abc.example/sms"
    whole = smsreply.signed_string(url, fields)
    signature = smsreply.RequestValidator("12345").compute_signature(url, fields)
    parts = [text(20, 30, "what Twilio signs, with the token 12345", "name")]
    lines, y = [("a", url)], 62
    lines += [("b", name, "c", fields[name]) for name in sorted(fields)]
    assert whole == "".join(["".join(line[1::2]) for line in lines])
    for line in lines:
        x = 20
        for kind, words in zip(line[::2], line[1::2]):
            parts.append(text(x, y, words, kind))
            x += round(8.43 * len(words))
        y += 24
    parts += [text(20, y + 16, "nothing stands between them; HMAC-SHA1 of it, in base64:", "quiet")]
    parts += [text(20, y + 42, f"X-Twilio-Signature: {signature}", "name")]
    return svg("What is signed", 740, y + 60, parts)


PICTURES = {"steps.svg": steps, "rounds.svg": rounds, "signed.svg": signed}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
