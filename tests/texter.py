"""A small Twilio for the tests of smsreply itself: it signs, keeps cookies, follows redirects.

It shares no code with smsreply, nor with smsphone, which has the whole of it.
"""

from __future__ import annotations

import base64
import hmac
import http.client
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit
from uuid import uuid4
from xml.etree import ElementTree

from conftest import MESSAGE, TOKEN, call, make_environ

PUBLIC = "https://abc.example"


@dataclass
class Texted:
    """What became of a text: each request's method and URL, each answer, and the replies."""

    fields: dict
    requests: list = field(default_factory=list)
    cookies: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    texts: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    set_cookie: str = ""

    @property
    def status(self):
        return self.statuses[-1]

    @property
    def reply(self):
        (text,) = self.texts
        return text


class Texter:
    """Texts *webhook*: a WSGI callable, or the port of a server on this machine."""

    def __init__(
        self,
        webhook,
        token=TOKEN,
        method="POST",
        target="/sms",
        number="+14017122661",
        public=PUBLIC,
    ):
        self.webhook, self.token, self.method, self.target = webhook, token, method, target
        self.number, self.public = number, public
        self._jar = {}

    def text(self, body="Hi", **fields):
        sid = "SM" + uuid4().hex
        more = {"MessageSid": sid, "SmsSid": sid, "SmsMessageSid": sid, "From": self.number}
        return self.send({**MESSAGE, **more, "Body": body, **fields})

    def send(self, fields):
        """Send these *fields*, and follow each redirect."""
        texted = Texted(fields)
        method, url = self.method, self.public + self.target
        while url and len(texted.requests) < 20:
            url, method = self._once(texted, method, url)
        return texted

    def _once(self, texted, method, url):
        form = urlencode(texted.fields)
        if method == "GET":
            url, form = f"{url}{'&' if '?' in url else '?'}{form}", ""
        cookie = self._jar.get(texted.fields["From"], "")
        texted.requests.append((method, url))
        texted.cookies.append(cookie)
        headers = {"X-Twilio-Signature": sign(self.token, url, form)} if self.token else {}
        headers |= {"Cookie": cookie} if cookie else {}
        started = time.monotonic()
        status, found, answer = self._ask(method, url, headers, form.encode())
        texted.seconds.append(time.monotonic() - started)
        texted.set_cookie = found.get("set-cookie", "")
        texted.statuses.append(status)
        texted.answers.append(answer)
        if "set-cookie" in found:
            pair, _, attributes = found["set-cookie"].partition(";")
            self._jar[texted.fields["From"]] = "" if "Max-Age=0" in attributes else pair
        if status != 200:
            return None, None
        for verb in ElementTree.fromstring(answer):
            if verb.tag == "Redirect":
                return urljoin(url, verb.text), verb.get("method", "POST")
            texted.texts.append(verb.text)
        return None, None

    def _ask(self, method, url, headers, body):
        target = url.removeprefix(self.public)
        if not callable(self.webhook):
            parts = urlsplit(self.public)
            headers["Host"] = parts.netloc
            host = "::1" if parts.hostname == "::1" else "127.0.0.1"
            return over_http(self.webhook, method, target, headers, body, host)
        parts = urlsplit(target)
        named = {"HTTP_" + k.upper().replace("-", "_"): v for k, v in headers.items()}
        environ = make_environ(
            body, method, PATH_INFO=parts.path, QUERY_STRING=parts.query, **named
        )
        environ["REQUEST_URI"] = target
        status, found, answer = call(self.webhook, environ)
        return int(status[:3]), {k.lower(): v for k, v in found.items()}, answer


def over_http(port, method, target, headers, body=b"", host="127.0.0.1", timeout=20):
    """Return the status, the headers and the body of an answer over a socket."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if method == "POST":
        headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def sign(token, url, form=""):
    """Return what Twilio would send: Twilio's rules, by the letter."""
    pairs = sorted(set(parse_qsl(form, keep_blank_values=True)))
    string = url + "".join([name + value for name, value in pairs])
    digest = hmac.digest(token.encode(), string.encode("utf-8", "surrogatepass"), "sha1")
    return base64.b64encode(digest).decode()
