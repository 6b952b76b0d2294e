"""Any recipe from the command line: its options, its folder, and how it goes on after an interruption."""

from __future__ import annotations

import functools
import inspect
import io
import json
import typing
from collections.abc import Callable, Sequence

import hostile
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm import recipes
from nnsight_vlm.cli import app
from nnsight_vlm.commands import flags, runs
from nnsight_vlm.commands.listing import recipe_named
from nnsight_vlm.lowering.layers import Layers
from nnsight_vlm.studies.registry import RECIPES

ROWS = [
    (3, "what color is the square?", "red", 9, "blue"),
    (8, "what color is the ring?", "purple", 9, "yellow"),
    (9, "what color is the ring?", "red", 8, "purple"),  # it is yellow
]
"""Seed of the scene, question, answer, and those of another scene."""
CHEAP = {
    "ablation": ["--tokens", "object", "--asked", "red square,purple ring,yellow ring"],
    "attention_share": ["--max-new-tokens", "2"],
    "attribution_map": ["--layers", "2", "--exact", "1"],
    "causal_trace": ["--groups", "last", "--layers", "2"],
    "compressed_context": ["--keep", "0,5,100", "--tokens", "norm,again", "--timed", "0"],
    "path_patching": ["--sender", "image", "--receivers", "last"],
    "joint_routes": ["--routes", "image->last,query->last"],
    "heads": [
        *("--asked", "red square,purple ring,yellow ring", "--top", "2", "--draws", "1", "--smooth", "0"),
    ],
    "image_lens": ["--layers", "2", "--bank", "a red ring,a blue cross"],
    "information_flow": ["--edges", "image->last", "--windows", "2"],
    "knockout_windows": ["--routes", "image->last", "--windows", "2"],
    "object_score": ["--max-new-tokens", "8"],
    "patch_grounding": ["--max-new-tokens", "2"],
    "patch_knockout": ["--size", "1", "--layers", "2:4"],
    "patching_map": ["--groups", "last", "--layers", "2"],
    "prompt_ablation": ["--max-new-tokens", "2", "--parts", "color=color"],
    "query_patching": ["--groups", "last", "--layers", "1:3"],
}
"""Options with which recipes take little time."""
OF_OBJECTS = ("ablation", "heads", "object_score")
"""Recipes that need to know where objects are."""
PYTHON_ONLY = {"boxes", "means", "judge", "transcripts"}
"""Arguments of recipes that no text stands for."""


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture
def shared(monkeypatch, model):
    """The model is loaded once for all tests."""
    monkeypatch.setattr(runs, "load_by_name", lambda *_: model)
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=20_000))
    return model


@functools.cache
def png(seed):
    """The file of a scene's picture."""
    file = io.BytesIO()
    nv.shapes.scene(seed).image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table(tmp_path):
    """Three questions about three pictures, as a table in which every column is there."""
    for seed in (3, 8, 9):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    rows = pd.DataFrame(ROWS, columns=["image", "question", "answer", "other_image", "other_answer"])
    rows = rows.assign(**{name: [f"{seed}.png" for seed in rows[name]] for name in ("image", "other_image")})
    path = tmp_path / "table.csv"
    rows.to_csv(path, index=False)
    return path


def with_objects(table):
    """The same table with the boxes of all objects."""
    rows = pd.read_csv(table).to_dict("records")
    for row, (seed, *_) in zip(rows, ROWS, strict=True):
        row["boxes"] = [
            {"label": f"{each.color} {each.shape}", "box": [int(value) for value in box_of(each.mask)]}
            for each in nv.shapes.scene(seed).objects
        ]
    path = table.with_suffix(".jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def ask(*arguments, code=0):
    """What a command says that ends with a code."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.stdout if code == 0 else done.output


def run(recipe, table, out, *more, code=0):
    return ask("run", recipe, "--items", table, "--out", out, *CHEAP.get(recipe, ()), *more, code=code)


def by_python(name, model, table):
    """The same call in Python."""
    given = {
        flag.name: flag.value(text if flag.kind is str else flag.kind(text))
        for option, text in zip(CHEAP[name][::2], CHEAP[name][1::2], strict=True)
        for flag in flags.flags_of(RECIPES[name])[0]
        if flag.option == option
    }
    work, items = recipes.Work(progress=False), nv.items(table)
    if name == "query_patching":
        pairs = [(item.encode(model), item.encode(model, other=True), item.answer, item.other_answer) for item in items]
        return recipes.query_patching(model, pairs, work=work, **given)
    return getattr(recipes, name)(model, items=items, work=work, **given)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_runs_and_writes_what_python_gives(name, shared, table, tmp_path):
    out, table = tmp_path / "out", with_objects(table) if name in OF_OBJECTS else table
    printed = run(name, table, out)
    frame = pd.read_parquet(out / "frame.parquet")
    if name in CHEAP:
        pd.testing.assert_frame_equal(frame, by_python(name, shared, table), check_dtype=False)
    assert len(pd.read_csv(out / "frame.csv")) == len(frame)
    assert (out / "cite.txt").read_text() == nv.cite(frame) + "\n"
    assert frame.attrs["recipe"] == name and frame.attrs["prompts"] == 3 and frame.attrs["ids"] == [0, 1, 2]
    figure = "frame.parquet, figure.png, cite.txt." if "No figure: " not in printed else "frame.parquet, cite.txt."
    assert printed.endswith(f"Written to {out}: frame.csv, {figure}\n")
    assert (out / "figure.png").exists() == ("No figure: " not in printed)


def test_the_figure_of_every_kind_of_frame_is_drawn(shared, table, tmp_path):
    for name in ("knockout_windows", "attention_share"):
        assert "No figure" not in run(name, table, tmp_path / name)
        assert (tmp_path / name / "figure.png").read_bytes().startswith(b"\x89PNG")


RESUMED = [
    "knockout_windows",
    *(["patch_knockout"] if "prompt" in inspect.signature(recipes.patch_knockout).parameters else []),
]


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_where_it_was_interrupted(name, shared, table, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(name, table, whole, "--chunk", 1)
    module = f"nnsight_vlm.recipes.{'layer_windows' if name == 'knockout_windows' else 'object_patches'}"
    sweeps = []

    def counting(*arguments, **given):
        sweeps.append(arguments)
        if len(sweeps) == 2:
            raise KeyboardInterrupt
        return nv.sweep(*arguments, **given)

    monkeypatch.setattr(f"{module}.sweep", counting)
    CliRunner().invoke(app, ["run", name, "--items", str(table), "--out", str(broken), *CHEAP[name], "--chunk", "1"])
    assert len(sweeps) == 2 and not (broken / "frame.parquet").exists() and (broken / "run-settings.json").exists()
    run(name, table, broken, "--chunk", 1)
    assert len(sweeps) == 4  # the first item was not measured again
    first, second = (pd.read_parquet(folder / "frame.parquet") for folder in (whole, broken))
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs == second.attrs
    run(name, table, broken, "--chunk", 2)
    assert len(sweeps) == 4 or name == "knockout_windows"


def test_a_folder_of_another_run_is_refused_and_fresh_replaces_it(shared, table, tmp_path):
    out = tmp_path / "out"
    run("knockout_windows", table, out)
    (out / "mine.txt").write_text("kept")
    before = (out / "frame.csv").read_text()
    for more, name in (
        (["--seed", 3], "--seed"),
        (["--forms", "block"], "--forms"),
        (["--model", "shapes-gist"], "--model"),
    ):
        assert f"holds a run with other settings ({name}: " in run("knockout_windows", table, out, *more, code=2)
    said = ask("run", "attention_share", "--items", table, "--out", out, code=2)
    assert "holds a run with other settings (recipe: 'knockout_windows' there, 'attention_share' now)" in said
    table.write_text(table.read_text().replace("red", "green", 1))
    assert "the table's content" in run("knockout_windows", table, out, code=2)
    assert (out / "frame.csv").read_text() == before
    run("knockout_windows", table, out, "--forms", "block", "--fresh")
    assert (out / "mine.txt").read_text() == "kept" and (out / "frame.csv").read_text() != before


def test_a_run_that_was_refused_leaves_the_folder_free(shared, table, tmp_path):
    out = tmp_path / "out"
    assert "windows=-1" in ask("run", "knockout_windows", "--items", table, "--out", out, "--windows", "-1", code=2)
    assert not list(out.iterdir())
    right = table.read_text()
    table.write_text(right.replace("red", "green").replace("purple", "green"))
    assert "leaves nothing to measure" in run("knockout_windows", table, out, "--only-correct", code=2)
    table.write_text(right)
    run("knockout_windows", table, out)
    ask("run", "knockout_windows", "--items", table, "--out", out, "--windows", "-1", code=2)
    run("knockout_windows", table, out)  # what was refused did not touch it


def test_columns_clusters_rows_of_images_and_what_is_left_out(shared, table, tmp_path):
    rows = pd.read_csv(table).rename(columns={"image": "file", "question": "q"}).assign(photo=["a", "a", "b"])
    rows = pd.concat([rows, rows.iloc[:1].assign(file="no [red]\x1b.png")], ignore_index=True)
    rows.to_csv(table, index=False)
    out = tmp_path / "out"
    assert "or go on without them, --leave-out" in run(
        "knockout_windows", table, out, "--columns", "image=file,question=q", code=2
    )
    printed = run(
        "knockout_windows",
        *(table, out, "--columns", "image=file,question=q", "--cluster", "photo", "--leave-out", "--per-image"),
    )
    frame, each = (pd.read_parquet(out / f"{name}.parquet") for name in ("frame", "frame_per_image"))
    assert frame.attrs["prompts"] == 3 and frame.attrs["images"] == 2 == frame["images"].max()
    assert set(each["image"]) == {0, 1, 2} and set(each["cluster"]) == {0, 2}
    assert "Left out: 3 (" in printed and "\x1b" not in printed and "[red]" in printed
    assert "1 was left out, 1 because" in (out / "cite.txt").read_text()
    assert "frame_per_image.csv, frame_per_image.parquet" in printed


def test_objects_of_a_table_are_truths(shared, table, tmp_path):
    rows = []
    for seed in (3, 8):
        drawn = nv.shapes.scene(seed)
        boxes = [
            {"label": f"{each.color} {each.shape}", "box": [int(value) for value in box_of(each.mask)]}
            for each in drawn.objects
        ]
        rows.append({"image": f"{seed}.png", "question": "describe the image .", "boxes": boxes})
    path = table.with_suffix(".jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    ask("run", "patch_grounding", "--items", path, "--out", tmp_path / "out", "--max-new-tokens", 12, "--no-cut")
    frame = pd.read_parquet(tmp_path / "out" / "frame.parquet")
    assert set(frame["measure"]) == {"hit", "iou", "top_mass"} and "cut=False" in frame.attrs["call"]


def box_of(mask):
    rows, columns = mask.nonzero()
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_only_what_the_model_answers_right(shared, table, tmp_path):
    run("knockout_windows", table, tmp_path / "out", "--only-correct")
    frame = pd.read_parquet(tmp_path / "out" / "frame.parquet")
    assert frame.attrs["ids"] == [0, 1] and frame.attrs["prompts"] == 2
    [(name, why)] = frame.attrs["left_out"]
    assert name == 2 and "yellow" in why


def test_a_server_is_asked_where_one_is_named(shared, table, tmp_path, monkeypatch):
    asked = []
    entry = RECIPES["attention_share"]
    monkeypatch.setattr(runs, "_measured", lambda request, *_, **__: asked.append(request) or 1 / 0)
    for more, remote in (([], False), (["--remote"], True), (["--host", "http://a:1"], "http://a:1")):
        CliRunner().invoke(
            app, ["run", entry.name, "--items", str(table), "--out", str(tmp_path / str(remote)[:4]), *more]
        )
        assert asked[-1].remote == remote
    assert json.loads((tmp_path / "http" / "run-settings.json").read_text())["--remote"] == "http://a:1"


WRONG: list[tuple[list[str], str]] = [
    (["no_such"], "no recipe 'no_such': write one of ablation, attention_share, attribution_map"),
    (["[/INST]\x1b"], "no recipe '[/INST]\\x1b'"),
    (["knockout_windows"], "Missing option '--items'"),
    (["knockout_windows", "--items", "TABLE"], "Missing option '--out'"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--windws", "2"], "No such option: --windws"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--windows", "two"], "Invalid value for '--windows'"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "more"], "unexpected extra argument"),
    (["knockout_windows", "--items", "no.csv", "--out", "OUT"], "no.csv"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--columns", "image"], "is no name=value"),
    (
        ["knockout_windows", "--items", "TABLE", "--out", "OUT", "--columns", "image=no"],
        "--columns takes 'image' from 'no'",
    ),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--cluster", "no"], "takes 'cluster' from 'no'"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--routes", " , "], "--routes ' , ' holds no name"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--model", "./no"], "is not a folder with a model"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--host", "a"], "--host 'a' is no address"),
    (["knockout_windows", "--items", "TABLE", "--out", "TABLE"], "cannot write to the folder"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--chunk", "0"], "chunk=0"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--routes", "a->b"], "a"),
    (["knockout_windows", "--items", "TABLE", "--out", "OUT", "--forms", "shut"], "write one of block, allow"),
    (["query_patching", "--items", "TABLE", "--out", "OUT", "--layers", "x"], "no layers 'x'"),
    (["patch_knockout", "--items", "TABLE", "--out", "OUT", "--answer", "zebra"], "answer= is of one prompt"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_cannot_be_run_is_said_in_words(arguments, message, shared, table, tmp_path):
    places = {"TABLE": str(table), "OUT": str(tmp_path / "out")}
    said = ask("run", *(places.get(word, word) for word in arguments), code=2)
    assert message in " ".join(said.replace("│", " ").split()) and "Traceback" not in said
    assert not (tmp_path / "out" / "run-settings.json").exists()


def test_other_names_of_columns_are_asked_for_as_the_command_line_takes_them(shared, table, tmp_path):
    rows = pd.read_csv(table)
    rows.rename(columns={"image": "file"}).to_csv(table, index=False)
    said = run("knockout_windows", table, tmp_path / "a", code=2)
    assert "Say which it is, --columns image=..." in said and "columns={" not in said
    rows.rename(columns={"question": "q"}).to_csv(table, index=False)
    said = run("knockout_windows", table, tmp_path / "b", code=2)
    assert "--columns question=..., or --question" in said and "columns={" not in said


def test_tables_without_what_a_recipe_needs_are_refused(shared, table, tmp_path):
    pd.read_csv(table)[["image", "question"]].to_csv(table, index=False)
    assert "give it columns answer, other_image and other_answer" in run(
        "query_patching", table, tmp_path / "a", code=2
    )
    if "prompt" not in inspect.signature(recipes.patch_knockout).parameters:
        return
    assert "write --answer red" in run("patch_knockout", table, tmp_path / "b", code=2)
    run("patch_knockout", table, tmp_path / "c", "--answer", "red")
    assert "answer='red'" in pd.read_parquet(tmp_path / "c" / "frame.parquet").attrs["call"]


def test_without_a_recipe_the_command_says_what_it_needs():
    for arguments, code in ((["run"], 2), (["run", "--help"], 0)):
        said = ask(*arguments, code=code)
        assert "RECIPE --items TABLE --out FOLDER [--model MODEL]" in " ".join(said.split())


def test_the_list_of_recipes_fits_into_80_columns(monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=80))
    printed = ask("recipes")
    assert max(map(len, printed.splitlines())) <= 80
    for name, entry in RECIPES.items():
        assert f" {name} " in printed and entry.papers[0].arxiv in printed


def test_the_help_of_a_recipe_has_its_options():
    said = ask("run", "knockout-windows", "--help")
    assert "--windows" in said and "--no-answers" in said and "--only-correct" in said
    assert recipe_named("knockout-windows") is RECIPES["knockout_windows"]


# options ------------------------------------------------------------------------------------------------


def test_every_argument_of_every_recipe_is_an_option_or_filled_from_the_table():
    for entry in RECIPES.values():
        made, unspelled = flags.flags_of(entry)
        assert set(unspelled) <= PYTHON_ONLY, f"{entry.name}: {unspelled}"
        assert all(flag.help for flag in made)


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (Layers | None, "3:7", nv.window(3, 7)),
        (Layers, "attention", "attention"),
        (Sequence[str], "a->b, c", ("a->b", "c")),
        (Sequence[typing.Literal["a", "b"]] | None, "a", ("a",)),
        (Sequence[int] | None, "1,-2", (1, -2)),
        (tuple[int, ...], "1", (1,)),
        (str | Sequence[str], "a", "a"),
        (str | Sequence[str], "a,b", ("a", "b")),
        (int | Sequence[int], "2", 2),
        (int | Sequence[int], "2,3", (2, 3)),
        (Sequence[str | Sequence[str]] | None, "a,b", ("a", "b")),
        (tuple[str | int, str | int], "yes,no", ("yes", "no")),
        (typing.Mapping[str, str], "a=b,c=d", {"a": "b", "c": "d"}),
    ],
)
def test_how_arguments_are_read(hint, text, value):
    kind, parse, _ = flags.reader_of("name", hint)
    assert kind is str and parse(text) == value


def test_kinds_that_the_command_line_reads_itself_and_those_that_it_cannot():
    kinds = {
        nv.Knockout | str: str,
        str | Sequence[nv.Knockout]: str,
        int: int,
        int | None: int,
        float: float,
        int | float: float,
        bool: bool,
        str | None: str,
        str | int: str,
    }
    assert {hint: flags.reader_of("name", hint)[0] for hint in kinds} == kinds
    for hint in (nv.Knockout, Callable[[str], str], Sequence[nv.Knockout], typing.Any, None):
        assert flags.reader_of("name", hint) is None
    kind, parse, _ = flags.reader_of("objects", Callable[[str], Sequence[str]] | None)
    assert kind is str and parse("dog, cat")("Two dogs.") == ("dog",)
    with pytest.raises(nv.SpecError, match="no list of whole numbers"):
        flags.numbers_in("1,b", "--heads")


@pytest.mark.parametrize(
    "text", [text for text in hostile.IN_FRAMES if text.strip() and "," not in text and "=" not in text]
)
def test_names_on_the_command_line_are_taken_as_they_are(text):
    assert flags.pairs_in(f"image={text}", "--columns") == {"image": text.strip()}


def test_options_say_which_words_they_take():
    hints = {
        typing.Literal["b", "a"]: "One of b, a",
        typing.Literal["a"] | None: "One of a",
        Sequence[typing.Literal["b", "a"]] | None: "Some of b, a, separated by commas",
        Sequence[str]: "Separated by commas",
        str: "",
    }
    assert {hint: flags.reader_of("name", hint)[2] for hint in hints} == hints
    for entry in RECIPES.values():
        assert "answers" not in [flag.name for flag in flags.flags_of(entry)[0] if flag.kind is str]
