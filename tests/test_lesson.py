"""The lesson: each stage is wrong where it says so, and the next one mends that."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, free_port, running, slow

LESSON = ROOT / "examples" / "lesson"
README = (LESSON / "README.md").read_text()
STAGES = sorted(LESSON.glob("[1-8]_*.py"))
SOLUTION = ROOT / "tests" / "lesson" / "8_smsreply.py"
HERE = "sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))"
QUICK = {"SLOW": "0.8", "PATIENCE": "0.3", "TWILIO_AUTH_TOKEN": "12345"}


def check(file):
    """Have the exercise in *file* checked; return the status, and what is said of each check."""
    command = [sys.executable, "-m", "smsphone", "check", str(file)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **QUICK}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    return done.returncode, dict(re.findall(r"^([\w-]+): (.*)$", done.stdout, re.M))


def exercise(stage):
    return re.search(r"^# check: .*$", stage.read_text(), re.M)[0]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What the check says of each stage, and of what solves its exercise: the next stage."""
    folder = tmp_path_factory.mktemp("solutions")
    files = {}
    for stage, solution in zip(STAGES, [*STAGES[1:], SOLUTION]):
        text = re.sub(r"^# check: .*$", exercise(stage), solution.read_text(), flags=re.M)
        file = folder / f"solution_{stage.stem}.py"
        file.write_text(text.replace(HERE, f"sys.path.insert(0, {str(ROOT)!r})"))
        files[stage.stem, "itself"], files[stage.stem, "solution"] = stage, file
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(files, pool.map(check, files.values())))


def test_there_are_eight_stages_and_each_has_an_exercise():
    assert [stage.name[0] for stage in STAGES] == list("12345678")
    for number, stage in enumerate(STAGES, 1):
        assert f"## {number}. " in README
        assert f"python3 examples/lesson/{stage.name}" in README
    assert README.count("**Exercise:**") == README.count("**Question:**") == 8


@slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_a_stage_fails_its_exercise_and_says_what_is_wrong(verdicts, stage):
    status, said = verdicts[stage.stem, "itself"]
    assert status == 1
    assert set(said.values()) != {"yes"}


@slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_the_next_stage_solves_the_exercise(verdicts, stage):
    status, said = verdicts[stage.stem, "solution"]
    assert set(said.values()) == {"yes"}, said
    assert status == 0
    assert list(said) == exercise(stage).removeprefix("# check: ").split(", ")


CHEATS = {
    "who repeats a list": (1, 2, "{message['Body']}.", "{[message['Body']]}."),
    "who lets a text end a CDATA section": (
        2,
        3,
        'return ElementTree.tostring(response, encoding="utf-8")',
        'return f"<Response><Message><![CDATA[{text}]]></Message></Response>".encode()',
    ),
    "who needs a public URL": (4, 5, "PUBLIC_URL or f", "PUBLIC_URL and f"),
    "who takes the order and refuses it then": (
        3,
        4,
        "    message = read(environ)\n",
        "    message = read(environ)\n    reply(message)\n",
    ),
    "who checks nothing where there is a public URL": (
        4,
        5,
        "    if not is_twilios(",
        "    if not PUBLIC_URL and not is_twilios(",
    ),
    "who gives a kept answer to anybody": (
        5,
        6,
        "    if not is_twilios(",
        '    if message["MessageSid"] not in answers and not is_twilios(',
    ),
    "who adds a question mark": (4, 5, ' if environ.get("QUERY_STRING") else ""', ""),
    "who knows one path only": (4, 5, 'environ["PATH_INFO"]', '"/sms"'),
    "who checks nothing any more": (5, 6, "    if not is_twilios(", "    if 0 and not is_twilios("),
    "who takes a slow order in each round": (
        6,
        7,
        "    futures.wait(",
        "    pool.submit(reply, message)\n    futures.wait(",
    ),
    "who refuses everybody": (
        3,
        3,
        "    message = read(environ)\n",
        """\
    start_response("403 Forbidden", [])
    return [b"no"]
""",
    ),
    "who leaves the query out": (
        3,
        4,
        "request_uri(environ)",
        'request_uri(environ).split("?")[0]',
    ),
    "who leaves the query out behind a proxy": (4, 5, "f\"?{environ['QUERY_STRING']}\"", '""'),
    "who checks nothing behind a proxy": (
        4,
        5,
        "    if not is_twilios(",
        "    if 0 and not is_twilios(",
    ),
    "who takes the same text for the same message": (5, 6, '["MessageSid"]', '["Body"]'),
    "who says Ada to everybody": (8, 9, 'get("name", "stranger")', 'get("", "Ada")'),
}


@slow
@pytest.mark.parametrize("cheat", CHEATS)
def test_the_check_notices(tmp_path, cheat):
    number, solution, right, wrong = CHEATS[cheat]
    text = [*STAGES, SOLUTION][solution - 1].read_text()
    assert right in text
    text = text.replace(right, wrong).replace(HERE, f"sys.path.insert(0, {str(ROOT)!r})")
    file = tmp_path / "mine.py"
    file.write_text(re.sub(r"^# check: .*$", exercise(STAGES[number - 1]), text, flags=re.M))
    status, said = check(file)
    assert status == 1
    assert set(said.values()) != {"yes"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_a_stage_is_read_in_one_go(stage):
    text = stage.read_text()
    assert text.count("\n") <= 90
    assert ("import smsreply" in text) == (stage.stem == "8_smsreply")
    assert "Still wrong: " in text or stage.stem == "8_smsreply"


@pytest.mark.parametrize("number", range(2, 7))
def test_a_stage_has_one_idea_more_than_the_one_before(number):
    before, after = [
        set(STAGES[n].read_text().split('"""', 2)[2].splitlines()) for n in (number - 1, number)
    ]
    assert len(after - before) <= 26
    assert len(before - after) <= 10


def shown():
    """Yield each stage of the README, with its first command, and the others with their output."""
    for number, section in enumerate(re.split(r"^## (?=\d\. )", README, flags=re.M)[1:], 1):
        blocks = re.findall(r"^```console\n(.*?)^```", section, re.M | re.S)
        commands = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", blocks[1], re.M)
        yield pytest.param(blocks[0][2:].strip(), commands, id=f"stage {number}")


@pytest.mark.parametrize(("program", "commands"), list(shown()))
def test_the_lesson_prints_what_it_says(program, commands):
    port = free_port()
    *variables, _, file = shlex.split(program)
    env = {**QUICK, **dict(one.split("=") for one in variables), "PORT": str(port)}
    if any("slow" in command for command, _ in commands) and not os.environ.get("SMSREPLY_SLOW"):
        pytest.skip("takes long: set SMSREPLY_SLOW=1")
    if any("11205" in output for _, output in commands):
        env["SLOW"] = "25"
    with running(sys.executable, ROOT / file, port=port, env=env, cwd=ROOT):
        for command, output in commands:
            words = shlex.split(command)
            if words[0] == "curl":
                if not shutil.which("curl"):
                    pytest.skip("not installed: curl")
                words = [word.replace(":8767", f":{port}") for word in words] + ["-s"]
            else:
                words[0] = sys.executable
                words += ["--webhook", f"http://localhost:{port}/sms"]
            done = subprocess.run(
                words, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
                env={**os.environ, **QUICK},
            )  # fmt: skip
            assert (done.stdout + done.stderr).strip() == output.strip(), command
