"""The study that docs/coming-from writes with several tools: what runs here agrees, and pages show what was run."""

from __future__ import annotations

import json
import re
from operator import attrgetter

import pytest
import torch
from beside import pages, run, study_nnsight, study_ours
from beside.tools import TOOLS
from float64 import LIMIT

import nnsight_vlm as nv

MEASURED = json.loads(run.MEASURED.read_text())
PAGES = sorted(pages.PAGES.glob("*.md"))


@pytest.fixture(scope="module")
def asked():
    return run.task()


def studied(study, opened, asked):
    """The numbers of a study, of which not one is missing."""
    pictures = [scene.image for scene in nv.shapes.pair(asked.seed, change="color")]
    numbers = study.study(opened, asked.question, *pictures, asked.answer)
    assert set(numbers) == set(MEASURED["exact"])
    return numbers


@pytest.mark.float64
def test_this_package_nnsight_and_hooks_give_the_same_numbers(asked):
    folder = nv.shapes.checkpoint("shapes")
    expected = run.exact(asked)
    scale = max(map(abs, expected.values()))
    ours = study_ours.open_model(folder, torch.float64)
    plain = study_nnsight.open_model(folder, torch.float64)
    for study, opened in ((study_ours, ours), (study_nnsight, plain)):
        assert run.farthest(studied(study, opened, asked), expected) < LIMIT * scale
    assert run.farthest(MEASURED["exact"], expected) < LIMIT * scale


def test_what_was_measured_is_of_this_task_and_of_these_programs(asked):
    assert MEASURED["task"] == vars(asked) and set(MEASURED["tools"]) == set(TOOLS)
    for name, found in MEASURED["tools"].items():
        assert found["lines"] == pages.code_lines(pages.program_text(name)), "python tests/beside/run.py"
        assert {**TOOLS[name].pins, **found["versions"]} == found["versions"]


def test_numbers_that_agree_are_closer_than_what_interventions_do():
    clean, *others = MEASURED["exact"].values()
    assert sum(abs(number - clean) > run.SEEN for number in others) > 10
    agreeing = [found for found in MEASURED["tools"].values() if "error" not in found]
    assert all(found["agrees"] and found["difference"] < run.SEEN for found in agreeing)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_shows_the_programs_and_the_table_as_they_are(path):
    assert pages.page_text(path, MEASURED) == path.read_text(), 'python tests/beside/run.py --only ""'


def test_every_tool_has_a_page_and_every_program_is_shown():
    shown = {name for path in PAGES for name in re.findall(r"<!-- program: (\w+) -->", path.read_text())}
    assert shown == set(TOOLS) and {tool.page for tool in TOOLS.values()} == {path.name for path in PAGES}


def test_the_dictionaries_name_what_there_is():
    text = "".join(path.read_text() for path in PAGES)
    for name in set(re.findall(r"\bnv\.([\w.]*\w)", text)):
        assert attrgetter(name)(nv) is not None
    for site in set(re.findall(r"\bsite=\"([^\"]+)\"", text)):
        assert nv.Residual("image", site=site).site == site
    for reduce in set(re.findall(r"\breduce=\"([^\"]+)\"", text)):
        assert nv.Attention("last", "image", reduce=reduce).reduce == reduce
    with pytest.raises(nv.SpecError):
        nv.Residual("image", site="neurons")
