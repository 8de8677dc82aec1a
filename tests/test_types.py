"""What a type checker sees of a program that uses smsreply."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """
import smsreply

def reply(message: smsreply.IncomingMessage) -> "str | smsreply.MessagingResponse":
    reveal_type(message.body)       # str
    reveal_type(message["From"])    # str
    reveal_type(message.media)      # tuple[tuple[str, str], ...]
    reveal_type(message.query)      # dict[str, str]
    reveal_type(message.session)    # dict[str, Any]
    response = smsreply.MessagingResponse()
    reveal_type(response.message("Hello").media("https://abc.example/cat.jpg"))  # Media
    reveal_type(response.append(smsreply.Message("Hello")))  # MessagingResponse
    reveal_type(str(response))      # str
    return response

application = smsreply.App({"/sms": reply}, auth_token=["a", "b"], cache=smsreply.MemoryCache())
reveal_type(smsreply.RequestValidator("t").validate("https://abc.example", {}, "s"))  # bool
smsreply.App(lambda message: [message.body, None])
smsreply.App(lambda message: 5)             # error
smsreply.App(reply, token="a")              # error
smsreply.App(reply, public_url=8767)        # error
"""
SHOULD = {
    number: line.rpartition("# ")[2]
    for number, line in enumerate(PROGRAM.splitlines(), 1)
    if "# " in line
}


@pytest.fixture
def program(tmp_path):
    shutil.copy(ROOT / "smsreply.py", tmp_path)
    (tmp_path / "bot.py").write_text(PROGRAM)
    return tmp_path


def plain(revealed):
    """Return the type without its module: the checkers spell it differently."""
    return re.sub(r"\b(builtins|smsreply|typing)\.", "", revealed)


def check(command, folder, revealed, error):
    result = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    saw = {int(n): plain(kind) for n, kind in re.findall(revealed, result.stdout)}
    saw.update({int(n): "error" for n in re.findall(error, result.stdout)})
    assert saw == SHOULD, result.stdout + result.stderr


def test_mypy_sees_the_types_of_a_users_program(program):
    pytest.importorskip("mypy")
    command = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", program / "cache", "bot.py")
    revealed = r'bot\.py:(\d+): note: Revealed type is "(.*)"'
    check(command, program, revealed, r"bot\.py:(\d+): error")


def test_pyright_sees_the_types_of_a_users_program(program):
    if not importlib.util.find_spec("pyright"):
        pytest.skip("not installed: pyright")
    command = (sys.executable, "-m", "pyright", "bot.py")
    revealed = r'bot\.py:(\d+):\d+ - information: Type of ".*" is "(.*)"'
    check(command, program, revealed, r"bot\.py:(\d+):\d+ - error")


def test_mypy_finds_nothing_in_a_project_that_has_the_file_beside_it(program):
    pytest.importorskip("mypy")
    (program / "bot.py").write_text("import smsreply\n\napp = smsreply.App(lambda message: None)\n")
    command = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", program / "cache", ".")
    result = subprocess.run(command, cwd=program, check=False, capture_output=True, text=True)
    assert result.stdout.startswith("Success: no issues found in 2 source files"), result.stdout
