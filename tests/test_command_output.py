"""What commands print and how they end: JSON, silence, standard output, exit codes, errors and their traceback."""

from __future__ import annotations

import io
import json
import warnings

import pandas as pd
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.commands import runs
from nnsight_vlm.commands.family_list import LEGEND
from nnsight_vlm.commands.output import plain
from nnsight_vlm.commands.working import working
from nnsight_vlm.families import FAMILIES
from nnsight_vlm.families.support import COLUMNS, cells_of, support
from nnsight_vlm.report.single import CutAnswers, GroundedAnswer
from nnsight_vlm.studies.journal import Journal
from nnsight_vlm.studies.registry import RECIPES

RECIPE = ["run", "attention_share", "--max-new-tokens", "2"]


def ask(*arguments, code=0, **more):
    """What a command printed that ended with a code."""
    done = CliRunner().invoke(app, list(map(str, arguments)), **more)
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture
def table(monkeypatch, model, tmp_path):
    """Two questions about a picture; the model is loaded already."""
    monkeypatch.setattr(runs, "load_by_name", lambda *_: model)
    nv.shapes.scene(3).image.save(tmp_path / "3.png")
    path = tmp_path / "table.csv"
    path.write_text("image,question\n3.png,what color is the square ?\n3.png,what color is the ring ?\n")
    return path


# what there is ------------------------------------------------------------------------------------------


def test_the_list_of_families_can_be_read_at_80_columns(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=80))
    printed = ask("families").stdout
    lines = printed.splitlines()
    assert " ".join(LEGEND) in " ".join(printed.split())
    assert max(map(len, lines)) <= 80
    rows, family = {}, ""
    for line in lines:
        if line.startswith("│"):
            name, _, no, part, untested = (cell.strip() for cell in line.strip("│").split("│"))
            family = name or family
            rows.setdefault(family, ["", "", ""])
            more = no, part, untested
            rows[family] = [f"{before} {each}".strip() for before, each in zip(rows[family], more, strict=True)]
    assert set(rows) == set(FAMILIES)
    for name, (no, part, untested) in rows.items():
        expected = {"no": no, "in part": part, "yes": None}
        cells = cells_of(FAMILIES[name])
        assert untested == ", ".join(heading for heading, cell in cells.items() if cell.status in ("loads", "untried"))
        for works, words in expected.items():
            if words is not None:
                assert words == ", ".join(heading for heading, cell in cells.items() if cell.works == works)


def test_one_family_is_shown_with_all_reasons(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=20_000))
    printed = ask("families", "chameleon").stdout
    for heading, cell in cells_of(FAMILIES["chameleon"]).items():
        [line] = [line for line in printed.splitlines() if line.startswith(f"│ {heading} ")]
        assert [each.strip() for each in line.strip("│").split("│")] == [
            *(heading, cell.works, cell.status, "; ".join(cell.missing))
        ]
    narrow = Console(width=80)
    monkeypatch.setattr("nnsight_vlm.commands.output.console", narrow)
    assert max(map(len, ask("families", "chameleon").stdout.splitlines())) <= 80


def test_a_model_type_stands_for_its_families_and_a_wrong_name_is_answered_with_like_ones():
    named = json.loads(ask("families", "blip-2", "--json").stdout)
    assert [each["family"] for each in named] == [
        family.name for family in FAMILIES.values() if family.model_type == "blip-2"
    ]
    assert "no family 'lava': write for example llava" in ask("families", "lava", code=2).stderr


def test_the_lists_as_json_are_the_lists():
    facts = json.loads(ask("families", "--json").stdout)
    table, _ = support(FAMILIES.values())
    assert [each["family"] for each in facts] == table["family"].tolist()
    for each, (_, row) in zip(facts, table.iterrows(), strict=True):
        assert list(each["works"]) == list(COLUMNS)
        for heading, works in each["works"].items():
            assert row[heading].split(" [")[0] == each["status"][heading]
            assert (each["status"][heading] == "broken") == (works == "no")
            assert row[heading].count("[") == len(each["missing"].get(heading, []))
    known = json.loads(ask("recipes", "--json").stdout)
    assert {each["recipe"]: each["asks"] for each in known} == {name: entry.asks for name, entry in RECIPES.items()}
    assert all(each["papers"][0]["arxiv"] for each in known)


# what was done ------------------------------------------------------------------------------------------


def test_a_run_as_json_says_what_was_written_and_nothing_else_is_printed(table, tmp_path, monkeypatch):
    measured = runs._measured

    def noisy(*arguments, **given):
        print("a library talks")
        return measured(*arguments, **given)

    monkeypatch.setattr(runs, "_measured", noisy)
    out = tmp_path / "out"
    done = ask(*RECIPE, "--items", table, "--out", out, "--json")
    facts = json.loads(done.stdout)
    assert "a library talks" in done.stderr
    frame = pd.read_parquet(out / "frame.parquet")
    assert facts["rows"] == len(frame) and facts["columns"] == list(frame.columns) and facts["prompts"] == 2
    assert facts["files"] == [str(out / name) for name in ("frame.csv", "frame.parquet", "figure.png", "cite.txt")]
    assert all((out / name.rpartition("/")[2]).is_file() for name in facts["files"])
    assert facts["citation"] + "\n" == (out / "cite.txt").read_text() and facts["no_figure"] is None


def test_a_run_prints_its_first_numbers_and_leaves_the_paragraph_to_its_file(table, tmp_path, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=20_000))
    out = tmp_path / "out"
    printed = ask(*RECIPE, "--items", table, "--out", out).stdout
    frame = pd.read_parquet(out / "frame.parquet")
    assert [f"{value:.3f}" in printed for value in frame["mean"].head(3)] == [True] * 3
    assert sum(line.startswith("│") for line in printed.splitlines()) == 3
    assert f"\n{len(frame) - 3} more rows in frame.csv.\n" in printed
    assert (out / "cite.txt").read_text().partition("\n")[0] not in printed and "cite.txt describes" in printed


def test_a_run_onto_standard_output_is_the_csv_of_its_folder(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask(*RECIPE, "--items", table, "--out", "out")
    before = set(tmp_path.iterdir())
    printed = ask(*RECIPE, "--items", table, "--out", "-")
    assert printed.stdout == (tmp_path / "out" / "frame.csv").read_text() and set(tmp_path.iterdir()) == before
    for option in ("--json", "--fresh"):
        said = ask(*RECIPE, "--items", table, "--out", "-", option, code=2)
        assert not said.stdout and f"leave out {option}, or name a folder" in said.stderr


def test_what_is_left_out_of_a_printed_frame_is_told_beside_it(table):
    table.write_text(table.read_text() + "no.png,what ?\n")
    done = ask(*RECIPE, "--items", table, "--out", "-", "--leave-out")
    assert "Left out: 2 (" in done.stderr and "Left out" not in done.stdout
    assert pd.read_csv(io.StringIO(done.stdout))["images"].max() == 1


def test_a_quiet_run_prints_nothing_and_writes_the_same(table, tmp_path):
    ask(*RECIPE, "--items", table, "--out", tmp_path / "loud")
    done = ask(*RECIPE, "--items", table, "--out", tmp_path / "still", "-q")
    assert done.output == ""
    for name in ("frame.csv", "cite.txt"):
        assert (tmp_path / "still" / name).read_text() == (tmp_path / "loud" / name).read_text()


def test_a_quiet_command_shows_no_bar_of_transformers_and_leaves_the_bars_as_they_were(monkeypatch, tmp_path):
    from transformers.utils import logging

    seen = []

    def grounded(*_, **__):
        seen.append(logging.is_progress_bar_enabled())
        return GroundedAnswer("a ring", pd.DataFrame({"word": ["ring"], "peak x": [1.5]}))

    monkeypatch.setattr("nnsight_vlm.report.single.ground_one", grounded)
    nv.shapes.scene(3).image.save(tmp_path / "3.png")
    common = ["ground", tmp_path / "3.png", "what ?", "--out", tmp_path / "out.png"]
    assert ask(*common, "--quiet").output == ""
    assert json.loads(ask(*common, "--quiet", "--json").stdout)["peaks"] == [{"word": "ring", "peak x": 1.5}]
    assert "a ring" in ask(*common).stdout
    assert seen == [False, False, True] and logging.is_progress_bar_enabled()


def test_one_picture_as_json(monkeypatch, tmp_path):
    scores = pd.DataFrame({"layers": ["0:3"], "logprob_change": [float("nan")]})
    monkeypatch.setattr("nnsight_vlm.report.single.knockout_one", lambda *_, **__: CutAnswers({"cut": "\x1b"}, scores))
    nv.shapes.scene(3).image.save(tmp_path / "3.png")
    printed = ask("knockout", tmp_path / "3.png", "what ?", "--out", tmp_path / "out.png", "--json").stdout
    assert json.loads(printed) == {
        "texts": {"cut": "\x1b"},
        "scores": [{"layers": "0:3", "logprob_change": None}],
        "files": [str(tmp_path / "out.png")],
    }
    assert "\x1b" not in printed and printed.isascii()


def test_facts_hold_what_json_has():
    frame = pd.DataFrame({"layer": [1], "mean": [float("inf")]})
    assert plain({1: frame, "b": (frame["layer"].iloc[0], None, True)}) == {
        "1": [{"layer": 1, "mean": None}],
        "b": [1, None, True],
    }


# how commands end ---------------------------------------------------------------------------------------

ENDINGS = [
    (nv.SpecError("write this"), 2, "error: write this"),
    (nv.InterventionError("did not hold"), 1, "error: did not hold"),
    (nv.RemoteError("no answer"), 1, "error: no answer"),
    (OSError(28, "No space left"), 1, "No space left"),
    (MemoryError(), 1, "error: MemoryError"),
    (ModuleNotFoundError("No module named 'x'"), 1, "No module named 'x'; nnsight-vlm doctor says"),
    (KeyError("place"), 1, "error: KeyError: 'place'\nThis is a bug"),
    (KeyboardInterrupt(), 130, "error: interrupted"),
]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(("error", "code", "words"), ENDINGS, ids=[type(error).__name__ for error, *_ in ENDINGS])
def test_errors_end_in_words_with_their_code_and_a_traceback_for_those_who_ask(error, code, words, debug, monkeypatch):
    def where_it_happens(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", where_it_happens)
    monkeypatch.setattr("nnsight_vlm.report.writing.check_model_name", where_it_happens)
    done = ask("report", *(["--debug"] if debug else []), code=code)
    assert words in done.stderr and not done.stdout
    is_traced = debug and not isinstance(error, KeyboardInterrupt)
    assert ("Traceback" in done.stderr) == ("where_it_happens" in done.stderr) == is_traced


def test_a_text_in_a_traceback_does_not_act_on_the_terminal():
    tiny = typer.Typer()

    @tiny.command()
    def fail() -> None:
        with working(debug=True):
            raise KeyError("\x1b[31m")

    done = CliRunner().invoke(tiny, [])
    assert done.exit_code == 1 and "\x1b" not in done.stderr and "Traceback" in done.stderr


@pytest.mark.filterwarnings("default")
def test_a_warning_is_said_in_words_without_the_place_in_the_code(capsys):
    with working():
        warnings.warn("few pictures: \x1b[31m", stacklevel=1)
    assert capsys.readouterr().err == "warning: few pictures: \\x1b[31m\n"
    assert warnings.showwarning.__module__ != "nnsight_vlm.commands.working"


FILES = {"ground": "ground.png", "knockout": "knockout.png", "view": "view.html"}
"""The commands that write one file, and how it is called where nobody says."""


@pytest.fixture
def photo(tmp_path, monkeypatch, model):
    """A photograph in the folder in which commands run; the model is loaded already."""
    monkeypatch.chdir(tmp_path)
    for module in ("single", "config"):
        monkeypatch.setattr(f"nnsight_vlm.report.{module}.load_by_name", lambda *_: model)
    nv.shapes.scene(3).image.save("photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_is_there_is_kept_and_the_next_free_name_is_taken(command, photo):
    first = photo.parent / FILES[command]
    second, third = (first.with_stem(f"{first.stem}-{number}") for number in (2, 3))
    second.write_text("mine")
    assert ask(command, photo, "describe the image .").stdout.endswith(f"Written to {first.name}.\n")
    kept = first.read_bytes()
    assert ask(command, photo, "describe the image .").stdout.endswith(f"Written to {third.name}.\n")
    assert first.read_bytes() == kept and second.read_text() == "mine" and third.exists()


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_is_named_is_replaced_only_if_a_command_wrote_it(command, photo, monkeypatch):
    out = (photo.parent / "mine").with_suffix(FILES[command][FILES[command].index(".") :])
    contents = set()
    for question in ("describe the image .", "describe it ."):
        asked = [command, photo, question, "--out", out]
        assert ask(*asked).stdout.endswith(f"Written to {out}.\n")
        contents.add(out.read_bytes())
    assert len(contents) == 2
    for module in ("single", "config"):
        monkeypatch.setattr(f"nnsight_vlm.report.{module}.load_by_name", lambda *_: pytest.fail("a model was loaded"))
    for content in (b"", photo.read_bytes(), b"<!doctype html><title>mine</title>"):
        out.write_bytes(content)
        assert ask(*asked, code=2).stderr == (
            f"error: --out {str(out)!r} is there and was not written by nnsight-vlm, so it is not replaced; name "
            "another file, or remove it first\n"
        )
        assert out.read_bytes() == content


BEGINS_ANEW = "error: interrupted; nothing was finished yet, so the same command begins anew\n"
REPORT = ["report", "--scenes", "2", "--chunk", "1", "--only", "attention_share", "--max-new-tokens", "2", "--quiet"]


def interrupt(monkeypatch, after):
    """Ctrl-C in place of a measurement that comes behind so many."""
    whole, begun = Journal.rows, []

    def rows(journal, images, measure):
        def measured(numbers):
            begun.append(numbers)
            if len(begun) > after:
                raise KeyboardInterrupt
            return measure(numbers)

        return whole(journal, images, measured)

    monkeypatch.setattr(Journal, "rows", rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "error: interrupted; the same command goes on from here\n"),
        (["--fresh"], "error: interrupted; the same command without --fresh (fresh=True) goes on from here\n"),
    ],
)
@pytest.mark.parametrize("command", ["run", "report"])
def test_an_interrupted_command_says_what_it_goes_on_from(command, options, words, table, model, tmp_path, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.report.writing.load_by_name", lambda *_: model)
    asked = [*RECIPE, "--items", table, "--chunk", "1", "--quiet"] if command == "run" else REPORT
    asked = [*asked, "--out", tmp_path / "out", *options]
    settings = tmp_path / "out" / f"{command}-settings.json"
    for after, said in ((0, BEGINS_ANEW), (1, words)):
        with monkeypatch.context() as patched:
            interrupt(patched, after)
            assert ask(*asked, code=130).stderr == said
        assert settings.exists() == bool(after)
    for option in options:
        asked.remove(option)
    with monkeypatch.context() as patched:  # one picture was kept, so one is left to be measured
        interrupt(patched, 1)
        ask(*asked)


def test_rows_of_other_settings_are_not_gone_on_from(table, tmp_path, monkeypatch):
    part = tmp_path / "out" / "journal" / "attention_share-0-00000-00001.parquet"
    part.parent.mkdir(parents=True)
    part.touch()
    interrupt(monkeypatch, 0)
    assert ask(*RECIPE, "--items", table, "--out", tmp_path / "out", "--quiet", code=130).stderr == BEGINS_ANEW


def test_an_interrupted_run_on_standard_output_keeps_nothing(table, monkeypatch):
    interrupt(monkeypatch, 1)
    asked = [*RECIPE, "--items", table, "--chunk", "1", "--quiet", "--out", "-"]
    assert ask(*asked, code=130).stderr == "error: interrupted\n"


def test_commands_refuse_versions_that_are_not_taken_and_their_help_does_not(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.working.complaint", lambda: "not tested with torch 9")
    unused = "transformers.utils.logging.disable_progress_bar"
    monkeypatch.setattr(unused, lambda: pytest.fail("a library that is not taken was used"))
    for arguments in (["families"], ["draft", "x"], ["run", "ablation"], ["report"], ["report", "--quiet"]):
        assert ask(*arguments, code=1).stderr.startswith("error: not tested with torch 9; nnsight-vlm doctor")
    assert ask("run", "--help").stdout and ask("knockout", "--help").stdout


def test_a_report_is_a_folder():
    assert "name one, --out my-report" in ask("report", "--out", "-", code=2).stderr


def test_a_shell_completes_commands_and_options():
    for typed, expected in (("kno", "knockout"), ("ground --wor", "--words"), ("families --js", "--json")):
        words = f"nnsight-vlm {typed}"
        variables = {"_NNSIGHT_VLM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = CliRunner().invoke(app, [], env=variables, prog_name="nnsight-vlm")
        assert done.stdout.split() == [expected]
