"""index.html of a report: its numbers are those of the frames, its words those of report.md; it asks for nothing."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pandas as pd
import pytest
import report_pages
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.report import page as page_module
from nnsight_vlm.report import page_pictures, page_tables, write_report, writing
from nnsight_vlm.report.config import ReportConfig
from nnsight_vlm.report.numbers import with_interval
from nnsight_vlm.report.page_methods import command_of
from nnsight_vlm.report.sections import SECTIONS

PARTS = ["attention_share", "object_score", "patching_map"]
OPTIONS = {"scenes": 2, "section_images": 2, "max_new_tokens": 16, "only": PARTS, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of three parts on two scenes, and what its page was made of."""
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "page", lambda *parts: given.extend(parts) or page_module.page(*parts))
        return write_report(tmp_path_factory.mktemp("paged"), **OPTIONS), given


@pytest.fixture(scope="module")
def report(made):
    return made[0]


@pytest.fixture(scope="module")
def page(report):
    return report_pages.read(report.folder / "index.html")


def test_every_frame_is_a_table_with_the_numbers_of_its_files(report, page):
    shown = report_pages.tables(page)
    behind = [f"{name}_per_image" for name in report.frames]
    assert list(shown) == [
        "claims",
        *(f"frames/{name}" for pair in zip(report.frames, behind, strict=True) for name in pair),
    ]
    for name, table in shown.items():
        of_parquet, of_csv = (
            pd.read_parquet(report.folder / f"{name}.parquet"),
            pd.read_csv(report.folder / f"{name}.csv"),
        )
        most = page_tables.MOST_IMAGES if name.endswith("_per_image") else page_tables.MOST_MEANS
        assert len(table) == min(len(of_parquet), most) > 0
        report_pages.assert_same_numbers(table, of_parquet)
        for column in of_csv.select_dtypes(float).columns.intersection(table.select_dtypes(float).columns):
            np.testing.assert_allclose(table[column], of_csv[column].head(len(table)), rtol=1e-15)


def test_a_long_table_says_how_long_it_is_and_which_file_has_all(report, page):
    frame = pd.read_parquet(report.folder / "frames" / "patching_map_per_image.parquet")
    [said] = [each.text for each in page.every("p", id="table-patching_map-behind-caption")]
    assert len(frame) > page_tables.MOST_IMAGES
    assert f"the first {page_tables.MOST_IMAGES} of {len(frame)} rows; frames/patching_map_per_image.csv" in said


def test_its_sections_say_what_report_md_says(report, page):
    text = (report.folder / "report.md").read_text().replace("`", "").replace("*", "")
    lines = {
        tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in text.splitlines() if line[:2] == "| "
    }
    for name in PARTS[1:]:
        [section] = page.every("section", id=name)
        rows = [[cell.text for cell in row.children] for row in section.every("tbody")[0].every("tr")]
        assert rows and {tuple(row) for row in rows} <= lines
        assert section.every("p")[0].text.strip().split(" ", 1)[1] in text
        assert section.every("img")[0].attributes["src"].startswith("data:image/")
    [claims] = page.every("table", class_="claims")
    for row in claims.every("tbody")[0].every("tr"):
        assert tuple(cell.text for cell in row.children) in {tuple(cell.strip() for cell in line) for line in lines}


def test_what_its_numbers_can_show_stands_beside_each_analysis(page):
    kinds = {name: page.every("section", id=name)[0].every("span")[0].text for name in PARTS[1:]}
    assert kinds == {section.name: section.recipe.shows for section in SECTIONS if section.name in PARTS}


def test_the_first_pictures_can_be_opened_whatever_was_measured(report, page):
    frames = [each for template in page.every("template") for each in template.every("iframe")]
    assert len(frames) == OPTIONS["scenes"]
    model = nv.load("shapes")
    for number, each in enumerate(frames):
        scene = nv.shapes.scene(number)
        prompt = nv.encode(model, "describe the image.", scene.image)
        expected = nv.view(model, prompt, max_new_tokens=16, objects=scene.objects, limit=page_pictures.LIMIT)
        assert each.attributes["srcdoc"] == expected.html()
        assert each.attributes["sandbox"] == "allow-scripts allow-downloads"


def test_it_says_how_it_was_made(report, page):
    [made] = page.every("section", id="made")
    assert (
        made.every("code")[0].text
        == f"nnsight-vlm report --scenes 2 --max-new-tokens 16 --only {','.join(PARTS)} --section-images 2"
    )
    facts = dict(zip((each.text for each in made.every("dt")), (each.text for each in made.every("dd")), strict=True))
    assert facts["model"] == "shapes" and facts["pictures"].startswith("synthetic scenes with the seeds 0 to 1")
    for name, frame in report.frames.items():
        paragraph = nv.cite(frame).partition("\n\nReferences:")[0]
        assert paragraph in [each.text for each in made.every("p", class_="said")], name
    assert "Kaduri, Omri" in made.text.replace("Kaduri Omri", "Kaduri, Omri") and "@misc{kaduri2024" in made.text


def test_it_is_one_small_file_that_asks_for_nothing(report, page):
    path = report.folder / "index.html"
    assert path.stat().st_size < 2_000_000
    [policy] = [each for each in page.every("meta") if "Content-Security-Policy" in each.attributes.values()]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data: blob:;")
    for each in page.every(""):
        assert each.tag not in ("link", "base", "object", "embed", "form")
        for name in ("src", "href", "action", "poster", "data"):
            assert re.match(r"data:image/|#|$", each.attributes.get(name, "")), (each.tag, name)
    assert not re.search(r"@import|url\(", page.every("style")[0].text)


def test_headings_and_names_are_in_order(page):
    ids = [each.attributes["id"] for each in page.every("") if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    assert {each.attributes["href"][1:] for each in page.every("a")} <= set(ids)
    assert [len(page.every(tag)) for tag in ("h1", "main", "header", "footer", "nav")] == [1] * 5


def test_the_same_report_gives_the_same_page(made):
    report, given = made
    assert page_module.page(*given) == (report.folder / "index.html").read_text()


def test_a_picture_that_cannot_be_looked_into_says_why(report, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise nv.SpecError("image tokens of <this> model stand for no part of a picture")

    monkeypatch.setattr(page_pictures, "view", refuses)
    monkeypatch.setattr(writing, "draw", lambda *_: {})
    write_report(tmp_path, scenes=1, only=["attention_share"], max_new_tokens=4, progress=False)
    page = report_pages.read(tmp_path / "index.html")
    assert not page.every("template")
    assert "image tokens of <this> model" in page.every("section", id="pictures")[0].text


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, "nnsight-vlm report"),
        ({"scenes": 8, "seed": 3, "chunk": 2}, "nnsight-vlm report --scenes 8 --seed 3 --chunk 2"),
        ({"only": ("ablation", "heads"), "query": "what?"}, "nnsight-vlm report --query 'what?' --only ablation,heads"),
        ({"items": "q.csv", "columns": {"image": "f"}}, "nnsight-vlm report --items q.csv --columns image=f"),
        ({"images": "/a b", "leave_out": True}, "nnsight-vlm report --images '/a b' --leave-out"),
        ({"remote": "http://me:secret@127.0.0.1:1"}, "nnsight-vlm report --host http://127.0.0.1:1"),
        ({"remote": True}, "nnsight-vlm report --remote"),
        ({"items": pd.DataFrame()}, "nv.report.write_report(folder, items=items)"),
    ],
)  # fmt: skip
def test_the_command_is_what_was_asked(given, written):
    assert command_of(ReportConfig(**given)) == written


def test_the_command_that_is_shown_is_one(tmp_path):
    """An option of another name would be refused with code 2 as well, but with other words."""
    command = command_of(ReportConfig(scenes=2, only=("no_such",), rows=8, objects=("a", "b"), section_images=3))
    done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--out", str(tmp_path)])
    assert done.exit_code == 2 and "has no part 'no_such'" in done.stderr


def test_what_is_infinite_is_said_in_words():
    assert with_interval(-0.5, -np.inf, np.inf, digits=2) == "-0.50 (no bound on either side)"
    assert with_interval(-0.5, -np.inf, 0.25, digits=2) == "-0.50 [no bound, 0.25]"
    assert with_interval(np.inf, np.nan, np.nan) == "no finite mean"
