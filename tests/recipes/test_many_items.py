"""Hundreds of pictures take the memory of a chunk, and a recipe that is killed goes on where it was."""

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
"""What Pillow and the allocator keep for later, and what is noted of all items."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both tests ask, in one process: the peaks first, before anything else has taken memory there."""
    from measure import in_child

    asked = ["peaks", "killed"] if hasattr(os, "fork") else ["peaks"]
    return in_child(SCRIPT, [str(tmp_path_factory.mktemp("many")), *asked])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that was loaded once is killed, by forking it")
def test_a_recipe_killed_at_ten_random_moments_gives_the_frame_of_one_that_was_not(found):
    killed = found["killed"]  # the script compares the frames itself
    assert len(killed["moments"]) == len(killed["parts"]) == 10 and killed["rows"] > 50
    assert killed["parts"] == sorted(killed["parts"])  # what was finished stays finished


def test_hundreds_of_pictures_as_items_take_the_memory_of_one_chunk(found):
    peaks = found["peaks"]
    assert peaks["few"] > PICTURE  # some pictures are there at a time
    assert peaks["many"] < peaks["few"] + ROOM < peaks["pictures"] / 2 * PICTURE  # and never hundreds of them
