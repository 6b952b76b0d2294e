"""Text of others is shown as exactly its characters: in a terminal, in Markdown, in figures, in errors and warnings."""

from __future__ import annotations

import io
import unicodedata
import warnings
from types import SimpleNamespace
from xml.etree import ElementTree

import hostile
import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from markdown_it import MarkdownIt
from nnsight.schema.response import ResponseModel, Status
from PIL import Image
from rich.console import Console

import nnsight_vlm as nv
from nnsight_vlm.errors import NonFiniteWarning, reason_of
from nnsight_vlm.plots import (
    Overlay,
    answer_map,
    dot_rows,
    draw_overlays,
    heat_map,
    knockout_windows,
    layer_lines,
    prompt_ablation,
)
from nnsight_vlm.remote.client import _StatusListener
from nnsight_vlm.report.terminal import as_table
from nnsight_vlm.showing import for_figure, for_markdown, for_terminal, visible
from nnsight_vlm.studies.journal import Journal, _as_part

hostile_text = pytest.mark.parametrize(("text", "shown"), hostile.SHOWN.items(), ids=hostile.IDS)


def in_a_terminal(renderable, width=2_000, **options):
    """What a terminal of colours is sent."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system="truecolor").print(renderable, **options)
    return file.getvalue()


@hostile_text
def test_what_is_shown_is_every_character(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


@given(hostile.texts)
@settings(max_examples=50)
def test_nothing_that_is_shown_acts(text):
    assert visible(text) == hostile.seen(text)
    assert visible(text, keep_lines=True).split("\n") == [visible(line) for line in text.split("\n")]


@hostile_text
def test_a_terminal_shows_the_characters_and_obeys_none(text, shown):
    assert in_a_terminal(for_terminal(text), soft_wrap=True) == f"{shown}\n"


@given(hostile.texts)
@settings(max_examples=50)
def test_a_terminal_obeys_no_text(text):
    assert in_a_terminal(for_terminal(text), soft_wrap=True) == f"{hostile.seen(text)}\n"


@pytest.mark.parametrize("text", hostile.IN_FRAMES)
def test_a_table_shows_names_and_cells_as_they_are(text):
    shown = hostile.SHOWN[text]
    frame = pd.DataFrame({text: [text], "number": [0.25]})
    printed = in_a_terminal(as_table(frame)).replace("\x1b[1m", "").replace("\x1b[0m", "")  # the bold headings
    _, heading, _, cells, _ = printed.splitlines()
    for line, border, number in ((heading, "┃", "number"), (cells, "│", " 0.250")):
        assert line.startswith(f"{border} {shown} ") and line.endswith(f"{border} {number} {border}")


def test_a_narrow_table_cuts_nothing_off():
    lines = in_a_terminal(as_table(pd.DataFrame({"a": ["unbroken" * 60]})), width=30).splitlines()
    assert "".join(line.strip("│ ") for line in lines[3:-1]) == "unbroken" * 60


def code_spans(markdown):
    """The contents of a paragraph of Markdown that is nothing but words of ours and code spans."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    opened, inline, closed = parser.parse(markdown)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children} <= {"text", "code_inline"}
    return [child.content for child in inline.children if child.type == "code_inline"]


@hostile_text
def test_markdown_shows_the_characters(text, shown):
    assert code_spans(f"The model {for_markdown(text)}, and {for_markdown('x')}.") == [shown] * bool(shown) + ["x"]


@given(hostile.texts)
@settings(max_examples=50)
def test_markdown_obeys_no_text(text):
    assert code_spans(f"The model {for_markdown(text)}.") == [hostile.seen(text)] * bool(text)


def drawn_texts(figure):
    """The texts of a figure as an SVG has them; whatever warns while they are drawn raises."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
        figure.savefig(file, format="svg")
    tree = ElementTree.fromstring(file.getvalue())
    return [
        "".join(element.itertext()).replace("\xa0", " ").strip()
        for element in tree.iter("{http://www.w3.org/2000/svg}text")
    ]


def in_a_figure(shown):
    """What a figure in the font that matplotlib brings along shows: it has no Chinese, and texts end after a while."""
    shown = "".join(letter if letter.isascii() or letter in "ïé😀\u200d" else ascii(letter)[1:-1] for letter in shown)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def squeezed(*texts):
    """Texts without spaces, one behind the other: figures break long ones into lines."""
    return "".join("".join(texts).split())


def test_figures_show_the_characters():
    """Names of rows, titles of panels and of figures, notes, colour scales, legends and axes."""
    common = {"measure": "f1", "mean": 0.5, "low": 0.4, "high": 0.6, "control": "none"}
    ablation = pd.DataFrame([{**common, "part": text, "access": "none"} for text in hostile.IN_FRAMES])
    drawn = squeezed(*drawn_texts(prompt_ablation(ablation).figure))
    for text in hostile.IN_FRAMES:
        assert squeezed(in_a_figure(f"without {hostile.SHOWN[text]}")) in drawn
    picture, texts = Image.new("RGB", (8, 8)), ["$\\frac{", "[red]\x1b", "图$x$", "unbroken" * 60]
    every = {"image": picture, "heat": np.eye(8), "peak": (1, 1)}
    maps = [Overlay(title=text, label=f"label {text}", note=f"note {text}", **every) for text in texts[:-1]]
    long = [Overlay(title=texts[-1], **every)]
    routes = [{**common, "route": f"{text}->last", "window": "0-1", "form": "block"} for text in texts[:-1]]
    flow = [{**common, "layer": 1, "group": text} for text in texts[:-1]]
    flow += [{**common, "layer": 1, "group": texts[0], "control": texts[2]}]
    figures = (
        draw_overlays([maps, long]),
        answer_map(picture, maps[0], None, title=texts[2]),
        knockout_windows(pd.DataFrame(routes), label=texts[0]),
        layer_lines(pd.DataFrame(flow), hue="group", label=texts[2]),
        heat_map(pd.DataFrame(flow[:-1]), label=texts[0]),
        dot_rows(pd.DataFrame(flow[:-1]), rows="group", hue="group", label=texts[1]),
    )
    shown = ["$\\frac{", r"[red]\x1b", r"\u56fe$x$"]
    panels, whole, windows, lines, cells, dots = (
        squeezed(*drawn_texts(np.atleast_1d(axes).flat[0].figure)) for axes in figures
    )
    for text in shown:
        assert all(squeezed(word, text) in panels for word in ("", "note", "label"))
        assert f"{text}→last" in windows and text in lines and text in cells and text in dots
    assert ("unbroken" * 8)[:57] + "..." in panels
    assert all(text in whole for text in (shown[0], shown[2]))
    assert f"control:{shown[2]}" in lines


@given(hostile.texts)
@settings(max_examples=50)
def test_a_figure_takes_no_text_for_a_formula(text):
    shown = for_figure(text)
    assert not matplotlib.cbook.is_math_text(shown)
    assert shown.replace(r"\$", "$") == in_a_figure(hostile.seen(text)) or any(
        unicodedata.category(letter)[0] not in "C" and not letter.isascii() for letter in text
    )


def test_a_figure_draws_letters_for_which_a_font_is_named():
    fonts = ["DejaVu Sans", "a font that nobody has"]
    with matplotlib.rc_context({"font.family": fonts}):
        assert for_figure("é图") == r"é\u56fe"
    with matplotlib.rc_context({"font.family": fonts[1:]}):
        assert for_figure("é图") == r"é\u56fe"
    with matplotlib.rc_context({"font.family": ["DejaVu Sans Display", "DejaVu Sans"]}):  # the first has no é
        assert for_figure("é") == "é"


@pytest.mark.parametrize("kind", [nv.SpecError, nv.InterventionError, nv.RemoteError, NonFiniteWarning])
def test_errors_and_warnings_quote_without_obeying(kind):
    assert str(kind("no \x1b[31m\u202e\nsecond line")) == "no \\x1b[31m\\u202e\nsecond line"


def test_the_reason_of_an_error_is_one_line_always():
    assert reason_of(OSError("\nfirst\nsecond")) == "first"
    assert reason_of(KeyError()) == "KeyError"


def test_a_servers_words_are_shown_and_not_obeyed():
    shown, client = [], SimpleNamespace(last_status="")
    listener = _StatusListener(client, SimpleNamespace(update=shown.append))
    response = ResponseModel(id="\x1b[1m", status=Status.QUEUED, description="\x1b]0;title\x07 <b>")
    listener.update(response)
    assert [(each.id, each.description) for each in shown] == [(r"\x1b[1m", r"\x1b]0;title\x07 <b>")]
    assert client.last_status == r"queued: \x1b]0;title\x07 <b>"
    assert response.description == "\x1b]0;title\x07 <b>"


def test_a_part_of_another_journal_is_quoted_and_not_obeyed(tmp_path):
    journal = Journal(folder=tmp_path, recipe="mine", digest="d")
    about = {"recipe": "\x1b[31mtheirs", "digest": "d", "images": [0, 1]}
    journal.part(range(1)).write_bytes(_as_part(pd.DataFrame({"a": [2.0]}), about))
    with pytest.warns(UserWarning, match=r"it says recipe \\x1b\[31mtheirs where mine belongs"):
        assert journal.rows(range(1), lambda _: [{"a": 1.0}])["a"].tolist() == [1.0]
