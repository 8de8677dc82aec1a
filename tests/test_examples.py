"""The recipes of examples/: each runs as it is written."""

from __future__ import annotations

import ast
import http.server
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PYTHON, ROOT, TOKEN, free_port, running, slow
from texter import Texter

import smsphone
import smsreply

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The examples can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    yield
    for name in RECIPES:
        sys.modules.pop(name, None)


def phone_for(name, **options):
    return smsphone.Phone(importlib.import_module(name).application, **options)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "test_bot"])
def test_the_command_of_a_recipes_first_lines_serves_it(name, tmp_path):
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    command = re.search(r"(?:python3 smsreply.py|smsreply) serve \S+", text)
    if command is None or name == "two_machines":
        pytest.skip("another test runs it")
    port = free_port()
    words = command[0].split()[-1:]
    serve = [PYTHON, ROOT / "smsreply.py", "serve", *words, "--port", port, "--no-phone"]
    with running(*serve, port=port, cwd=ROOT, env={"TWILIO_AUTH_TOKEN": TOKEN}):
        texter = Texter(port, public=f"http://127.0.0.1:{port}", target="/sms")
        texted = texter.text("Hi") if name not in ("slow", "several_accounts") else None
        assert texted is None or texted.status == 200


def test_the_smallest_bot_repeats_what_was_said():
    assert phone_for("bot").text("hello").reply == "You said 'hello'."


def test_a_picture_is_thanked_for_with_a_picture():
    (message,) = phone_for("pictures").text(media=["https://abc.example/dog.png"]).messages
    assert message.body == "Thanks for image/png. Here is a cat."
    assert message.media == ("https://abc.example/cat.jpg",)


def test_a_person_who_takes_a_username_is_known_again():
    phone = phone_for("whatsapp", number="whatsapp:+14017122661")
    assert phone.text("Hi").reply == "Hello Ada, for the 1. time."
    user = phone.text("Hi").params["ExternalUserId"]
    assert phone.text("Hi", from_=f"whatsapp:{user}").reply == "Hello Ada, for the 3. time."
    place = phone.text("", Latitude="51.5", Longitude="-0.2").reply
    assert place == "Ada, you are at 51.5, -0.2."


def test_the_status_goes_to_its_own_path(capsys):
    exchange = phone_for("callbacks").text("Hi")
    assert exchange.reply == "Support will call you."
    assert [request.url for request in exchange.requests[1:]] == ["https://localhost/status"] * 2
    assert capsys.readouterr().out.count(exchange.messages[0].sid) == 2
    assert exchange.error is None


def test_who_opts_out_gets_no_second_reply():
    phone = phone_for("opt_out")
    assert phone.text("Hi").reply.startswith("You are subscribed.")
    assert phone.text("STOP", OptOutType="STOP").messages == []
    assert importlib.import_module("opt_out").SUBSCRIBERS == set()


class Model(http.server.BaseHTTPRequestHandler):
    """Stands in for a language model."""

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["question"]
        answer = json.dumps({"answer": f"It is {len(question)}."}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Say nothing."""


@slow
def test_a_language_model_is_asked(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MODEL_URL", f"http://127.0.0.1:{server.server_port}/")
        assert phone_for("slow").text("How many?").reply == "It is 9."
        server.shutdown()


def test_a_pizza_is_ordered_over_four_messages():
    phone = phone_for("conversation")
    said = [phone.text(text).reply for text in ("Hi", "L", "olives", "Freston Road")]
    assert said[0] == "Which size: S, M or L?"
    assert said[3] == "A pizza L with olives comes to Freston Road."


def test_an_account_is_checked_with_its_own_token_only():
    example = importlib.import_module("several_accounts")
    first, second = example.TOKENS
    for account, token in ((first, example.TOKENS[first]), (second, example.TOKENS[second][1])):
        phone = smsphone.Phone(example.application, auth_token=token)
        assert phone.text("Hi", AccountSid=account).reply == f"This is {example.NAMES[account]}."
        other = second if account == first else first
        assert phone.text("Hi", AccountSid=other).error.code == 11217


def test_four_workers_handle_a_message_once(tmp_path):
    pytest.importorskip("gunicorn")
    port = free_port()
    command = re.search(r"gunicorn .*", (EXAMPLES / "four_workers.py").read_text())[0]
    words = command.replace("8767", str(port)).replace("--chdir examples", "").split()[1:]
    env = {"TWILIO_AUTH_TOKEN": TOKEN, "PYTHONPATH": f"{ROOT}:{EXAMPLES}"}
    with running(PYTHON, "-m", "gunicorn", *words, port=port, cwd=tmp_path, env=env):
        texter = Texter(port, public=f"http://127.0.0.1:{port}")
        fields = texter.text("hello").fields
        with ThreadPoolExecutor(16) as pool:
            texts = [texted.reply for texted in pool.map(texter.send, [fields] * 40)]
    assert len(set(texts)) == 1


def test_the_test_of_ones_own_bot_passes():
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_bot.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout


def test_what_was_written_for_the_helper_library_goes_on_to_work():
    app = smsreply.App(importlib.import_module("helper_library").reply)
    assert smsphone.Phone(app).text("Hi").reply.startswith("The Robots are coming!")


def test_a_flask_program_keeps_its_urls_and_what_needs_its_context(caplog):
    pytest.importorskip("flask")
    program = importlib.import_module("from_flask").app
    assert program.test_client().get("/").text == "Text us!"
    phone = smsphone.Phone(program, public_url="https://abc.example/sms")
    assert phone.text("Hi").reply == "Text 1 from +15005550001"
    assert phone.text("more").reply == "More from from_flask & co."
    exchange = phone.text("picture")
    assert exchange.messages[0].media == ("https://abc.example/owl.png",)
    assert exchange.error is None
    assert f"{exchange.messages[0].sid} is delivered" in caplog.text
    assert phone.text("Hi").reply == "Text 4 from +15005550001"
    forged = smsphone.Phone(program, auth_token="another", public_url="https://abc.example/sms")
    assert forged.text("Hi").answers[0].status == 403


def test_two_machines_can_be_imported():
    pytest.importorskip("cachelib")
    pytest.importorskip("redis")
    assert callable(importlib.import_module("two_machines").application)


@pytest.mark.parametrize("name", ["google_cloud", "azure_function", "flask_view"])
def test_a_function_of_a_cloud_answers_what_twilio_signed(name, monkeypatch):
    flask = pytest.importorskip("flask")
    monkeypatch.syspath_prepend(str(EXAMPLES / "hosts"))
    monkeypatch.setenv("SMSREPLY_PUBLIC_URL", "https://abc.example")
    sys.modules.pop("bot", None)
    if name == "azure_function":
        pytest.importorskip("azure.functions")
        return
    module = importlib.import_module(name)
    target = "/sms"
    if name == "google_cloud":
        site = flask.Flask("functions")
        site.route("/sms", methods=["GET", "POST"])(lambda: module.sms(flask.request))
    else:
        site, target = module.app, "/shop/sms"
    for method in ("GET", "POST"):
        texter = Texter(site, method=method, target=target)
        assert texter.text("hello").texts
        assert Texter(site, token="other", method=method, target=target).text().status == 403
    sys.modules.pop(name, None)


def test_the_table_of_the_examples_names_each_file():
    table = (EXAMPLES / "README.md").read_text()
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
    files += [f"hosts/{path.name}" for path in (EXAMPLES / "hosts").iterdir()]
    missing = [
        name for name in files if f"({name})" not in table and name not in ("README.md", "page.png")
    ]
    assert not [name for name in missing if "__pycache__" not in name]


def test_the_page_for_an_assistant_has_programs_that_pass_their_tests(tmp_path):
    page = (EXAMPLES / "AGENTS.md").read_text()
    assert page.count("\n") <= 80
    for name, source in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page, re.M | re.S):
        (tmp_path / name).write_text(source)
    command = [
        PYTHON,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout
    port = free_port()
    serve = [PYTHON, ROOT / "smsreply.py", *re.search(r"smsreply.py (serve .*)", page)[1].split()]
    serve += ["--no-phone", "--port", port]
    with running(*serve, port=port, cwd=tmp_path, env={"TWILIO_AUTH_TOKEN": TOKEN}):
        texter = Texter(port, public=f"http://127.0.0.1:{port}")
        assert texter.text("Hi").reply == "You said Hi. Text number 1."
