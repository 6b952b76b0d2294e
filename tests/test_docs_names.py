"""Every public name is documented, and every name, import and option that is documented exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import command_page
import documented
import pytest
from extensions.public_names import LIST, public_names

from nnsight_vlm import errors
from nnsight_vlm.studies.registry import RECIPES

REFERENCE = documented.DOCS / "reference"
NOT_OURS = ("--help",)
"""Options that every command has."""
SCRIPT = re.compile(r"python (?:-m pytest )?((?:tests|examples|nnsight_vlm)/[\w/.-]+\.py)")
OF_OTHERS = re.compile(r"^(pip|sphinx-build|npm|apt|git|python3\.11 -m (venv|build)|redis|docker|ndif|conda)")
"""Commands whose options are their own."""


def listed() -> list[str]:
    """The names that the pages of the reference list."""
    found = []
    for page in sorted(REFERENCE.glob("*.md")):
        for space, names in LIST.findall(page.read_text()):
            found += [f"{space}.{name}" if space else name for name in names.split()]
    return found


@pytest.mark.parametrize("page", sorted(path.stem for path in REFERENCE.glob("*.md") if LIST.search(path.read_text())))
def test_a_page_of_the_reference_says_where_docstrings_are_to_who_reads_it_as_a_file(page):
    (name,) = re.findall(r"`help\(nv\.([\w.]+)\)`", (REFERENCE / f"{page}.md").read_text())
    assert name in public_names()


@pytest.mark.parametrize("name", sorted(public_names()))
def test_a_public_name_says_what_it_is(name):
    public = public_names()[name]
    assert public.summary.rstrip().endswith((".", ":", "?")), (
        f"{public.home} must say what {name} is: {public.summary!r}"
    )
    assert not (public.kind == "class" and public.said.startswith(f"{name.rpartition('.')[2]}(")), (
        "no docstring of its own"
    )


def test_every_public_name_stands_in_the_reference_once():
    assert Counter(listed()) == Counter(public_names().keys()), "write it into docs/reference, or take it out"


def test_every_error_is_explained():
    raised = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and name != "Worded"
    }
    page = documented.DOCS / "errors.md"
    page = page if page.exists() else REFERENCE / "errors.md"
    text = page.read_text()
    assert len(raised) >= 5
    assert all(re.search(rf"^#+ .*\b{name}\b|^{name}$", text, re.MULTILINE) for name in raised), "## NameOfTheError"


# what is documented exists --------------------------------------------------------------------------------


def pieces():
    """Python of pages that can be parsed, and the expressions in code marks."""
    for piece in documented.programs():
        yield piece._replace(code=piece.code.replace("%matplotlib", "# %matplotlib"))
    for page in documented.pages():
        if page.name != "CHANGELOG.md":  # tells of what was
            for line, words in documented.words(page):
                if words.startswith(("nv.", "nnsight_vlm.", "import ", "from ")) and "<" not in words:
                    yield documented.Piece(documented.called(page), line, words)


def faults(tree: ast.AST):
    """Names of the package that a program uses and that do not exist, and arguments that no function takes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nnsight_vlm":
            module = importlib.import_module(node.module)
            yield from (
                f"from {node.module} import {each.name}" for each in node.names if not hasattr(module, each.name)
            )
        if isinstance(node, ast.Attribute) and (names := documented.chain(node))[:1] == ["nv"]:
            try:
                documented.value_of(names)
            except AttributeError as error:
                yield str(error)
        if isinstance(node, ast.Call) and (names := documented.chain(node.func))[:1] == ["nv"] and len(names) > 1:
            try:
                taken = inspect.signature(documented.value_of(names)).parameters
            except (AttributeError, TypeError, ValueError):
                continue
            if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
                given = {each.arg for each in node.keywords if each.arg}
                yield from (f"{'.'.join(names)}({name}=...)" for name in sorted(given - set(taken)))


def test_every_name_and_argument_that_is_documented_exists():
    found, parsed, unread = [], 0, []
    for piece in pieces():
        code = piece.code.replace("nnsight_vlm.", "nv.") if piece.code.startswith("nnsight_vlm.") else piece.code
        try:
            tree = ast.parse(code)
        except SyntaxError:
            unread.append(piece)
            continue
        parsed += 1
        found += [f"{piece.page}:{piece.line}: {fault}" for fault in faults(tree)]
    assert found == []
    assert parsed > 300 and len(unread) < parsed / 20, unread


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("nv.nothing(1)", "nothing"),
        ("nv.recipes.nothing", "nothing"),
        ("nv.Knockout('a', 'b', lyers=3)", "lyers"),
        ("from nnsight_vlm.recipes import nothing", "nothing"),
    ],
)
def test_a_name_that_does_not_exist_is_found(code, fault):
    assert any(fault in each for each in faults(ast.parse(code)))


def options_of_scripts() -> set[str]:
    """Options that the scripts beside the package define."""
    scripts = [*(documented.ROOT / "tests").rglob("*.py"), *(documented.ROOT / "examples").rglob("*.py")]
    scripts += [documented.ROOT / "nnsight_vlm" / "shapes" / name for name in ("train.py", "evaluate.py")]
    scripts += (documented.ROOT / "nnsight_vlm" / "shapes" / "smol").glob("*.py")
    texts = [path.read_text() for path in scripts if "site-packages" not in path.parts]
    return {option for text in texts for option in re.findall(r"add_?(?:option|argument)\(\s*\"(--[\w-]+)", text)}


def test_every_option_that_is_named_exists():
    known = {spelled for command in command_page.commands().values() for spelled in command_page.options_of(command)}
    known |= {spelled for name in RECIPES for spelled in command_page.options_of(command_page.recipe_command(name))}
    known |= {*options_of_scripts(), *NOT_OURS, "--version", "--install-completion", "--show-completion", "--debug"}
    named = []
    for page in documented.pages():
        if page.name != "CHANGELOG.md":
            found = [words for _, words in documented.words(page) if not OF_OTHERS.match(words)]
            options = re.findall(r"(?<![\w-])--[a-z][\w-]+", " ".join(found))
            named += [(documented.called(page), option) for option in options]
    assert [each for each in named if each[1] not in known] == [] and len(named) > 20


def test_every_script_that_is_named_exists():
    for page in documented.pages():
        if page.name == "CHANGELOG.md":
            continue
        for script in SCRIPT.findall(page.read_text()):
            assert (documented.ROOT / script).exists(), f"{page.name}: {script}"


def test_code_that_no_build_runs_says_why():
    reasons = {
        (Path(documented.called(page)).name, block.why_not)
        for page in documented.pages()
        for block in documented.blocks(page.read_text())
        if block.is_python and not block.is_doctest and block.why_not
    }
    assert all(len(why.split()) > 3 for _, why in reasons)
    assert {page for page, _ in reasons} <= NOT_RUN, "a page's code runs when the site is built; write it for `shapes`"


NOT_RUN = {"adding-a-family.md", "intervals.md", "opening.md", "remote.md", "videos.md", "README.md"}
NOT_RUN |= {"nnterp.md", "pyvene.md", "transformerlens.md"}
"""Pages with code that needs a server, a model of the hub, files of one's own, or another tool's environment."""
