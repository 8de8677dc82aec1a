"""The signatures of Twilio's own tests: 126 cases, of its helper libraries in seven languages.

vectors.json has them: the library, the case's name there, what is given, and the verdict.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import smsreply

CASES = json.loads(Path(__file__).with_name("vectors.json").read_text())

# The Node library rewrites the URL before it checks it: it takes a raw ' and %27 for the same.
# Twilio signs one of them, and here only that one is accepted: a receiver that accepts what was
# not signed has to show that nobody gains by it, and the cure (to pass the raw URL) is at hand.
DIFFERENT_HERE = {
    ("node", "special characters (It's+amazing)"),
    ("node", "webhooks.spec: unescaped ', target escaped"),
    ("node", "webhooks.spec: escaped ', target unescaped"),
}


def name(case):
    return f"{case['from']}: {case['case']}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_verdict_is_that_of_twilios_own_library(case):
    validator = smsreply.RequestValidator(case["token"])
    accepted = validator.validate(case["url"], case["params"], case["signature"], case["algorithm"])
    differs = (case["from"], case["case"]) in DIFFERENT_HERE
    assert accepted == (case["valid"] and not differs)


def test_each_difference_is_a_case_that_is_refused_here_and_accepted_there():
    found = {(case["from"], case["case"]) for case in CASES if case["valid"]}
    assert found >= DIFFERENT_HERE


def test_there_are_126_cases_of_seven_languages_and_one_sdk():
    assert len(CASES) == 126
    assert len({case["from"] for case in CASES}) == 8
