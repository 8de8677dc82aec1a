"""The pictures are what the code does now."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from draw import FOLDER, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_code_does_now(name):
    picture = PICTURES[name]()
    ElementTree.fromstring(picture)
    assert (FOLDER / name).read_text(encoding="utf-8") == picture, "run python3 tests/draw.py"
