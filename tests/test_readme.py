"""What the README shows is what happens: its programs are run, and its commands."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, free_port, running

import smsreply

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def bots():
    """Return the programs that begin with their file's name: ``# bot.py``."""
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", README, re.M | re.S))


def test_the_first_programs_output_is_what_the_first_screen_prints(tmp_path):
    port, phone = free_port(), free_port()
    (tmp_path / "bot.py").write_text(bots()["bot.py"])
    commands = [line for block in blocks("console") for line in block.splitlines()]
    serve = next(line for line in commands if "serve bot:reply" in line)
    assert serve == "$ python3 smsreply.py serve bot:reply"
    script = ROOT / "smsreply.py"
    options = ("--port", port, "--phone-port", phone)
    with running(
        sys.executable, script, "serve", "bot:reply", *options, port=port, cwd=tmp_path
    ) as server:
        shown = re.search(r'^\$ python3 smsreply.py text "(.*)"\n(.*)$', README, re.M)
        result = subprocess.run(
            [sys.executable, script, "text", shown[1], "--webhook", f"http://localhost:{port}/sms"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == shown[2]
        server.terminate()
        terminal = server.stdout.read()
    for line in re.findall(r"^(Incoming message from .*|Answered .*)$", README, re.M)[:2]:
        assert line in terminal


def test_the_request_that_is_refused_is_refused_so(tmp_path):
    port = free_port()
    shown = re.search(r"^\$ curl (.*)\n(.*)\n", README, re.M)
    data = re.search("-d '(.*?)'", shown[1])[1].encode()
    with running(
        sys.executable,
        ROOT / "smsreply.py",
        "serve",
        "--no-phone",
        "--port",
        port,
        port=port,
        env={"TWILIO_AUTH_TOKEN": "12345"},
    ) as server:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://localhost:{port}/sms", data, timeout=10)
        said = refused.value.read().decode()
        server.terminate()
        terminal = server.stdout.read()
    assert said.strip() == shown[2]
    logged = re.search(r"^403 Forbidden for POST /sms: .*$", README, re.M)[0]
    assert logged in terminal


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Write the README's programs where they can be imported; forget them afterwards."""
    for name, source in bots().items():
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "12345")
    yield tmp_path
    for name in bots():
        sys.modules.pop(name[:-3], None)


def test_the_test_of_the_readme_passes(programs):
    test_bot = importlib.import_module("test_bot")
    test_bot.test_it_repeats_what_was_said()
    test_bot.test_a_picture_is_no_error()


def test_a_view_of_ones_own_checks_a_shared_keys_request(programs):
    form = {"From": "+1", "Body": "Hello"}
    validator = smsreply.RequestValidator("12345")
    is_twilios = importlib.import_module("check").is_twilios
    for settings, algorithm in (("", None), ("key=SK1,algorithm=HMAC_SHA256", "HMAC_SHA256")):
        signature = validator.compute_signature("https://abc.example/sms", form, algorithm)
        headers = {
            "X-Twilio-Signature": signature,
            "X-Twilio-Webhooks-Signature-Settings": settings,
        }
        assert is_twilios("https://abc.example/sms", form, headers)
        assert not is_twilios("https://abc.example/other", form, headers)


@pytest.mark.parametrize("name", [name[:-3] for name in bots()])
def test_every_program_of_the_readme_can_be_imported(name, programs):
    importlib.import_module(name)


def test_a_link_to_a_file_leads_to_one():
    for link in re.findall(r"\]\(([a-z][^)#:]*)\)", README):
        assert (ROOT / link).exists(), link


def test_the_readme_is_short_enough_to_be_read():
    assert README.count("\n") <= 320


def test_a_link_within_the_readme_leads_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= anchors
