"""Every recipe is registered, follows a paper, and has a figure and a page with code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm import plots
from nnsight_vlm.cli import app
from nnsight_vlm.commands.listing import recipes_markdown
from nnsight_vlm.studies.registry import RECIPES

PAGES = Path(__file__).parent.parent / "docs" / "recipes"
PUBLIC = [
    name
    for name in nv.recipes.__all__
    if inspect.isfunction(function := getattr(nv.recipes, name)) and "remote" in inspect.signature(function).parameters
]


def blocks(page):
    """The Python of a page, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def test_every_public_recipe_is_registered_and_every_registered_one_is_public():
    assert set(PUBLIC) == set(RECIPES) and len(PUBLIC) >= 6
    for name in PUBLIC:
        assert RECIPES[name].papers and RECIPES[name].function is getattr(nv.recipes, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_recipe_has_a_figure(name):
    assert name in plots.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_recipe_has_a_page_that_says_what_it_is(name):
    page, entry = (PAGES / f"{name}.md").read_text(), RECIPES[name]
    sections = (
        "# " + name,
        "**Asks:**",
        "## Method and paper",
        "## Code",
        "## How to read it",
        "## What it cannot show",
    )
    assert [each for each in sections if f"\n{each}" not in f"\n{page}"] == []
    assert f"nv.plots.{name}(" in blocks(PAGES / f"{name}.md"), "a figure that the page's code draws"
    assert all(paper.arxiv in page for paper in entry.papers)


def of_pairs():
    """The recipes that compare two pictures in every row."""
    taken = {name: inspect.signature(getattr(nv.recipes, name)).parameters for name in PUBLIC}
    return [name for name in PUBLIC if "pairs" in taken[name] and "prompts" not in taken[name]]


def test_what_recipes_of_pairs_take_is_said_where_they_are_met():
    """On their pages, in their help and where tables are explained."""
    about = (PAGES.parent / "items.md").read_text()
    [row] = [line for line in about.splitlines() if line.startswith("| `other_image`, `other_answer` | for recipes")]
    assert len(of_pairs()) >= 5 and [name for name in of_pairs() if f"`{name}`" not in row] == []
    for name in of_pairs():
        page = " ".join((PAGES / f"{name}.md").read_text().split())
        assert "columns `image, other_image, question, answer, other_answer`" in page
        assert "pairs=[(prompt, other prompt, answer, other answer), ...]" in page
        help_text = " ".join(re.sub("[│╭╮╰╯─]", " ", CliRunner().invoke(app, ["run", name, "--help"]).output).split())
        assert "may begin so, each row with two pictures; paths" in help_text
        assert help_text.count("other_image,other_answer") == help_text.count("other_image") == 1
    plain = CliRunner().invoke(app, ["run", "knockout_windows", "--help"]).output
    assert "two pictures" not in plain and "other_image" not in plain


def test_pages_and_examples_use_public_names_alone():
    pages = [*PAGES.glob("*.md"), *(PAGES.parent.parent / "examples").rglob("*.py")]
    assert [page.name for page in pages if "report.study" in page.read_text()] == []


@pytest.mark.parametrize("name", [*PUBLIC, "README"])
def test_the_code_of_a_page_is_python_that_makes_a_frame(name):
    """The build of the site runs it, and looks at the frame: docs/extensions/recipe_frames.py."""
    statements = ast.parse(blocks(PAGES / f"{name}.md")).body
    made = [each.targets[0] for each in statements if isinstance(each, ast.Assign)]
    assert any(isinstance(each, ast.Name) and each.id == "frame" for each in made)


def test_the_index_lists_every_recipe():
    assert recipes_markdown() in (PAGES / "README.md").read_text(), "nnsight-vlm recipes --markdown"
    assert {path.stem for path in PAGES.glob("*.md")} >= {*PUBLIC, "README"}
