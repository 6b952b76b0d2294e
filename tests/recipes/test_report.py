"""The report: continued after an interruption, refused before a model is loaded, complete on disk."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version

import pandas as pd
import pytest
import tiny
from rich.console import Console
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import QUERY, app
from nnsight_vlm.recipes import layer_windows
from nnsight_vlm.report import CLAIMS, config, steps, study, write_report, writing
from nnsight_vlm.report.pieces import FIGURE_TITLES
from nnsight_vlm.report.sections import SECTIONS

NAMES = ["knockout_windows", "patch_grounding", "attention_share", "prompt_ablation"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tiny model as a folder, and a folder of two pictures."""
    place = tmp_path_factory.mktemp("tiny")
    tiny.save(place / "model")
    (place / "pictures").mkdir()
    for number in range(2):
        tiny.picture(number, (24, 20)).save(place / "pictures" / f"{number}.png")
    return place


@pytest.fixture
def options(folders):
    return {
        "model": str(folders / "model"),
        "images": str(folders / "pictures"),
        "query": "describe the image .",
        "max_new_tokens": 4,
        "progress": False,
    }


@pytest.fixture(scope="session")
def report(folders, tmp_path_factory):
    """A report that was not interrupted."""
    out = tmp_path_factory.mktemp("whole")
    options = {"query": "describe the image .", "max_new_tokens": 4, "progress": False}
    return write_report(out, model=str(folders / "model"), images=str(folders / "pictures"), **options)


def test_a_report_writes_every_frame_twice_its_figures_and_a_summary(report):
    for name in NAMES:
        for table in (name, f"{name}_per_image"):
            csv, parquet = (report.folder / "frames" / f"{table}{ending}" for ending in (".csv", ".parquet"))
            assert csv.is_file()
            assert len(pd.read_csv(csv)) == len(pd.read_parquet(parquet)) > 0
            assert pd.read_parquet(parquet).attrs["recipe"] == name and nv.cite(pd.read_parquet(parquet))
    text = (report.folder / "report.md").read_text()
    figures = sorted(path.name for path in (report.folder / "figures").iterdir())
    assert {"claims.png", "routes.png", "windows.png", "attention.png", "grounding.png", "ablation.png"} <= set(figures)
    assert all(f"](figures/{name})" in text for name in figures)
    assert "needs boxes or masks of objects" in text and "every content word" in text
    assert not list(report.folder.rglob(".*.new"))


def test_an_interrupted_report_keeps_finished_work_and_ends_with_the_same_frames(
    options, report, tmp_path, monkeypatch
):
    calls = []
    original = {name: getattr(steps, name) for name in NAMES[:2]}

    def counted(name):
        def recipe(model, prompts, **options):
            calls.append(name)
            return original[name](model, prompts, **options)

        return recipe

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "patch_grounding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, **options)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "knockout_windows").iterdir()}
    assert kept and (tmp_path / "frames" / "knockout_windows.parquet").is_file()
    monkeypatch.setattr(steps, "patch_grounding", counted("patch_grounding"))
    monkeypatch.setattr(layer_windows, "generations", interrupted)  # it must not run again
    done = write_report(tmp_path, **options)
    assert calls == ["patch_grounding"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(done.claims, report.claims)
    for name in NAMES:
        pd.testing.assert_frame_equal(done.frames[name], report.frames[name])


def complete(folder):
    """The text of a report all of whose files are there and can be read."""
    for path in (folder / "frames").glob("*.csv"):
        pd.testing.assert_index_equal(pd.read_csv(path).columns, pd.read_parquet(path.with_suffix(".parquet")).columns)
    assert len(pd.read_csv(folder / "claims.csv")) == len(CLAIMS)
    text = (folder / "report.md").read_text()
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {name for name in FIGURE_TITLES if f"](figures/{name}.png)" in text}
    missing = text.partition("## Not measured")[2].partition("\n## ")[0]
    wanted = set(FIGURE_TITLES) - ({section.figure for section in SECTIONS} if "Not asked for: " in text else set())
    assert {name for name, title in FIGURE_TITLES.items() if f"- {title}: " in missing} == wanted - drawn
    return text


def test_a_report_in_which_no_description_names_an_object_is_written(options, tmp_path):
    done = write_report(tmp_path, **options, objects=["zebra"])
    assert done.claims["value"].isna().all() and done.claims["verdict"].str.startswith("needs ").all()
    text = complete(tmp_path)
    assert "no description names an object" in text
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"attention"}
    again = write_report(tmp_path, **options, objects=["zebra"])  # from the journal
    pd.testing.assert_frame_equal(again.claims, done.claims)


def test_a_report_on_one_scene_of_which_no_object_is_named_is_written(tmp_path):
    further = [section.name for section in SECTIONS]  # of questions, which have tests of their own
    done = write_report(tmp_path, scenes=1, max_new_tokens=2, without=further, progress=False)  # "a large"
    assert done.claims["value"].isna().all() and done.claims["verdict"].str.startswith("needs ").all()
    text = complete(tmp_path)
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}  # maps are of longer descriptions
    assert drawn == {"attention", "answers", "patching", "overlays"}
    assert text.count("no description names an object") == 4


def test_questions_are_asked_whose_answers_are_one_token(folders):
    """The tiny model's tokenizer has no `purple` and no `cyan`; a report on it would end there after all the work."""
    pairs = study.color_pairs(nv.load(str(folders / "model")), 0, 6)
    assert len(pairs) == 6
    assert {pair.answer for pair in pairs} | {pair.other_answer for pair in pairs} <= {"red", "green", "blue", "yellow"}


def test_the_one_picture_that_can_be_opened_is_measured_and_the_others_are_named(options, report, folders, tmp_path):
    shutil.copytree(folders / "pictures", tmp_path / "some")
    (tmp_path / "some" / "1.png").write_text("no picture")
    (tmp_path / "some" / "9.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    done = write_report(tmp_path / "out", **{**options, "images": str(tmp_path / "some")})
    assert [name for name, _ in done.left_out] == ["1.png", "9.jpg"]
    text = complete(tmp_path / "out")
    assert "1 image:" in text and all(f"- Left out: `{name}`, because " in text for name, _ in done.left_out)
    rows, expected = (
        pd.read_parquet(folder / "frames" / "prompt_ablation_per_image.parquet")
        for folder in (tmp_path / "out", report.folder)
    )
    pd.testing.assert_frame_equal(rows, expected[expected["image"] == 0])


@pytest.mark.parametrize(
    "change",
    [
        {"query": "see the dog"},
        {"seed": 1},
        {"max_new_tokens": 5},
        {"objects": ["dog"]},
        {"remote": "http://elsewhere"},
    ],
)
def test_other_settings_never_continue_a_report(options, report, change):
    with pytest.raises(nv.SpecError, match=f"other settings \\({next(iter(change))}.*--fresh"):
        write_report(report.folder, **{**options, **change})


def test_fresh_replaces_a_report_and_leaves_other_files_alone(options, tmp_path):
    from nnsight_vlm.report.folder import prepare

    prepare(tmp_path, {"model": "a"})
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "parts").mkdir()
    prepare(tmp_path, {"model": "b"}, fresh=True)
    assert json.loads((tmp_path / "report-settings.json").read_text()) == {"model": "b"}
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "parts").exists()


def wrong_requests(place):
    (place / "file").write_text("no folder")
    (place / "empty").mkdir(exist_ok=True)
    (place / "bad").mkdir(exist_ok=True)
    (place / "bad" / "one.png").write_text("no picture")
    return [
        ({"out": place / "file" / "out"}, "cannot write to the folder"),
        ({"out": place / "file"}, "cannot write to the folder"),
        ({"images": str(place / "nowhere")}, "no folder"),
        ({"images": str(place / "empty")}, "holds no pictures"),
        ({"images": str(place / "bad")}, "no picture of the folder .* can be opened: .*not a picture"),
        ({"query": "  "}, "query is empty"),
        ({"scenes": 0}, "1 or more"),
        ({"model": str(place / "empty")}, "no config.json"),
    ]


def test_wrong_settings_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(writing, "load_by_name", never)
    for options, message in wrong_requests(tmp_path):
        with pytest.raises(nv.SpecError, match=message):
            write_report(**{"out": tmp_path / "out", **options})


def test_an_error_is_one_line_on_the_command_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["report", "--out", str(tmp_path / "file" / "out")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: cannot write to the folder") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["report"], ["ground"], ["knockout"]])
def test_every_command_has_help(command):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output


def test_the_version_is_the_installed_one():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output.strip() == version("nnsight-vlm")


def test_the_command_line_and_the_function_ask_the_same_question():
    assert QUERY == config.QUERY


def test_the_command_line_writes_a_report(folders, report, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=160))
    arguments = [
        "--model",
        str(folders / "model"),
        "--images",
        str(folders / "pictures"),
        "--query",
        "describe the image .",
    ]
    done = CliRunner().invoke(app, ["report", *arguments, "--max-new-tokens", "4", "--out", str(report.folder)])
    assert done.exit_code == 0, done.output
    assert "needs boxes or masks" in done.output.replace("\n", " ") and "report.md" in done.output


def test_ground_and_knockout_write_a_picture(folders, tmp_path):
    picture, model = str(folders / "pictures" / "0.png"), ["--model", str(folders / "model"), "--max-new-tokens", "6"]
    for number, command in enumerate(
        [
            ["ground", picture, "describe the image .", *model],
            ["knockout", picture, "what is the red square ?", "--source", "image", "--target", "last", *model],
            [
                "knockout",
                picture,
                "what is the red square ?",
                "--source",
                "query",
                "--target",
                "generated",
                "--layers",
                "0.25:0.75",
                *model,
            ],
            [
                "knockout",
                picture,
                "what is the red square ?",
                "--source",
                "system",
                "--target",
                "last",
                "--layers",
                "1:3",
                *model,
            ],
        ]
    ):
        out = tmp_path / f"{number}.png"
        done = CliRunner().invoke(app, [*command, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ground", "nowhere.png", "what ?"], "no file"),
        (["knockout", "PICTURE", " "], "question is empty"),
        (["knockout", "PICTURE", "what ?", "--layers", "some"], "no layers 'some'"),
        (["knockout", "PICTURE", "what ?", "--out", "map.txt"], "no PNG file"),
        (["ground", "PICTURE", "what ?", "--model", "./nothing"], "no config.json"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(folders, arguments, message, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.report.single.load_by_name", lambda *_: pytest.fail("a model was loaded"))
    given = [str(folders / "pictures" / "0.png") if word == "PICTURE" else word for word in arguments]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2 and message in done.stderr
