"""README.md: its code runs, its lists and numbers are those of the registry and measurements, its pictures are new."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import command_page
import pytest

from nnsight_vlm.commands.listing import known_recipes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PICTURES = ROOT / "docs" / "pictures"
ONE_ANSWER = 0.1
"""More than what one answer of thirteen is, and less than two: rounding may turn one."""
FORWARDS = {
    "12 knockout windows": "windows-576",
    "a knockout in all layers": "all-layers",
    "attention of all query tokens": "share-576",
}
TOOLS = ("ours", "hooks", "nnsight", "transformer_lens", "vlmprobe")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(first):
    """The cells of the table whose heading begins with this cell."""
    (table,) = re.findall(rf"^\| {first} \|.*\n\| ---.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]


def test_it_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 180


def test_its_code_runs_and_is_fifteen_lines(tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), space := {"__name__": "readme"})
    assert "Proof(" in capsys.readouterr().out and (tmp_path / "layers.png").stat().st_size
    rows = space["frame"].set_index("layers")
    lead = rows["logit_diff"] / rows["clean_logit_diff"]  # what the page says of the figure
    assert lead.idxmin() == "4:7" and lead.min() < 0.1 and lead["0:3"] > 0.95


def test_the_figure_on_the_first_page_of_the_site_is_no_flat_line():
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, "index.md", "exec"), space := {"__name__": "index"})
    lead = space["frame"]["logit_diff"] / space["frame"]["clean_logit_diff"]
    assert lead.idxmin() == 4 and lead.min() < 0.1 and lead[0] > 0.95


def test_its_first_command_is_the_report_and_its_second_the_tests():
    start, tests = blocks("bash")[:2]
    assert start.strip().endswith("nnsight-vlm report") and tests.strip().endswith("-m pytest")
    assert all("pip install -q -c constraints.txt" in command for command in (start, tests))


@pytest.mark.parametrize("line", [line for block in blocks("bash")[2:] for line in block.splitlines()])
def test_its_commands_and_their_options_exist(line):
    word, name, *given = shlex.split(line)
    command = command_page.recipe_command(given[0]) if name == "run" else command_page.commands()[name]
    options = {word for word in given if word.startswith("--")}
    assert word == ".venv/bin/nnsight-vlm" and options <= set(command_page.options_of(command))


def test_it_lists_every_recipe_with_its_question():
    expected = [[f"[`{entry.name}`](docs/recipes/{entry.name}.md)", entry.asks] for entry in known_recipes()]
    assert rows("recipe") == expected
    assert f"{len(expected)} published analyses" in README.replace("\n", " ")


def test_its_claims_are_those_of_the_page_of_the_claims():
    page = (ROOT / "docs" / "claims.md").read_text()
    for claim, measured, *_ in rows("claim"):
        numbers = measured.removesuffix(" nats")
        assert re.search(rf"^\| {re.escape(claim)}( \(nats\))? \|.* {re.escape(numbers)} ", page, re.MULTILINE), claim
    assert "0.85 [0.72, 0.96]" in README and "0.85 [0.72, 0.96]" in page


def test_its_comparison_is_the_committed_measurement():
    measured = json.loads((ROOT / "tests" / "benchmarks" / "baseline.json").read_text())["forwards"]
    found = {name: numbers for name, *numbers in rows("forwards")}
    assert found == {name: [f"{measured[key][tool]:.1f}" for tool in TOOLS] for name, key in FORWARDS.items()}


def test_its_pictures_show_what_the_model_gives():
    kept, made = json.loads((PICTURES / "shown.json").read_text()), runpy.run_path(str(PICTURES / "make.py"))
    fresh, again = made["shown"](), "make them again: python docs/pictures/make.py"
    assert fresh["answers"] == kept["answers"], again
    assert fresh["curve"].keys() == kept["curve"].keys()
    for source, numbers in kept["curve"].items():
        assert [line[0] for line in fresh["curve"][source]] == pytest.approx(
            [line[0] for line in numbers], abs=ONE_ANSWER
        ), again


def test_its_pictures_are_there_in_light_and_dark_and_small():
    named = set(re.findall(r"docs/pictures/[a-z-]+\.png", README))
    assert named == {
        f"docs/pictures/{name}-{scheme}.png" for name in ("view", "knockout") for scheme in ("light", "dark")
    }
    assert all((ROOT / name).stat().st_size < 100_000 for name in named)
