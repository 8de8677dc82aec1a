"""SQLiteCache: what all the processes of one machine share, and what outlives them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PYTHON, ROOT, TOKEN, call, free_port, running, slow
from test_app import app, signed
from texter import Texter

import smsreply
from smsreply import SQLiteCache

SCRIPT = ROOT / "smsreply.py"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "messages.sqlite"


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(smsreply.time, "time", lambda: now[0])
    return now


# ------------------------------------------------------------------------------ a cache


def test_a_value_comes_back_as_it_was_put(path):
    cache = SQLiteCache(path)
    for value in ("text", 1.5, ["a", ["b"], "é\ud800"], {"a": None}, True):
        cache.set("key", value)
        assert cache.get("key") == value
    assert cache.get("another") is None
    assert cache.get("another", 5) == 5
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.get("key") is None


def test_another_cache_on_the_same_file_sees_it(path):
    SQLiteCache(path).set("key", "value")
    assert SQLiteCache(str(path)).get("key") == "value"


def test_a_value_lasts_for_its_timeout_and_an_hour_by_default(path, clock):
    cache = SQLiteCache(path)
    cache.set("short", 1, 15)
    cache.set("long", 1)
    clock[0] += 14.9
    assert (cache.get("short"), cache.add("short", 2)) == (1, False)
    clock[0] += 0.1
    assert (cache.get("short"), cache.get("long")) == (None, 1)
    assert cache.add("short", 2, 15) is True
    assert cache.get("short") == 2
    clock[0] += 3600
    assert cache.get("long") is None


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [(count,)] = connection.execute("SELECT COUNT(*) FROM kept")
    return count


def test_what_is_over_takes_no_room(path, clock):
    cache = SQLiteCache(path)
    for number in range(100):
        cache.set(f"key {number}", "x", 60)
    clock[0] += 61
    cache.set("one more", "x", 60)
    assert rows(path) == 1


def test_so_much_is_over_after_a_night_that_it_goes_in_parts(path, clock, monkeypatch):
    monkeypatch.setattr(SQLiteCache, "MAX_REMOVED", 10)
    cache = SQLiteCache(path)
    for number in range(25):
        cache.set(f"key {number}", "x", 60)
    left = []
    for _ in range(4):
        clock[0] += 61
        cache.set("one more", "x", 600)
        left.append(rows(path))
    assert left == [16, 6, 1, 1]


@pytest.mark.parametrize("threads", [8])
def test_of_many_who_add_at_once_one_succeeds(path, threads):
    caches = [SQLiteCache(path) for _ in range(2)]
    gate = threading.Barrier(threads)

    def add(number):
        gate.wait(10)
        return [caches[number % 2].add(f"key {key}", number) for key in range(20)]

    with ThreadPoolExecutor(threads) as pool:
        each = list(pool.map(add, range(threads)))
    assert [sum(added) for added in zip(*each)] == [1] * 20


def test_many_may_begin_with_a_new_file_at_once(tmp_path):
    gate = threading.Barrier(8)

    def begin(path):
        gate.wait(10)
        return SQLiteCache(path).add("key", 1)

    with ThreadPoolExecutor(8) as pool:
        for number in range(60):
            path = tmp_path / str(number)
            assert sum(pool.map(begin, [path] * 8)) == 1


ADDER = """
import sys
import smsreply

cache = smsreply.SQLiteCache(sys.argv[1])
print(sum(cache.add(f"key {number}", 1) for number in range(200)))
"""


def test_of_many_processes_that_add_at_once_one_succeeds(path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [PYTHON, "-c", ADDER, str(path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) for _ in range(4)
    ]
    added = [int(process.communicate(timeout=30)[0]) for process in processes]
    assert sum(added) == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_and_its_parent_both_use_it(path):
    cache = SQLiteCache(path)
    cache.set("parent", 1)
    child = os.fork()
    if not child:
        done = cache.get("parent") == 1 and cache.add("child", 2)
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (cache.get("child"), cache.get("parent")) == (2, 1)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_the_file_is_its_owners_alone(path):
    SQLiteCache(path).set("key", "+14017122661")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_the_module_does_not_import_sqlite_before_it_is_used():
    code = "import sys, smsreply; sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ----------------------------------------------------------------- what can be the matter


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        SQLiteCache(tmp_path / "nowhere" / "messages.sqlite")
    with pytest.raises(OSError, match="Is a directory"):
        SQLiteCache(tmp_path)


def test_a_file_that_is_no_database_is_said_at_the_start_and_left_alone(path):
    path.write_text("my thesis\n" * 1000)
    with pytest.raises(ValueError, match="messages.sqlite cannot be a cache: file is not a datab"):
        SQLiteCache(path)
    assert path.read_text().startswith("my thesis")


@contextlib.contextmanager
def locked(path):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


@contextlib.contextmanager
def full(path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as if the disk had no more
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def removed(path):
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE kept")
    other.close()
    yield


@pytest.mark.parametrize("spoiled", [locked, full, removed])
def test_a_cache_that_fails_loses_no_message_and_is_in_the_log(path, spoiled, caplog, monkeypatch):
    monkeypatch.setattr(SQLiteCache, "TIMEOUT", 0.05)
    once = app(lambda message: "ok" * 5000, cache=SQLiteCache(path))
    with spoiled(path):
        for number in range(3):
            sid = f"SM{number:032x}"
            status, _, _ = call(once, signed({"MessageSid": sid, "From": "+1", "Body": "x"}))
            assert status == "200 OK"
    assert "the cache fails, and messages are answered without it" in caplog.text


@slow
def test_a_file_that_stays_locked_leaves_enough_of_twilios_15_seconds(path):
    once = app(lambda message: "ok", cache=SQLiteCache(path))
    with locked(path):
        started = time.monotonic()
        assert call(once, signed())[0] == "200 OK"
        assert time.monotonic() - started < 12


def test_another_processs_lock_is_waited_for(path):
    cache = SQLiteCache(path)
    with locked(path) as other:
        threading.Timer(0.3, other.execute, ["COMMIT"]).start()
        assert cache.add("key", 1) is True


# ------------------------------------------------------------------- on the command line

COUNTING = """
runs = 0

def reply(message):
    global runs
    runs += 1
    return f"run {runs}"
"""


@pytest.mark.parametrize("production", [[], pytest.param(["--production"], marks=slow)])
def test_a_message_is_answered_once_though_the_server_was_started_again(tmp_path, production):
    if production:
        pytest.importorskip("waitress")
    (tmp_path / "bot.py").write_text(COUNTING)
    port = free_port()
    command = [PYTHON, SCRIPT, "serve", "bot:reply", "--cache", "messages.sqlite", "--port", port]
    command += [*production] or ["--no-phone"]
    texter = Texter(port, public=f"http://127.0.0.1:{port}")
    env = {"TWILIO_AUTH_TOKEN": TOKEN}
    with running(*command, port=port, env=env, cwd=tmp_path):
        assert texter.text("one").reply == "run 1"
        second = texter.text("two")
    with running(*command, port=port, env=env, cwd=tmp_path):
        assert texter.send(second.fields).reply == "run 2"
        assert texter.text("three").reply == "run 1"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_a_process_opens_its_file_once(tmp_path):
    cache = smsreply.SQLiteCache(tmp_path / "cache")
    cache.set("a", 1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        cache.set(str(number), cache.get("a"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("file", [".", "nowhere/file", "thesis.txt", "no\x1b[31m/x\nsmsreply: y"])
def test_a_file_that_cannot_be_a_cache_is_one_line(tmp_path, file):
    (tmp_path / "thesis.txt").write_text("my thesis\n" * 1000)
    command = [PYTHON, str(SCRIPT), "serve", "--cache", file, "--no-phone", "--port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("smsreply: --cache")
    assert file.partition("\x1b")[0] in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1
