"""Figures: one panel or all, in axes of the user or their own, readable, with legends that name what is there."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from drawn_frames import ALL, NONE, PANELS, SINGLE, flow, patching
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.plots.style import COLUMN, SMALL


def figure_of(axes):
    return np.atleast_1d(axes).flat[0].figure


@functools.cache
def own(name):
    """The figure of a function's own, with all of its panels."""
    function, frame, options = ALL[name]
    return figure_of(function(frame, **(options if name in SINGLE else {})))


# one panel, or all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_axes_that_are_given_are_drawn_into_and_come_back(name):
    function, frame, options = ALL[name]
    figure = Figure(figsize=(7, 3.5))
    left, right = figure.subplots(1, 2)
    before = set(pyplot.get_fignums())
    assert function(frame, ax=right, **options) is right
    assert figure.axes == [left, right] and set(pyplot.get_fignums()) == before
    assert right.has_data() and not left.has_data() and not left.get_children()[0].get_label().startswith("line")


@pytest.mark.parametrize("name", PANELS)
def test_without_axes_there_is_a_figure_of_all_panels(name):
    function, frame, options, count = PANELS[name]
    axes = function(frame)
    assert isinstance(axes, np.ndarray) and axes.shape == (count,)
    assert list(axes) == axes[0].figure.axes and all(axis.has_data() for axis in axes)
    assert function(frame, **options).shape == (1,)


@pytest.mark.parametrize("name", PANELS)
def test_several_panels_do_not_go_into_one_axes(name):
    function, frame, options, count = PANELS[name]
    [word] = options
    with pytest.raises(nv.SpecError, match=f"ax= holds one panel, and there are {count}; choose one with {word}="):
        function(frame, ax=Figure().subplots())
    with pytest.raises(nv.SpecError, match=f"there is no panel of {word}='unknown'; write {word}= one of"):
        function(frame, **{word: "unknown"})


def test_axes_in_a_part_of_a_figure_are_drawn_into():
    figure = Figure(figsize=(7, 3))
    axis = figure.subfigures(1, 2)[1].subplots()
    for function, frame, options in ALL.values():
        assert function(frame, ax=axis, **options) is axis
        axis.clear()


@pytest.mark.parametrize("name", SINGLE)
def test_a_figure_of_one_panel_comes_back_as_its_axes(name):
    function, frame, options = SINGLE[name]
    axis = function(frame, **options)
    assert axis.figure.axes == [axis]


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("layer_lines", "dot_rows", "heat_map")])
def test_the_frame_of_another_recipe_is_refused_in_words(name):
    function, _, _ = ALL[name]
    other = flow() if name != "information_flow" else patching()
    with pytest.raises(nv.SpecError, match=r"frame.* write the frame of"):
        function(other)
    with pytest.raises(nv.SpecError, match="there is nothing to draw"):
        function(other.iloc[:0])


# what can be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_one_column_wide_and_its_letters_can_be_read(name):
    figure = own(name)
    assert figure.get_figwidth() == COLUMN == 3.3
    for axis in figure.axes:
        texts = [text for text in axis.findobj(lambda artist: hasattr(artist, "get_fontsize")) if text.get_text()]
        assert texts and all(text.get_fontsize() >= SMALL for text in texts)
    drawn = figure.get_tightbbox()
    assert drawn.x0 >= -0.1 and drawn.x1 <= COLUMN + 0.1


@pytest.mark.parametrize("name", ALL)
def test_labels_of_ticks_do_not_overlap(name):
    figure = own(name)
    figure.draw_without_rendering()
    for axis in figure.axes:
        for ticks, along in ((axis.get_xticklabels(), 0), (axis.get_yticklabels(), 1)):
            boxes = [tick.get_window_extent() for tick in ticks if tick.get_text() and tick.get_visible()]
            spans = sorted((box.min[along], box.max[along]) for box in boxes)
            assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans)), name


@pytest.mark.parametrize("name", ALL)
def test_no_legend_lies_on_data(name):
    function, frame, options = ALL[name]
    given = Figure(figsize=(6, 4)).subplots(1, 2)[1]
    for figure in (own(name), figure_of(function(frame, ax=given, **options))):
        figure.draw_without_rendering()
        legends = [axis.get_legend() for axis in figure.axes if axis.get_legend() is not None]
        for legend, axis in itertools.product(legends, figure.axes):
            assert not legend.get_window_extent().overlaps(axis.get_window_extent())
            below = [*axis.get_xticklabels(), axis.xaxis.label]
            boxes = [text.get_window_extent() for text in below if text.get_text() and text.get_visible()]
            assert not any(legend.get_window_extent().overlaps(box) for box in boxes)


MAPS = ("patch_knockout", "causal_trace", "patching_map", "patching_map of heads", "attribution_map")
MAPS += ("path_patching", "path_patching of heads", "heads")
"""Figures that show no control beside the measurement."""


@pytest.mark.parametrize("name", [name for name in ALL if name not in MAPS])
def test_no_legend_names_what_has_no_data(name):
    """The rows of all controls lose their numbers, and the legend loses their entries."""
    function, frame, options = ALL[name]
    named = {text.get_text() for axis in own(name).axes if axis.get_legend() for text in axis.get_legend().get_texts()}
    without = frame.copy()
    known = [control for control in dict.fromkeys(frame["control"]) if control not in (NONE, False, True)]
    if not known:
        assert not named
        return
    without.loc[without["control"].isin(known), ["mean", "low", "high"]] = np.nan
    figure = figure_of(function(without, **(options if name in SINGLE else {})))
    left = {text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()}
    assert left < named
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        assert len(handles) == len(labels)
        for handle in handles:
            line = handle[0] if isinstance(handle, tuple) else handle
            assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any()


def test_a_notebook_shows_a_figure_also_without_pyplot():
    maps = nv.plots.Overlay(image=Image.new("RGB", (8, 8)), heat=np.ones((8, 8)), peak=(4, 4), title="one")
    figures = [own(next(iter(ALL))), figure_of(nv.plots.draw_overlays([[maps]]))]
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in figures)
