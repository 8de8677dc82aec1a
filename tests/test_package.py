"""The wheel and the sdist, built as they are released, and installed where nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import smsreply

pytest.importorskip("build.env")
FILES = ("smsreply.py", "setup.cfg", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE")
FOLDERS = ("smsphone", "tests", "examples", ".ci")


def run(*command, cwd):
    """Return what *command* prints, from a place where smsreply is only if it is installed."""
    words = [str(part) for part in command]
    result = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def interpreters():
    """Return the oldest and the newest CPython here that is supported."""
    found = {}
    for python in [sys.executable, *Path.home().glob(".pyenv/versions/*/bin/python")]:
        program = (
            "import platform as p; print(p.python_implementation() + '.' + p.python_version())"
        )
        result = subprocess.run(
            [python, "-c", program], check=False, capture_output=True, text=True
        )
        name, major, minor, *_ = (result.stdout or "none.0.0").split(".")
        if name == "CPython" and (int(major), int(minor)) >= (3, 9):
            found.setdefault((int(major), int(minor)), str(python))
    return {".".join(map(str, v)): found[v] for v in (min(found), max(found))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel and the sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--outdir", source / "dist", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module", params=interpreters().items(), ids=lambda item: item[0])
def clean(request, tmp_path_factory):
    """A virtual environment with nothing in it."""
    folder = tmp_path_factory.mktemp("clean")
    run(request.param[1], "-m", "venv", folder / "venv", cwd=folder)
    return folder


def test_the_wheel_has_the_module_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"smsreply-{smsreply.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    package = {f"smsphone/{path.name}" for path in (ROOT / "smsphone").iterdir() if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {"smsreply.py", *package}
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_page_is_served_from_a_zip_too(built):
    (wheel,) = built.glob("*.whl")
    program = "import sys; sys.path.insert(0, sys.argv[1]); from smsphone import page; print(page.page_file('page.html'))"
    assert run(sys.executable, "-c", program, wheel, cwd=wheel.parent).startswith("<!doctype html>")


def test_the_sdist_has_every_test_and_what_ci_runs(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f"tests/{file.name}" for file in (ROOT / "tests").iterdir() if file.is_file()}
    assert {"smsreply.py", "README.md", "LICENSE", ".ci/run", "smsphone/page.js", *tests} <= names


def test_the_wheel_needs_nothing_but_python(built, clean):
    (wheel,) = built.glob("*.whl")
    run(clean / "venv/bin/pip", "install", "--no-index", wheel, cwd=clean)
    program = clean / "venv/bin/smsreply"
    assert run(program, "--version", cwd=clean) == f"smsreply {smsreply.__version__}\n"
    run(clean / "venv/bin/python", "-c", "import smsreply; smsreply.App(str)", cwd=clean)


def test_mypy_follows_the_installed_module_if_it_is_told_to(built, clean):
    """A wheel of one module has no place for the mark that it is typed: PEP 561."""
    pytest.importorskip("mypy")
    (wheel,) = built.glob("*.whl")
    run(clean / "venv/bin/pip", "install", "--no-index", wheel, cwd=clean)
    (clean / "bot.py").write_text("import smsreply\nreveal_type(smsreply.IncomingMessage().body)\n")
    mypy = (sys.executable, "-m", "mypy", "--python-executable", clean / "venv/bin/python")
    output = run(*mypy, "--cache-dir", clean, "--follow-untyped-imports", "bot.py", cwd=clean)
    assert 'Revealed type is "str"' in output


def test_the_tests_of_the_sdist_pass(built, clean):
    (sdist,) = built.glob("*.tar.gz")
    shutil.unpack_archive(sdist, clean)
    (source,) = clean.glob("smsreply-*")
    run(clean / "venv/bin/pip", "install", f"{sdist}[test]", cwd=clean)
    # The slow ones, and those of this folder's checkout, are collected at least.
    pytest_ = (clean / "venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest_, "--collect-only", "tests", cwd=source)
    run(*pytest_, "tests/test_read.py", "tests/test_message.py", cwd=source)
