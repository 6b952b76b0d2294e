"""The further analyses of a report: their numbers, what is chosen, what is refused, and what is said of it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.recipes import Work, patching_map
from nnsight_vlm.report import pieces, study, write_report, writing
from nnsight_vlm.report.chosen import BASE, NAMES
from nnsight_vlm.report.section_inputs import few_layers
from nnsight_vlm.report.sections import MOST, SECTIONS
from nnsight_vlm.studies.registry import RECIPES

FURTHER = tuple(section.name for section in SECTIONS)
NUMBER = r"[-+]?\d+\.\d+"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Every further analysis of two scenes, and no other part."""
    out = tmp_path_factory.mktemp("sections")
    return write_report(out, scenes=3, section_images=2, max_new_tokens=16, without=BASE, progress=False)


@pytest.fixture(scope="module")
def text(report):
    return (report.folder / "report.md").read_text()


def section_of(text, section):
    return text.partition(f"### {section.title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


def test_every_section_has_its_question_its_kind_its_numbers_and_its_figure(report, text):
    assert set(report.frames) == set(FURTHER)
    for section in SECTIONS:
        said = section_of(text, section)
        assert RECIPES[section.name].asks in said and f"`{section.name}`, after " in said
        kind = {"could": "*could*", "does": "*does*", "reads": "*reads*"}[RECIPES[section.name].shows]
        assert kind in said and " on 2 images. " in said
        assert "Nothing is changed" not in said or "cuts" not in said, "a row of a cut is no reading"
        assert f"](figures/{section.figure}.png)" in said
        assert (report.folder / "figures" / f"{section.figure}.png").is_file()
        for name in (section.name, f"{section.name}_per_image"):
            frame = pd.read_parquet(report.folder / "frames" / f"{name}.parquet")
            assert frame.attrs["recipe"] == section.name and len(frame)


@pytest.mark.parametrize("section", SECTIONS, ids=FURTHER)
def test_the_numbers_told_are_those_of_the_frame(report, text, section):
    """Every number of a line is that of a row of the frame, to the digits that are written."""
    frame = report.frames[section.name]
    lines = [
        line for line in section_of(text, section).splitlines() if line.startswith("| ") and "measured" not in line
    ]
    assert 0 < len(lines) <= MOST
    known = frame[["mean", "low", "high"]].to_numpy(dtype=float)
    for line in lines:
        cells = line.strip("| ").split(" | ")
        told = " ".join(cells[1:3]).replace("(no bound on either side)", "[no bound, no bound]")
        found = re.findall(rf"({NUMBER}) \[({NUMBER}|no bound), ({NUMBER}|no bound)\]", told)
        found += [(mean, "nan", "nan") for mean in re.findall(rf"({NUMBER}) \(no interval\)", told)]
        assert len(found) == 1 + (cells[2].count(": ") if len(cells) > 3 else 0), line
        for each in found:
            signs = ("", "-inf", "inf")
            written = np.array([float(end if end != "no bound" else signs[at]) for at, end in enumerate(each)])
            assert np.isclose(known, written, rtol=0, atol=0.005 + 1e-9, equal_nan=True).all(1).any(), line


def test_controls_stand_beside_the_numbers_that_they_control(report, text):
    frame = report.frames["patching_map"].query("measure == 'restoration' and group == 'last' and layer == 9")
    means = frame.set_index("control")["mean"]
    [line] = [each for each in section_of(text, SECTIONS[FURTHER.index("patching_map")]).splitlines()
              if each.startswith("| last, after layer 9 |")]  # fmt: skip
    _, measured, control, _ = line.strip("| ").split(" | ")
    assert float(measured.split()[0]) == pytest.approx(means["none"], abs=0.006)
    assert len(means) > 1
    told = dict(part.strip().split(": ") for part in control.replace("`", "").split(";"))
    assert {name: float(number.split()[0]) for name, number in told.items()} == pytest.approx(
        means.drop("none").to_dict(), abs=0.006
    )


def test_a_section_is_a_small_run_of_its_recipe(report):
    model = nv.load("shapes")
    pairs = study.color_pairs(model, first=0, count=2)
    expected = patching_map(model, pairs, layers=few_layers(model), work=Work(progress=False))
    pd.testing.assert_frame_equal(report.frames["patching_map"], expected, check_dtype=False, atol=1e-6)


def test_what_was_not_asked_for_is_said_and_decides_no_claim(report, text):
    assert f"Not asked for: {', '.join(f'`{name}`' for name in BASE)}." in text
    assert report.claims["verdict"].str.startswith("not asked for (").all()
    assert "## Figures" not in text and "## Not measured" not in text


def test_a_report_grows_by_the_parts_that_are_asked_for_later(report, monkeypatch):
    before = (report.folder / "frames" / "object_score.parquet").read_bytes()
    monkeypatch.setattr(writing, "draw", lambda *_: {})
    options = {"scenes": 3, "section_images": 2, "max_new_tokens": 16, "progress": False}
    more = write_report(report.folder, **options, only=["attention_share", "object_score"])
    assert set(more.frames) == {"attention_share", "object_score"}
    assert (report.folder / "frames" / "object_score.parquet").read_bytes() == before


def test_a_part_that_refuses_is_told_and_ends_nothing(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise nv.SpecError("this model has no such heads; write another")

    def overflows(*_, **__):
        raise nv.InterventionError("a logit is infinite")

    monkeypatch.setattr(nv.recipes, "patching_map", refuses)
    monkeypatch.setattr(nv.recipes, "image_lens", overflows)
    only = ["object_score", "image_lens", "patching_map"]
    done = write_report(tmp_path, scenes=1, max_new_tokens=8, only=only, progress=False)
    assert set(done.frames) == {"object_score"}
    missing = (tmp_path / "report.md").read_text().partition("## Not measured")[2]
    assert "another picture's answer: left out, because this model has no such heads; write another." in missing
    assert "left out, because a logit is infinite." in missing
    listed = pd.read_csv(tmp_path / "left-out.csv", keep_default_na=False)
    assert set(listed["why"]) == {"this model has no such heads; write another", "a logit is infinite"}


def test_pictures_without_answers_say_what_they_lack(tmp_path):
    tiny.save(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    tiny.picture(0, (24, 20)).save(tmp_path / "photos" / "0.png")
    options = {"model": str(tmp_path / "model"), "images": str(tmp_path / "photos"), "progress": False}
    options |= {"query": "describe the image .", "max_new_tokens": 4}
    write_report(tmp_path / "out", only=["attention_share", *FURTHER], **options)
    missing = (tmp_path / "out" / "report.md").read_text().partition("## Not measured")[2]
    for section in SECTIONS:
        why = {
            "questions": "a folder of pictures has no answers",
            "pairs": "a folder of pictures has no pairs of them",
            "descriptions": "nothing says which objects are in the pictures",
        }[section.of]
        assert f"- {section.title}: left out, because {why}" in missing
    with pytest.raises(nv.SpecError, match="nothing to measure: image_lens: a folder of pictures has no answers"):
        write_report(tmp_path / "none", only=["image_lens"], **options)
    assert not (tmp_path / "none" / "report-settings.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ["abaltion"]}, "has no part 'abaltion'; write some of knockout_windows"),
        ({"without": ["sections"]}, "--without .* has no part 'sections'"),
        ({"only": ["ablation"], "without": ["ablation"]}, "drop it"),
        ({"without": NAMES}, "leaves nothing"),
        ({"only": "ablation"}, "only"),
        ({"section_images": 0}, "section_images"),
    ],
)
def test_wrong_choices_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(writing, "load_by_name", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(nv.SpecError, match=message):
        write_report(tmp_path / "out", **given)


def test_the_command_line_takes_the_same_choices(tmp_path):
    done = CliRunner().invoke(app, ["report", "--only", "no_such", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "has no part 'no_such'" in done.stderr


@pytest.mark.parametrize(
    ("names", "truths", "words"),
    [
        (("attention_share",), (), ""),
        (("query_patching", "prompt_ablation"), None, ""),
        (("prompt_ablation",), (), "The ablation of the prompt is of half of the scenes, at least 8."),
        (
            ("query_patching", "prompt_ablation"),
            (),
            "Interchange patching and the ablation of the prompt are of half of the scenes, at least 8.",
        ),
    ],
)
def test_only_parts_that_were_measured_are_said_to_be_of_half_of_the_scenes(names, truths, words):
    results = SimpleNamespace(frames=dict.fromkeys(names), study=SimpleNamespace(truths=truths))
    assert pieces.halved(results) == words
