"""Every measured number on a page lies in a committed file, every file's on its page, and what made it can be run.

Rows that are "from the page" were copied from it when docs/measured was introduced. There the comparison only says that
page and file do not part. That the numbers are right, only their command can show.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import command_page
import frame_cells
import measured
import pandas as pd
import pytest
from page_tables import Table, markdown, tables, without_tables

from nnsight_vlm import versions

ROOT = Path(__file__).parent.parent
FILES = measured.files()
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "nnsight_vlm" / "shapes").rglob("*.md")]
NAMES = sorted(str(page.relative_to(ROOT)) for page in PAGES)
HELD_ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/scale.md": "tests/test_manual.py",
    "docs/families.md": "tests/test_family_docs.py",
    "docs/command-line.md": "tests/test_command_page.py",
    **dict.fromkeys((name for name in NAMES if name.startswith("docs/coming-from/")), "tests/test_beside.py"),
}
"""Pages whose tables another test compares with what they are made of."""
RANGES = ["", "from", "to"]
"""The head of the table of versions, which is compared below with nnsight_vlm/versions.py."""
ASIDE = re.compile(r"\[[^\]]*\]\([^)\s]*\)|`[^`]*`")
"""Links and code, which are full of numbers that nobody measured."""
NUMBER = re.compile(r"(?<![\w.])(?<!\w-)-?\d+\.\d+(?![\w.]*\w)|\[[^\]]*\d, [^\]]*\]")
"""What makes a table one of measurements: a decimal number, not of a name such as Qwen2.5, or an interval."""
END = r"-?[\d.]+"
INTERVAL = re.compile(
    rf"-?\d+(?:\.\d+)?(?: (?:%|[a-z]+))? (?:\[{END}, {END}\]|\({END}(?:,| to) {END}\))"
    r"|\d+\.\d+, \d+\.\d+ to \d+\.\d+"
)
"""A number with its interval in a sentence."""


def kept_cells(file):
    return " ".join(cell for table in file["tables"] for row in table["rows"] for cell in row)


def kept_numbers(file):
    """What a file holds of the sentences of its page."""
    return file["text"]["numbers"] if "text" in file else []


def parts(file):
    """A file's tables, and what it holds of sentences."""
    return [*file["tables"], *([file["text"]] if "text" in file else [])]


def shows_measurements(table):
    return any(NUMBER.search(ASIDE.sub("", cell)) for row in table.rows for cell in row)


def page_of(file):
    return (ROOT / file["page"]).read_text()


# pages and files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_table_of_measurements_of_a_page_is_in_its_file(name):
    kept = [table for file in FILES.values() if file["page"] == name for table in measured.kept_tables(file)]
    shown = [table for table in tables((ROOT / name).read_text()) if table.head != RANGES]
    missing = [table.head for table in shown if shows_measurements(table) and table not in kept]
    assert missing == [] or (ROOT / HELD_ELSEWHERE[name]).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_every_interval_in_a_sentence_is_in_a_file(name):
    kept = " ".join(kept_cells(file) for file in FILES.values() if file["page"] in (name, "docs/claims.md"))
    numbers = [each for file in FILES.values() if file["page"] == name for each in kept_numbers(file)]
    found = INTERVAL.findall(without_tables((ROOT / name).read_text()))
    assert [each for each in found if each not in kept and each not in numbers] == []


@pytest.mark.parametrize("name", FILES)
def test_every_table_and_number_of_a_file_stands_on_its_page_in_this_order(name):
    text = page_of(FILES[name])
    assert measured.written(text, FILES[name]) == text, "python tests/measured.py writes the rows of the files"
    sentences = without_tables(text)
    assert [each for each in kept_numbers(FILES[name]) if each not in sentences] == []


def first_and_last(wanted):
    """The first version of `>=first,<end`, and the last one before the end, of as many numbers as the end has."""
    first, end = re.fullmatch(r">=([\d.]+),<([\d.]+)", wanted).groups()
    *before, number = map(int, end.split("."))
    return [first, ".".join(map(str, [*before, number - 1]))]


def test_the_ranges_of_versions_on_their_page_are_those_that_are_taken():
    (shown,) = [table for table in tables((ROOT / "docs" / "versions.md").read_text()) if table.head == RANGES]
    ranges = {"Python": versions.PYTHON, **versions.PACKAGES}
    assert shown.rows == [[name, *first_and_last(wanted)] for name, wanted in ranges.items()]


# files that scripts save ------------------------------------------------------------------------------------------


PAGE = "| a | b |\n| --- | --- |\n| x | 1.0 |\n\nwords\n\n| a | b |\n| --- | --- |\n| y | 2.0 |\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one file, of two tables with the same head, each of a command of its own."""
    kept = [
        {"made by": [f"python tests/some.py{option}"], "of": {}, "rows from": "the page", **table._asdict()}
        for option, table in zip(("", " --other"), tables(PAGE), strict=True)
    ]
    (tmp_path / "some.json").write_text(measured.spelled({"page": "some.md", "tables": kept}))
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    return tmp_path


def test_what_a_script_prints_takes_the_place_of_what_its_command_made_and_goes_into_the_page(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tests/some.py", "--other", "--save"])
    measured.save("some", "| a | b |\n|---|---|\n| z | 3.0 [2.0, 4.0] |\n")
    (file,) = measured.files().values()
    assert measured.written(PAGE, file) == PAGE.replace("| y | 2.0 |", "| z | 3.0 [2.0, 4.0] |")
    assert [table["rows from"] for table in file["tables"]] == ["the page", "the command"]
    assert [set(table["of"]) for table in file["tables"]] == [set(), {"versions"}]


@pytest.mark.parametrize(("argument", "head"), [("--samples 3", "| a | b |"), ("--other", "| a | c |")])
def test_what_no_file_has_is_not_saved(folder, monkeypatch, argument, head):
    monkeypatch.setattr("sys.argv", ["tests/some.py", *argument.split(), "--save"])
    before = (folder / "some.json").read_text()
    with pytest.raises(ValueError, match=r"no table of `python tests/some\.py --"):
        measured.save("some", f"{head}\n|---|---|\n| z | 3.0 |\n")
    assert (folder / "some.json").read_text() == before


def test_numbers_of_sentences_are_kept_by_their_command_alone(folder, monkeypatch):
    file = measured.files()["some.json"]
    file["text"] = {"made by": ["python tests/some.py"], "rows from": "the page", "numbers": ["1.0 [0.0, 2.0]"]}
    (folder / "some.json").write_text(measured.spelled(file))
    monkeypatch.setattr("sys.argv", ["tests/some.py", "--save"])
    measured.save("some", "", ["3.0 [2.0, 4.0]"])
    kept = measured.files()["some.json"]
    assert kept["text"] == {**file["text"], "rows from": "the command", "numbers": ["3.0 [2.0, 4.0]"]}
    assert kept["tables"] == file["tables"]
    monkeypatch.setattr("sys.argv", ["tests/some.py", "--other", "--save"])
    with pytest.raises(ValueError, match=r"no numbers of `python tests/some\.py --other`"):
        measured.save("some", "", ["5.0 [4.0, 6.0]"])


def test_what_is_told_is_kept_only_where_the_command_line_says_so(folder, monkeypatch, capsys):
    before = (folder / "some.json").read_text()
    table = "| a | b |\n|---|---|\n| z | 3.0 |\n"
    monkeypatch.setattr("sys.argv", ["tests/some.py"])
    measured.tell("some", table)
    assert capsys.readouterr().out == table + "\n"
    assert (folder / "some.json").read_text() == before
    monkeypatch.setattr("sys.argv", ["tests/some.py", "--save"])
    measured.tell("some", table)
    assert measured.files()["some.json"]["tables"][0]["rows"] == [["z", "3.0"]]


def test_a_script_in_a_folder_is_named_with_it(monkeypatch):
    monkeypatch.setattr("sys.argv", [str(ROOT / "tests" / "benchmarks" / "payload.py"), "--quick", "--save"])
    assert measured.command_given() == "python tests/benchmarks/payload.py --quick"


def test_cells_of_a_frame_are_rounded_and_have_no_negative_zero():
    rows = pd.DataFrame({"layer": [1, 2], "mean": [-0.004, 0.126], "low": [-0.5, 0.0], "high": [0.004, 1.0]})
    assert [frame_cells.estimate(frame_cells.only(rows, layer=layer)) for layer in (1, 2)] == [
        "0.00 [-0.50, 0.00]",
        "0.13 [0.00, 1.00]",
    ]
    with pytest.raises(LookupError, match="0 rows"):
        frame_cells.only(rows, layer=3)


def test_a_table_is_read_as_it_was_written():
    ours = Table(["a", "b"], [["x", ""], ["y", "2.0 [1.0, 3.0]"]])
    assert tables(markdown(*ours)) == [ours]


def test_a_page_without_a_table_of_its_file_is_refused(folder):
    (file,) = measured.files().values()
    with pytest.raises(ValueError, match=r"some\.md has no table"):
        measured.written("words alone\n", file)


# what made them -----------------------------------------------------------------------------------------------------

MADE = {
    f"{name}, {part['head'][0] if 'head' in part else 'text'}": part["made by"]
    for name, file in FILES.items()
    for part in parts(file)
}
COMMANDS = sorted({command for commands in MADE.values() for command in commands})


def test_everything_that_was_measured_has_a_command():
    assert [part for part, commands in MADE.items() if not commands] == []


def test_every_file_says_where_its_rows_are_from():
    assert {part["rows from"] for file in FILES.values() for part in parts(file)} <= {"the page", "the command"}


def options_of_script(path):
    """The options that a script's `add_argument` names."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    added = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    return {each.value for call in added for each in call.args if isinstance(each, ast.Constant)}


def script_of(words):
    """The file that a command of Python runs, and the words behind it."""
    if words[:2] == ["python", "-m"]:
        place = words[2].replace(".", "/") + ".py"
        return (ROOT if words[2].startswith("nnsight_vlm") else ROOT / "tests") / place, words[3:]
    return ROOT / words[1], words[2:]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_its_options_exist(command):
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    given = {word for word in words if word.startswith("--")}
    if words[0] == "nnsight-vlm":
        assert given <= set(command_page.options_of(command_page.commands()[words[1]]))
        return
    assert words[0] in ("python", "pytest")
    path, _ = script_of(words)
    assert path.is_file() and given <= (options_of_script(path) if words[0] == "python" else set())
