"""Every command, option and example that is documented exists, and every one that exists is documented."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import command_page
import pytest
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.commands import parser
from nnsight_vlm.commands.options import LAYERS, PARTS
from nnsight_vlm.report.arguments import parse_layers
from nnsight_vlm.report.chosen import NAMES
from nnsight_vlm.studies.registry import RECIPES

ROOT = Path(nv.__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "nnsight_vlm").rglob("*.md")]
CHANGES = "CHANGELOG.md"
"""Tells of options that were, too."""


def documented():
    """Every command line that a page or a help text shows, with the place where it stands."""
    for page in PAGES:
        if page.name == CHANGES:
            continue
        text = page.read_text()
        in_blocks = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        in_words = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        for line in [*in_blocks, *in_words]:
            for command in re.findall(r"(?:^|[\s/])(nnsight-vlm(?: [^|>;}]*)?)(?:$|[|>;}])", line.replace("->", "-")):
                yield page.name, command
    for name, command in command_page.commands().items():
        for line in (command.epilog or "").split("\n\n")[1:]:
            yield f"{name} --help", line.partition(" > ")[0]


@pytest.mark.parametrize(("place", "line"), sorted(set(documented())))
def test_what_is_documented_exists(place, line):
    words = shlex.split(line, comments=True)[1:]
    known = command_page.commands()
    if not words or words[0].startswith("-") or words[0].isupper():
        assert set(words) <= {"--help", "--version", "--install-completion", "--show-completion", "COMMAND", "-h"}
        return
    name, *rest = words
    assert name in known, f"{place}: {line}"
    command = known[name]
    if name == "run":
        recipe = next((word for word in rest if not word.startswith("-")), "RECIPE")
        assert recipe.replace("-", "_") in RECIPES or recipe == "RECIPE", f"{place}: {line}"
        command = command_page.recipe_command(command_page.EXAMPLE if recipe == "RECIPE" else recipe)
    options = command_page.options_of(command)
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= {*options, "--help"}, f"{place}: {line}"


def test_the_pages_show_commands_at_all():
    shown = {line for _, line in documented()}
    assert len(shown) > 30 and any(line.startswith("nnsight-vlm run") for line in shown)


def test_the_page_is_what_the_commands_say():
    assert command_page.written() in command_page.PAGE.read_text(), "write it anew: python tests/command_page.py"


def test_every_command_shows_examples_and_fits_into_80_columns():
    for name, command in command_page.commands().items():
        assert (command.epilog or "").startswith("Examples:\n\nnnsight-vlm "), name
        said = CliRunner().invoke(app, [name, "-h"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
        assert said.exit_code == 0 and max(map(len, said.stdout.splitlines())) <= 80
        assert "Examples:" in said.stdout
        assert all(option.help for option in command.params if option.name != "help"), name


@pytest.mark.parametrize("name", RECIPES)
def test_examples_of_a_recipe_give_every_option_that_it_needs(name):
    command = command_page.recipe_command(name)
    needed = {option.opts[0] for option in command.params if option.required and option.opts[0].startswith("--")}
    lines = command.epilog.split("\n\n")[1:]
    assert "--items" in needed and len(lines) == 3
    assert all(needed <= set(line.split()) for line in lines), (needed, lines)


def test_layers_are_written_as_the_help_says():
    for spelled in ("-1", "1,2,5", "3:7", "0.25:0.75", "attention", "all"):
        assert spelled in LAYERS
        parse_layers(spelled)
    table = command_page.PAGE.read_text().partition("## Layers")[2].partition("\n\nThe tables")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) >= 6
    for written, _, python in rows:
        values = [eval(code.removeprefix("layers="), {"nv": nv}) for code in re.findall("`([^`]+)`", python)]
        parsed = [parse_layers(code) for code in re.findall("`([^`]+)`", written)]
        assert [list(each) if isinstance(each, tuple) else each for each in parsed] == (
            [nv.depth(0, 1), "all"] if "all" in values else values
        )


def test_the_help_of_a_report_names_all_of_its_parts():
    assert PARTS == NAMES
    said = command_page.options_of(command_page.commands()["report"])["--only"].help
    assert set(NAMES) <= set(re.findall(r"\w+", said))


@pytest.mark.parametrize("name", ["knockout_windows", "query_patching"])
def test_the_table_in_the_help_of_a_recipe_is_one_that_it_takes(name, tmp_path):
    *_, header, row = parser.table_of(RECIPES[name])
    table, of_two = tmp_path / "questions.csv", name == "query_patching"
    table.write_text(f"{header}\n{row}\n")
    (tmp_path / "photos").mkdir()
    for number, file in enumerate(("ring", "other")):
        nv.shapes.scene(number).image.save(tmp_path / "photos" / f"{file}.png")
    read = nv.items(str(table))
    assert read.has_answers and read.has_pairs == of_two
    [item] = read
    assert item.answer == "purple" and item.question == "what color is the ring?"
    assert item.images[0].size == nv.shapes.scene(0).image.size
