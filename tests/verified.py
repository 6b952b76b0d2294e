"""Which cells of the table of families are compared with an independent reference: `python tests/verified.py`.

For each column there are tests that compare what the package gives with a reference that does not use it, on every
tiny model of the zoo (`TESTS`). This collects them, on all members, and writes which families they hold into
nnsight_vlm/families/verified.json, with the versions that CI runs (constraints.txt): `nnsight-vlm families
--markdown` reads it. Every test that is written there passes in CI, or there is no release; what a test skips by
itself is what the family's row says it cannot do, and that is *broken* in the table. With `--check`, as in CI,
nothing is written, and a record that differs is an error.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
IN_FAMILIES = "tests/test_families.py::test_"
TESTS: dict[str, tuple[str, ...]] = {
    "vision tower": ("tests/test_towers_in_families.py::test_a_cut_a_patch_and_what_is_read_equal_plain_hooks",),
    "knockout": (f"{IN_FAMILIES}knockouts_equal_the_reference_and_leave_what_comes_before_them_alone",),
    "patch": (f"{IN_FAMILIES}patches_and_ablations_equal_the_reference",),
    "ablate": (f"{IN_FAMILIES}patches_and_ablations_equal_the_reference",),
    "heads": (
        "tests/test_attention_parts.py::test_all_parts_of_an_attention_are_read_and_written_as_the_reference_has_them",
    ),
    "attention weights": (f"{IN_FAMILIES}single_layers_heads_and_allowed_routes_equal_the_reference",),
    "lens": ("tests/test_lenses.py::test_words_are_those_of_the_model_whose_last_layer_returns_what_this_one_did",),
    "grid": ("tests/test_family_grids.py::test_pixels_planted_in_one_box_move_that_token_most",),
    "generate": (f"{IN_FAMILIES}cached_generation_equals_the_reference_without_a_cache",),
    "text alone": (f"{IN_FAMILIES}a_text_alone_equals_the_reference",),
    "several images": (f"{IN_FAMILIES}the_second_of_two_images_is_cut_alone",),
    "video": ("tests/test_video_runs.py::test_a_frame_that_is_cut_off_equals_the_reference",),
    "packed sweep": (f"{IN_FAMILIES}interventions_are_verified_and_a_sweep_is_the_same_however_it_is_run",),
    "cached prefix": ("tests/test_prefixes.py::test_every_family_answers_from_a_shared_prefix_or_says_why_not",),
    "image encoded once": (
        "tests/test_prefixes.py::test_variants_that_change_the_image_have_it_seen_once_and_equal_one_by_one",
    ),
    "sdpa": (f"{IN_FAMILIES}knockouts_equal_the_reference_and_leave_what_comes_before_them_alone",),
    "static cache": (f"{IN_FAMILIES}cached_generation_equals_the_reference_without_a_cache",),
}
"""For each column of the table, the tests that verify it."""
LOADS = f"{IN_FAMILIES}the_family_fits_the_model_and_an_empty_intervention_changes_nothing"
"""A family that has a case of this loads and runs."""


class Collected:
    """The cases of each test; pytest calls it."""

    def __init__(self) -> None:
        self.cases: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: Any) -> None:
        """Note all tests."""
        for item in session.items:
            test, _, case = item.nodeid.partition("[")
            self.cases.setdefault(test, set()).add(case.removesuffix("]"))


def family_in(case: str) -> str:
    """The family of a test's case, whose name begins with a member's."""
    from nnsight_vlm.families import FAMILIES

    return max((name for name in FAMILIES if re.match(rf"{re.escape(name)}(?![a-z0-9_])", case)), key=len)


def verified(cases: dict[str, set[str]]) -> dict[str, list[str]]:
    """The columns in which each family is verified."""
    from nnsight_vlm.families import FAMILIES
    from nnsight_vlm.families.support import cells_of

    found: dict[str, list[str]] = {}
    for column, tests in TESTS.items():
        each = [{family_in(case) for case in cases[test] if _is_of(column, case)} for test in tests]
        for name in set.intersection(*each):
            if cells_of(FAMILIES[name])[column].works != "no":
                found.setdefault(name, []).append(column)
    return found


def _is_of(column: str, case: str) -> bool:
    """Whether a case of a column's test is about that column."""
    return column != "sdpa" or case.endswith("-sdpa")


def main() -> None:
    """Collect the tests, and write which families they hold; pytest wants to begin before the package is imported."""
    wanted = dict.fromkeys([LOADS, *(test for tests in TESTS.values() for test in tests)])
    collected = Collected()
    options = ["--collect-only", "-qq", "-n0", "--members", "all", "-p", "no:cacheprovider"]
    pytest.main([*options, *(str(ROOT / test) for test in wanted)], plugins=[collected])
    missing = [test for test in wanted if not collected.cases.get(test)]
    if missing:
        raise SystemExit("\n".join(["not written, for there are no such tests:", *missing]))

    from nnsight_vlm.families.verified import PATH
    from nnsight_vlm.storage import atomic_write

    found = {
        "versions": {
            **pinned("transformers", "torch", "nnsight"),
            "Python": platform.python_version().rpartition(".")[0],
        },
        "loads": sorted({family_in(case) for case in collected.cases[LOADS]}),
        "verified": {name: ", ".join(columns) for name, columns in sorted(verified(collected.cases).items())},
    }
    if "--check" in sys.argv:
        if found != json.loads(PATH.read_text()):
            raise SystemExit(f"{PATH.name} is not what the tests hold: python tests/verified.py writes it")
        return
    with atomic_write(PATH) as file:
        file.write_text(json.dumps(found, indent=1) + "\n")


def pinned(*names: str) -> dict[str, str]:
    """The versions of packages with which the tests run."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    return {name: pins[name] for name in names}


if __name__ == "__main__":
    main()
