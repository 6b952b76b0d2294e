"""Reports on one's own pictures: tables of questions, folders with boxes, what is left out and why."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tiny
from rich.console import Console
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.recipes import Work, patch_grounding
from nnsight_vlm.report import figures, judge, steps, study, write_report, writing
from nnsight_vlm.report.asked import asked_of
from nnsight_vlm.report.config import ReportConfig
from nnsight_vlm.statistics import FEWEST
from nnsight_vlm.studies.words import Thing, shape_truth

QUERY, TOKENS = "describe the image .", 8
BOXES = [  # what the tiny model names of the first two pictures, and what it does not name of the third
    ("0.png", "three", 2, 2, 10, 10),
    ("1.png", "small", 0, 0, 8, 8),
    ("1.png", "black", 12, 8, 24, 20),
    ("2.png", "dog", 4, 4, 12, 12),
]
OPTIONS = {"query": QUERY, "max_new_tokens": TOKENS, "progress": False, "chunk": 1}


def write_csv(path, names, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def coco_of(boxes, size):
    """Boxes as a COCO file has them."""
    images, labels = (list(dict.fromkeys(row[column] for row in boxes)) for column in (0, 1))
    return {
        "images": [
            {"id": number, "file_name": name, "width": size[0], "height": size[1]} for number, name in enumerate(images)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels)],
        "annotations": [
            {"id": number, "image_id": images.index(image), "category_id": labels.index(label)}
            | {"bbox": [x0, y0, x1 - x0, y1 - y0]}
            for number, (image, label, x0, y0, x1, y1) in enumerate(boxes)
        ],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model as a folder, three pictures, a table of questions, and their objects in both formats."""
    place = tmp_path_factory.mktemp("own")
    tiny.save(place / "model")
    (place / "photos").mkdir()
    for number in range(3):
        tiny.picture(number, (24, 20)).save(place / "photos" / f"{number}.png")
    rows = [(f"photos/{number}.png", "what is the dog ?", answer) for number, answer in enumerate(["red", "2", "blue"])]
    write_csv(place / "questions.csv", ["file", "q", "answer"], rows)
    write_csv(place / "boxes.csv", ["image", "label", "x0", "y0", "x1", "y1"], BOXES)
    (place / "coco.json").write_text(json.dumps(coco_of(BOXES, (24, 20))))
    return place


def table_options(place):
    return {
        "model": str(place / "model"),
        "items": str(place / "questions.csv"),
        "columns": {"image": "file", "question": "q"},
        "annotations": str(place / "boxes.csv"),
        **OPTIONS,
    }


@pytest.fixture(scope="module")
def of_table(place, tmp_path_factory):
    """A report on the table that was not interrupted, and its figures as they were drawn."""
    drawn, out = {}, tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "draw", lambda *given: drawn.update(figures.draw(*given)) or drawn)
        report = write_report(out, **table_options(place))
    return report, drawn


def values(report):
    return report.claims.set_index(["claim", "control"])["value"]


def test_a_table_gives_the_claims_about_objects_and_the_knockout_of_its_answers(of_table):
    report, _ = of_table
    known = values(report)
    assert known[[("3a", False), ("3b", False)]].notna().all()
    answers = report.frames["knockout_answers"]
    assert answers.attrs["ids"] == [0, 2] and set(answers["measure"]) >= {"logprob_change", "kept"}
    assert report.frames["knockout_windows"].attrs["ids"] == [0, 1, 2]


def test_what_was_not_measured_is_said_with_the_items_that_it_concerns(of_table):
    report, _ = of_table
    said = (report.folder / "report.md").read_text().partition("## Not measured")[2]
    assert "Interchange patching between two pictures: left out, because the table has no columns other" in said
    assert "Left out of the knockout of answers: `1`, because the tokenizer knows no word '2'" in said
    assert "Left out of claims 3a and 3b: `2`, because the description names none of the objects" in said
    listed = pd.read_csv(report.folder / "left-out.csv", dtype=str, keep_default_na=False)
    assert {tuple(row) for row in listed[["section", "id"]].to_numpy()} >= {
        ("the knockout of answers", "1"),
        ("claims 3a and 3b", "2"),
        ("interchange patching", ""),
    }


def test_the_frames_are_those_of_the_recipes(place, of_table):
    """The rows of the grounding, from the recipe itself with prompts and masks made by hand."""
    report, _ = of_table
    model = nv.load(str(place / "model"))
    prompts, truths = [], []
    for number in range(3):
        prompts.append(nv.encode(model, QUERY, tiny.picture(number, (24, 20))))
        masks = []
        for image, label, x0, y0, x1, y1 in BOXES:
            if image == f"{number}.png":
                mask = np.zeros((20, 24), bool)
                mask[y0:y1, x0:x1] = True
                masks.append(Thing(name=label, mask=mask))
        truths.append(masks)
    expected = patch_grounding(
        model, prompts, truths=truths, max_new_tokens=TOKENS, per_image=True, work=Work(progress=False)
    )
    written = pd.read_parquet(report.folder / "frames" / "patch_grounding_per_image.parquet")
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)


def has_data(axis):
    """Whether something finite is drawn in a panel, beside lines across the whole of it."""
    lines = [line for line in axis.lines if not str(line.get_label()).startswith(("_zero", "_threshold"))]
    numbers = [np.asarray(line.get_xydata(), float) for line in lines]
    numbers += [np.asarray(each.get_offsets(), float) for each in axis.collections if len(each.get_offsets())]
    numbers += [np.asarray(image.get_array(), float) for image in axis.images]
    return any(np.isfinite(each).any() for each in numbers)


def check_panels(drawn, folder):
    assert {path.stem for path in (folder / "figures").iterdir()} == set(drawn)
    for name, figure in drawn.items():
        assert figure.axes, name
        for number, axis in enumerate(figure.axes):
            assert has_data(axis), (name, number)


def test_every_panel_of_every_figure_has_data(of_table):
    report, drawn = of_table
    assert set(drawn) >= {"claims", "answers", "grounding", "windows", "overlays"}
    check_panels(drawn, report.folder)


@pytest.mark.parametrize("change", [{}, {"objects": ["zebra"]}], ids=["no boxes", "no names"])
def test_without_boxes_the_claims_say_what_they_need_and_have_no_panels(place, tmp_path, monkeypatch, change):
    drawn = {}
    monkeypatch.setattr(writing, "draw", lambda *given: drawn.update(figures.draw(*given)) or drawn)
    options = {**OPTIONS, "model": str(place / "model"), "images": str(place / "photos"), **change}
    report = write_report(tmp_path, **options)
    of_objects = report.claims[report.claims["claim"].str.startswith("3")]
    assert of_objects["value"].isna().all()
    assert of_objects["verdict"].str.startswith("needs boxes or masks of objects").all()
    assert "nothing says where the objects of the pictures are" in (tmp_path / "report.md").read_text()
    check_panels(drawn, tmp_path)
    if change:
        assert set(drawn) == {"attention"}
    else:
        assert {axis.get_title(loc="left")[:1] for axis in drawn["claims"].axes} == {"1", "2"}


def test_a_folder_with_annotations_gives_what_the_table_gives(place, of_table, tmp_path):
    options = {**OPTIONS, "model": str(place / "model"), "images": str(place / "photos")}
    report = write_report(tmp_path, annotations=str(place / "coco.json"), **options)
    pd.testing.assert_frame_equal(report.claims, of_table[0].claims)
    assert report.frames["patch_grounding"].attrs["ids"] == ["0.png", "1.png", "2.png"]
    assert "`2.png`, because the description names none" in (tmp_path / "report.md").read_text()


def test_a_report_that_was_killed_ends_with_the_same_frames(place, of_table, tmp_path):
    given = table_options(place)
    arguments = ["--model", given["model"], "--items", given["items"], "--columns", "image=file,question=q"]
    arguments += ["--annotations", given["annotations"], "--query", QUERY, "--max-new-tokens", str(TOKENS)]
    command = [sys.executable, "-m", "nnsight_vlm", "report", *arguments, "--chunk", "1", "--out", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = tmp_path / "parts" / "knockout_windows"
    while not list(parts.glob("*.parquet")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert kept and not (tmp_path / "report.md").exists()
    report = write_report(tmp_path, **given)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(report.claims, of_table[0].claims)
    for name, frame in of_table[0].frames.items():
        pd.testing.assert_frame_equal(report.frames[name], frame)


def test_a_changed_table_is_another_report(place, of_table, tmp_path):
    given = table_options(place)
    table = tmp_path / "questions.csv"
    table.write_text((place / "questions.csv").read_text().replace("blue", "green"))
    with pytest.raises(nv.SpecError, match=r"other settings \(content of the table: .*--fresh"):
        write_report(of_table[0].folder, **{**given, "items": str(table), "pictures": str(place)})
    moved = write_csv(tmp_path / "boxes.csv", ["image", "label", "x0", "y0", "x1", "y1"], BOXES[:-1])
    moved.write_text(moved.read_text() + "2.png,dog,5,4,12,12\n")
    with pytest.raises(nv.SpecError, match=r"other settings \(content of the table: "):
        write_report(of_table[0].folder, **{**given, "annotations": str(moved)})


def hostile(place, folder):
    """Requests that no report can be made of, and what is said."""
    photo = str(place / "photos" / "0.png")
    (folder / "no.png").write_text("no picture")

    def table(name, columns, *rows):
        return str(write_csv(folder / f"{name}.csv", columns, rows))

    asked = ["image", "question"]
    boxes = ["image", "label", "x0", "y0", "x1", "y1"]
    good = table("good", asked, [photo, "what ?"])
    return [
        ({"items": str(folder / "nowhere.csv")}, "items=.*no such file"),
        ({"items": table("none", asked)}, "no rows"),
        ({"items": table("bare", ["image", "q"], [photo, "what ?"])}, 'no column .question.*query="'),
        ({"items": table("gone", asked, ["gone.png", "what ?"])}, "'gone.png' is no file"),
        ({"items": table("text", asked, [str(folder / "no.png"), "what ?"])}, "row 0: .*not a picture"),
        ({"items": table("empty", asked, [photo, " "])}, "row 0: its question is empty"),
        ({"items": good, "columns": {"question": "nothing"}}, "columns= takes 'question' from 'nothing'"),
        ({"items": good, "annotations": table("b1", boxes, [photo, "dog", 1, 1, 99, 9])}, "reaches out of the picture"),
        ({"items": good, "annotations": table("b2", boxes, [photo, "dog", 9, 1, 2, 9])}, "is no box"),
        ({"items": good, "annotations": table("b3", boxes, ["9.png", "dog", 1, 1, 9, 9])}, "is not in"),
        ({"items": good, "annotations": table("b4", ["image", "what"], [photo, 1])}, "annotations= has no column"),
        ({"items": good, "annotations": str(folder / "nothing.json")}, "annotations=.*cannot be read"),
        ({"items": good, "images": str(place / "photos")}, "give one of them"),
        ({"items": good, "scenes": 3}, "give one of them"),
        ({"items": good, "query": " "}, "query is empty"),
        ({"columns": {"question": "q"}}, "--columns .* write it with --items"),
        ({"images": str(place / "photos"), "pictures": "."}, "--pictures .* write it with --items"),
        ({"annotations": "boxes.csv"}, "--annotations .* --items .* or --images"),
        ({"leave_out": True}, "--leave-out"),
        ({"items": good, "leave_out": "yes"}, "leave_out"),
    ]


def test_bad_tables_are_refused_before_a_model_is_loaded(place, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "load_by_name", lambda *_: pytest.fail("a model was loaded"))
    out = tmp_path / "out"
    for options, message in hostile(place, tmp_path):
        with pytest.raises(nv.SpecError, match=message):
            write_report(out, progress=False, **options)
    assert not (out / "report-settings.json").exists()


def test_bad_rows_are_left_out_by_name_when_asked_to(place, tmp_path, monkeypatch):
    monkeypatch.setattr("nnsight_vlm.commands.output.console", Console(width=500))
    name = "<b>`x`|![](http://x)\x1b[31m"
    rows = [["photos/0.png", "what ?", name], ["photos/no.png", "what ?", "gone"], ["photos/1.png", " ", "mute"]]
    table = write_csv(place / "hostile.csv", ["image", "question", "id"], [*rows, ["2.png", "what ?", "lost"]])
    command = ["report", "--items", str(table), "--leave-out", "--model", str(place / "model"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--max-new-tokens", "4"])
    assert done.exit_code == 0, done.output
    assert "\x1b[31m" not in done.output and "Left out: mute (its question is empty)" in done.output
    text = (tmp_path / "report.md").read_text()
    assert "- Left out: `gone`, because" in text and "- Left out: `mute`, because its question is empty." in text
    assert "1 image: the rows of `hostile.csv`. Query: each row's own question; greedy answers" in text
    assert "\x1b" not in text and name not in text
    assert pd.read_parquet(tmp_path / "frames" / "attention_share.parquet").attrs["ids"] == [name]


def test_no_more_prompts_than_a_chunk_are_kept(place):
    model = nv.load(str(place / "model"))
    options = {"items": [{"image": str(place / "photos" / f"{n % 3}.png"), "question": QUERY} for n in range(9)]}
    made = study.gather(model, ReportConfig(**options, chunk=2).checked())
    assert len(made.prompts) == 9 and made.prompts.keep == 3
    assert len(list(made.prompts)) == 9 and len(made.prompts._kept) <= 3


def test_a_query_for_all_leaves_the_questions_to_the_answers(place):
    options = {"items": str(place / "questions.csv"), "columns": {"image": "file", "question": "q"}, "query": QUERY}
    asked = asked_of(ReportConfig(**options).checked())
    assert {item.text for item in asked.described} == {QUERY}
    assert {item.text for item in asked.answered} == {"what is the dog ?"}


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_boxes_give_the_verdicts_that_masks_of_the_scenes_give(tmp_path):
    """On `shapes`, as many scenes as a verdict takes at least, each described in a few words."""
    model, scenes = nv.load("shapes"), [nv.shapes.scene(seed) for seed in range(FEWEST)]
    quiet = Work(progress=False)
    prompts = [nv.encode(model, "describe the image.", scene.image) for scene in scenes]
    truths = [shape_truth(scene) for scene in scenes]
    by_masks = patch_grounding(model, prompts, truths=truths, max_new_tokens=5, per_image=True, work=quiet)
    boxes = [
        (f"{seed}.png", f"{each.color} {each.shape}", *box_of(each.mask))
        for seed, scene in enumerate(scenes)
        for each in scene.objects
    ]
    for seed, scene in enumerate(scenes):
        scene.image.save(tmp_path / f"{seed}.png")
    annotations = tmp_path / "coco.json"
    annotations.write_text(json.dumps(coco_of(boxes, scenes[0].image.size)))
    config = ReportConfig(images=str(tmp_path), annotations=str(annotations), max_new_tokens=5).checked()
    made = study.gather(model, config)
    [grounding] = [step for step in steps.steps(model, made, config) if step.name == "patch_grounding"]
    masks, by_boxes = (
        judge({"patch_grounding": rows}).query("claim in ['3a', '3b']").set_index(["claim", "control"])
        for rows in (by_masks, grounding.run(quiet))
    )
    pd.testing.assert_series_equal(by_boxes["verdict"], masks["verdict"])
    assert by_boxes["verdict"]["3a", False] == "holds" and by_boxes["verdict"]["3a", True] == "does not hold"
    assert by_boxes["value"]["3b", False] > 0 and masks["value"]["3b", False] > 0
