"""Mutation testing: break smsreply.py in one place, and see whether some test notices.

    python tests/mutate.py                  # 300 places of sections 1 to 6, chosen by chance
    python tests/mutate.py 1000 --seed 7    # more, and others
    python tests/mutate.py 100 --section 6  # of one section

Each place is broken in a copy of the folder: a comparison turned round, a condition that is
always true, a statement left out, a number one more, a short text changed.  What no test
notices is printed as a diff.  Some of it changes nothing that anybody could see; the rest
lacks a test.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The tests of a section come first, since they are likeliest to notice, and soonest.
FIRST = {
    1: ("read",),
    2: ("signature", "vectors", "receiver"),
    3: ("message", "session"),
    4: ("twiml",),
    5: ("app", "receiver"),
    6: ("remember", "sqlite", "faults"),
}
ALL = [
    "read",
    "signature",
    "vectors",
    "message",
    "session",
    "twiml",
    "app",
    "receiver",
    "faults",
    "types",
    "sqlite",
    "remember",
    "explain",
    "text",
    "safe",
    "cluster",
    "serve",
]
SECONDS = 300  # for a run of the tests: what takes longer hangs, and that was noticed
OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
}  # fmt: skip


def sections(source: str) -> dict[int, tuple[int, int]]:
    """Return the first and the last line of each section."""
    lines = source.splitlines()
    begins = {
        int(found[1]): number
        for number, line in enumerate(lines, 1)
        if (found := re.match(r"# -{20,} (\d)\. \w+", line))
    }
    return {n: (begins[n], begins.get(n + 1, len(lines) + 1) - 1) for n in begins}


def is_code(text: str) -> bool:
    """Return whether *text* is a name or a mark, and no sentence for somebody to read."""
    return len(text) < 16 and " " not in text


def broken(node: ast.AST) -> list[ast.AST]:
    """Return what may stand in the place of *node*, and is wrong."""
    found: list[ast.AST] = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        other = copy.deepcopy(node)
        other.ops[0] = OPPOSITE[type(node.ops[0])]()  # type: ignore[call-overload]
        found.append(other)
    if isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in OPPOSITE:
        other_op = copy.deepcopy(node)
        other_op.op = OPPOSITE[type(node.op)]()  # type: ignore[assignment]
        found.append(other_op)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(node.operand)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        for value in (True, False):
            other_test = copy.deepcopy(node)
            other_test.test = ast.Constant(value)
            found += [other_test] if not (value and isinstance(node, ast.While)) else []
    if isinstance(node, ast.Constant) and type(node.value) is int:
        found.append(ast.Constant(node.value + 1))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        found.append(ast.Constant(not node.value))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_code(node.value):
        found.append(ast.Constant(node.value + "X"))
    if isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        found.append(ast.Return(ast.Constant(None)))
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Raise, ast.Delete)) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ):
        found.append(ast.Pass())
    return found


def mutants(source: str, wanted: list[int]) -> list[tuple[int, int, int, str]]:
    """Return section, first and last offset, and the new text, of each possible mutant."""
    places = sections(source)
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    types = {
        id(inner)
        for node in ast.walk(tree)
        for part in (
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
            *(node.values if isinstance(node, ast.JoinedStr) else ()),
        )
        if part is not None
        for inner in ast.walk(part)
    }
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        section = next((n for n in wanted if places[n][0] <= line <= places[n][1]), None)
        if section is None or id(node) in types:
            continue
        for other in broken(node):
            begin = starts[line - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            text = ast.unparse(ast.fix_missing_locations(other))
            if isinstance(node, (ast.If, ast.While)):
                head = node.test
                begin = starts[head.lineno - 1] + head.col_offset
                end = starts[head.end_lineno - 1] + head.end_col_offset  # type: ignore[operator]
                text = str(other.test.value)  # type: ignore[attr-defined]
            elif isinstance(node, ast.expr):
                text = f"({text})"
            found.append((section, begin, end, text))
    return found


def noticed(folder: Path, section: int) -> bool:
    """Return whether some test fails in *folder*."""
    names = dict.fromkeys([*FIRST[section], *ALL])
    files = [file for n in names if (file := folder / "tests" / f"test_{n}.py").exists()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *map(str, files), str(folder / "smsreply.py")],
            cwd=folder, capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--section", type=int, choices=FIRST, action="append")
    options = parser.parse_args()
    source = (ROOT / "smsreply.py").read_text(encoding="utf-8")
    found = mutants(source, options.section or list(FIRST))
    chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
    killed, tried = Counter[int](), Counter[int]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "copy")
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*"))
        if noticed(folder, 1):
            print("The tests fail on what is not broken.")
            return 2
        for section, begin, end, text in chosen:
            raw = source.encode()
            mutant = (raw[:begin] + text.encode() + raw[end:]).decode()
            (folder / "smsreply.py").write_text(mutant, encoding="utf-8")
            tried[section] += 1
            if noticed(folder, section):
                killed[section] += 1
                continue
            lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm="")
            print(f"survived, section {section}:", *list(lines)[2:], sep="\n    ", flush=True)
    for section in sorted(tried):
        print(f"section {section}: {killed[section]} of {tried[section]} killed")
    part = sum(killed.values()) / max(1, sum(tried.values()))
    print(f"in all: {part:.1%} of {sum(tried.values())}, out of {len(found)} possible")
    return 0


if __name__ == "__main__":
    sys.exit(main())
