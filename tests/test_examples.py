"""The example scripts: cells that open as a notebook, one for each recipe, names that exist.

They run where the site is built, as its gallery (docs/conf.py).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import nnsight_vlm as nv
from nnsight_vlm.studies.registry import RECIPES

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = {path.relative_to(EXAMPLES).as_posix(): path for path in sorted(EXAMPLES.rglob("*.py"))}
FOLDERS = ("whats_in_the_image", "other_papers", "your_own")
CELL = re.compile(r"^# %%(?P<kind>.*)$", re.MULTILINE)
TITLE = re.compile(r"\A\n(?P<title>[^\n]+)\n(?P<line>=+)\n\n\*\*Question\.\*\* .+\n\n\*\*Method\.\*\* ", re.DOTALL)


def cells(text):
    """The cells behind the docstring, each as its kind and its source."""
    marks = list(CELL.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark["kind"].strip(), text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]


def names_of(tree):
    """Every name that is reached from the package: `nv.recipes.heads` is `recipes.heads`."""
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts, inner = [inner.attr, *parts], inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == "nv":
            yield parts


def test_the_examples_lie_in_their_folders_and_each_folder_says_what_it_holds():
    assert {name.partition("/")[0] for name in SCRIPTS} == set(FOLDERS) and len(SCRIPTS) > len(RECIPES)
    assert all((EXAMPLES / folder / "README.rst").read_text().strip() for folder in ("", *FOLDERS))


def test_every_recipe_has_an_example_of_its_name_that_calls_it():
    for name in RECIPES:
        (path,) = (path for path in SCRIPTS.values() if path.stem == name)
        assert ["recipes", name] in list(names_of(ast.parse(path.read_text()))), name
        assert all(f"https://arxiv.org/abs/{paper.arxiv}" in path.read_text() for paper in RECIPES[name].papers[:1]), (
            name
        )


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_opens_with_its_question_and_ends_with_what_it_does_not_show(name):
    text = SCRIPTS[name].read_text()
    opening = TITLE.match(ast.get_docstring(ast.parse(text), clean=False))
    assert opening and len(opening["line"]) == len(opening["title"])
    headings = re.findall(r"^# (.+)\n# (-+)$", text, re.MULTILINE)
    assert all(len(title) == len(line) for title, line in headings)
    titles = [title for title, _ in headings]
    assert "How to read it" in titles and titles[-1] == "What it does not show"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_cell_is_either_text_or_code(name):
    found = cells(SCRIPTS[name].read_text())
    assert len(found) >= 4 and {kind for kind, _ in found} == {"", "[markdown]"}
    for kind, source in found:
        lines = [line for line in source.splitlines() if line.strip()]
        assert lines and (kind == "" or all(line.startswith("#") for line in lines))
        assert kind or ast.parse(source).body, "a code cell that has only comments would be text in the gallery"


@pytest.mark.parametrize("name", SCRIPTS)
def test_texts_are_read_alike_as_markdown_and_as_restructuredtext(name):
    texts = "".join(source for kind, source in cells(SCRIPTS[name].read_text()) if kind)
    code = re.findall(r"``[^`\n]+``", texts)
    assert "`" not in re.sub(r"``[^`\n]+``", "", texts) and (code or "``" not in texts)
    assert not re.search(r"\]\(|:\w+:`|^# \.\. |_`", texts, re.MULTILINE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_name_of_the_package_that_an_example_uses_exists(name):
    for parts in names_of(ast.parse(SCRIPTS[name].read_text())):
        found = nv
        for part in parts:
            if isinstance(found, type) or callable(found):
                break
            found = getattr(found, part)
