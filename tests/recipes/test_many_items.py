"""A thousand pictures take the memory of a chunk, and a recipe that is killed goes on where it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE / "benchmarks"))
SCRIPT = HERE / "many_items.py"
PICTURE = 300 * 300 * 3
"""Bytes of one of the pictures."""
ROOM = 100 * PICTURE
"""What Pillow and the allocator keep for later, and what is noted of a thousand items."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that was loaded once is killed, by forking it")
def test_a_recipe_killed_at_ten_random_moments_gives_the_frame_of_one_that_was_not(tmp_path):
    from measure import in_child

    found = in_child(SCRIPT, ["killed", str(tmp_path)])  # compares the frames itself
    assert len(found["moments"]) == len(found["parts"]) == 10 and found["rows"] > 50
    assert found["parts"] == sorted(found["parts"])  # what was finished stays finished


def test_a_thousand_pictures_as_items_take_the_memory_of_one_chunk(tmp_path):
    from measure import in_child

    found = in_child(SCRIPT, ["peaks", str(tmp_path)])
    assert found["few"] > PICTURE  # some pictures are there at a time
    assert found["thousand"] < found["few"] + ROOM < 500 * PICTURE  # and never hundreds of them
