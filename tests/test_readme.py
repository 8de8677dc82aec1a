"""What the README shows is what happens: its programs are run, and its commands."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

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
    data = re.search("-d '(.*?)'", shown[1])[1]
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
        result = subprocess.run(
            ["curl", "-s", f"http://localhost:{port}/sms", "-d", data],
            capture_output=True,
            text=True,
            check=True,
        )
        server.terminate()
        terminal = server.stdout.read()
    assert result.stdout.strip() == shown[2]
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


@pytest.mark.parametrize("name", [name[:-3] for name in bots()])
def test_every_program_of_the_readme_can_be_imported(name, programs):
    if name == "two_machines":
        pytest.importorskip("cachelib")
        pytest.importorskip("redis")
    importlib.import_module(name)


def test_the_test_of_the_readme_passes(programs):
    test_bot = importlib.import_module("test_bot")
    test_bot.test_it_repeats_what_was_said()
    test_bot.test_others_are_answered_too()


def test_a_picture_is_thanked_for(programs):
    phone = smsreply.Phone(importlib.import_module("pictures").application)
    exchange = phone.text(media=["https://abc.example/dog.png"])
    assert exchange.messages[0].body == "Thanks for image/png. Here is a cat."
    assert exchange.messages[0].media == ("https://abc.example/cat.jpg",)


def test_the_status_goes_to_its_own_path(programs, capsys):
    exchange = smsreply.Phone(importlib.import_module("desk").application).text("Hi")
    assert (exchange.error, len(exchange.requests)) == (None, 2)
    assert exchange.requests[1].url == "https://localhost/status"
    assert "is sent\n" in capsys.readouterr().out


def test_the_pizza_is_ordered_over_four_messages_and_two_servers(programs):
    reply = importlib.import_module("pizza").reply
    servers = [smsreply.App(reply), smsreply.App(reply)]
    turns = iter([0, 1, 0, 1])
    phone = smsreply.Phone(lambda *request: servers[next(turns)](*request))
    said = [phone.text(text).messages[0].body for text in ("Hi", "L", "olives", "Freston Road")]
    assert said[0] == "Which size: S, M or L?"
    assert said[3] == "A pizza L with olives comes to Freston Road."


def test_a_link_within_the_readme_leads_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= anchors


def test_the_readme_names_every_option_there_is():
    parser = smsreply.command_line()
    commands = parser._subparsers._group_actions[0].choices
    options = {o for c in commands.values() for a in c._actions for o in a.option_strings}
    missing = {o for o in options if o.startswith("--") and o not in README} - {"--help"}
    assert not missing
