"""Figures show the numbers of their frames, read back from what is drawn, and the ranges and notes with them."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import tiny
from drawn_frames import (
    ALL,
    NONE,
    PICTURE,
    SINGLE,
    ablation,
    attention,
    bands,
    by_cut,
    by_layer,
    flow,
    grounding,
    joint,
    judged,
    line_with,
    lines_of,
    mapped,
    means,
    patches,
    patching,
    paths,
    regions,
    sorted_rows,
    tokens,
    windows,
)
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm import plots
from nnsight_vlm.plots.depths import span_of
from nnsight_vlm.plots.style import BEYOND, GREY
from nnsight_vlm.studies.labels import ANOTHER_IMAGE, RANDOM_LAYERS, RANDOM_POSITIONS

MAPS = (plots.heat_map, plots.patching_map, plots.causal_trace, plots.path_patching, plots.patch_knockout)
MAPS += (plots.attribution_map,)
"""Figures of which a cell has no room for an interval."""

# lines -----------------------------------------------------------------------------------------------------


def test_lines_are_the_numbers_of_the_frame_with_bands_and_grey_controls():
    frame = by_layer(measure="f1").sample(frac=1, random_state=0)
    axis = plots.layer_lines(frame, hue="group")
    found = []
    for group, control in itertools.product(("image", "last"), (NONE, "random positions")):
        rows = sorted_rows(frame, group=group, control=control)
        line = line_with(axis, rows["mean"])
        assert list(line.get_xdata()) == [0, 1, 2, 3]
        assert (to_hex(line.get_color()) == to_hex(GREY)) == (line.get_linestyle() == "--") == (control != NONE)
        [band] = [each for each in bands(axis) if np.isin(rows["high"], each.get_paths()[0].vertices[:, 1]).all()]
        assert np.isin(rows["low"], band.get_paths()[0].vertices[:, 1]).all()
        found.append(line.get_marker())
    assert found[0] == found[1] != found[2] == found[3]  # a control has the marker of its line
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["image", "last", "control: random positions"]
    assert axis.get_ylabel().replace("\n", " ") == "object F1 against the un-cut description"


def test_crowded_controls_lose_their_bands_and_stay():
    axis = plots.information_flow(flow())
    grey = [line for line in lines_of(axis) if to_hex(line.get_color()) == to_hex(GREY) and len(line.get_xdata()) == 6]
    assert len(grey) == 6 and len(bands(axis)) == 3
    assert axis.get_xlabel() == "centre of a window of 2 to 3 layers"
    assert axis.get_ylabel().replace("\n", " ") == "change of the answer's probability (%)"
    rows = sorted_rows(flow_rows := flow(), "centre", edge="image->query", control=NONE, measure="logprob_change")
    nats = plots.information_flow(flow_rows, measure="logprob_change")
    assert line_with(nats, rows["mean"]).get_label() == "image → query"
    assert nats.get_ylabel().replace("\n", " ") == "change of the answer's log-probability (nats)"


def test_legends_say_how_much_of_a_random_control_is_the_source_itself():
    for draw, frame, keys, plain in (
        (plots.knockout_routes, windows(), {"route": "image->last", "form": "block", "window": "all"}, "edges cut"),
        (plots.information_flow, flow(), {"edge": "image->last", "centre": 0, "layers": "", "width": 2}, "positions"),
    ):
        drawn = [means(**keys, control=RANDOM_POSITIONS, measure="overlap", mean=share) for share in (0.75, 0.875)]
        for more, said in (([], ""), (drawn, ", 75 to 88 % of the source itself"), (drawn[:1], ", 75 % of the source")):
            axis = draw(pd.concat([frame, pd.DataFrame(more)]))
            legend = " ".join(" ".join(text.get_text() for text in axis.get_legend().get_texts()).split())
            assert f"random {plain}{said}" in legend and ("%" in legend) == bool(more)


def test_windows_lie_at_their_centre_with_a_bar_over_their_layers():
    frame = pd.DataFrame([means(layers=layers) for layers in ("5-6", "0-2", "3,8", 4)])
    axis = plots.layer_lines(frame.astype({"layers": str}))
    line = line_with(axis, frame["mean"].to_numpy()[[1, 3, 0, 2]][[0, 1, 2, 3]])
    assert list(line.get_xdata()) == [1, 4, 5.5, 5.5]
    bars = {tuple(bar.get_xdata()): bar.get_ydata()[0] for bar in axis.lines if bar.get_label() == "_window"}
    expected = {(4.6, 6.4): 0, (-0.4, 2.4): 1, (2.6, 3.4): 2, (7.6, 8.4): 2, (3.6, 4.4): 3}
    assert {edges: frame["mean"][row] for edges, row in expected.items()} == bars


@pytest.mark.parametrize(
    "layers", ["all", "attention", "0.25:0.5", "0.0:1.0", "3:3", -1, "-4,-1", "3 | 5", "", None, True, 1.5 - 3j]
)
def test_layers_without_a_place_are_refused(layers):
    frame = pd.DataFrame({"layers": pd.Series([1, layers], dtype=object), "mean": [0.1, 0.2]})
    with pytest.raises(nv.SpecError, match=r"no place on an axis of layers|missing values"):
        plots.layer_lines(frame)


@pytest.mark.parametrize(
    ("layers", "centre", "runs"),
    [
        ("7", 7, ((7, 7),)),
        ("0-2,5", 2, ((0, 2), (5, 5))),
        ("0:3,5", 2, ((0, 2), (5, 5))),
        ("3:4", 3, ((3, 3),)),
        (np.int64(3), 3, ((3, 3),)),
        (2.5, 2.5, ()),
        ("1,2", 1.5, ((1, 2),)),
    ],
)
def test_layers_as_frames_spell_them(layers, centre, runs):
    assert span_of(layers) == (centre, runs)


def test_a_sweep_is_drawn_as_the_change_of_the_log_probability():
    model = tiny.load("sdpa")
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    cuts = [nv.Knockout(source, "last", layers=layer) for source in ("image", "query") for layer in (0, 1)]
    frame = nv.sweep(model, prompt, cuts, answer=20, against=21)
    axis = plots.layer_lines(frame, hue="source")
    assert axis.get_ylabel().replace("\n", " ") == "change of log-probability (nats)"
    difference = plots.layer_lines(frame, hue="source", value="logit_diff", baseline="clean_logit_diff")
    for source in ("image", "query"):
        rows = frame[frame["source"] == source]
        assert line_with(axis, rows["logprob"] - rows["clean_logprob"]).get_label() == source
        assert line_with(difference, rows["logit_diff"] - rows["clean_logit_diff"]).get_label() == source
    plain = plots.layer_lines(frame, hue="source", value="logit")
    assert plain.get_ylabel() == "logit" and line_with(plain, frame["logit"][:2])
    cells = plots.heat_map(frame, rows="source").images[0].get_array()
    assert np.array_equal(cells, (frame["logprob"] - frame["clean_logprob"]).to_numpy().reshape(2, 2))


def test_what_changes_next_to_nothing_looks_like_it():
    frame = by_layer(controls=[NONE], measure="logprob_change")
    frame[["mean", "low", "high"]] *= 1e-6
    low, high = plots.layer_lines(frame, hue="group").get_ylim()
    assert low <= -0.1 and high >= 0.1
    cuts = windows("logprob_change")
    cuts[["mean", "low", "high"]] *= 1e-6
    for axis in plots.answer_windows(cuts):
        assert axis.get_ylim()[0] <= -0.1 and axis.get_ylim()[1] >= 0.1
    scale = plots.heat_map(frame).images[0].norm
    assert (scale.vmin, scale.vmax) == (-0.1, 0.1)


def test_several_rows_for_one_place_are_refused_by_the_columns_in_which_they_differ():
    frame = pd.concat([by_layer(measure="f1", controls=[NONE]), by_layer(measure="recall", controls=[NONE])])
    for draw in (
        plots.layer_lines,
        plots.heat_map,
        lambda given, hue=None: plots.dot_rows(given, rows="layer", hue=hue),
    ):
        options = {} if draw is plots.heat_map else {"hue": "group"}
        with pytest.raises(nv.SpecError, match=r"2 rows for one .*they differ in 'measure'"):
            draw(frame, **options)


def test_names_that_are_missing_are_refused():
    frame = by_layer(controls=[NONE])
    frame.loc[0, "group"] = None
    for draw in (lambda: plots.layer_lines(frame, hue="group"), lambda: plots.heat_map(frame)):
        with pytest.raises(nv.SpecError, match="column 'group' has missing values"):
            draw()


def test_the_end_of_an_interval_that_is_infinite_is_an_arrow_head():
    frame = pd.DataFrame([means(layer=layer, mean=0.5 + layer / 100) for layer in range(4)])
    frame.loc[1, "low"], frame.loc[2, "high"] = -np.inf, np.inf
    axis = plots.layer_lines(frame)
    heads = {
        line.get_marker(): (*line.get_xdata(), *line.get_ydata())
        for line in axis.lines
        if line.get_label() in ("_arrow", BEYOND)
    }
    assert heads == {"v": (1, frame["low"][[0, 2, 3]].min()), "^": (2, frame["high"][[0, 1, 3]].max())}
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [BEYOND]


def test_an_interval_that_is_far_longer_than_all_else_is_cut_and_said_to_be():
    """Means lie 2 apart, so that an interval of 2 times as much beyond them is drawn, and a longer one is not."""
    frame = pd.DataFrame(
        {"part": list("abcd"), "mean": [0.0, 1.0, 2.0, 2.0], "low": [-4.0, 0.9, 1.9, 1.9], "high": [0.1, 1.1, 6.0, 2.1]}
    )
    whole = plots.dot_rows(frame, rows="part")
    assert whole.get_legend() is None and whole.get_xlim()[0] < -4 and whole.get_xlim()[1] > 6
    cut = plots.dot_rows(frame.assign(low=[-4.1, 0.9, 1.9, 1.9], high=[0.1, 500.0, 6.0, 2.1]), rows="part")
    [bars] = [container[2][0] for container in cut.containers]
    assert [tuple(segment[:, 0]) for segment in bars.get_segments()] == [
        (-0.5, 0.1),
        (0.9, 6.0),
        (1.9, 6.0),
        (1.9, 2.1),
    ]
    heads = {(line.get_marker(), *line.get_xdata()) for line in cut.lines if line.get_label() in ("_arrow", BEYOND)}
    assert heads == {("<", -0.5), (">", 6.0)}
    assert [text.get_text() for text in cut.get_legend().get_texts()] == [BEYOND] and cut.get_xlim()[1] < 7


def test_usual_intervals_are_never_cut_however_close_the_means_are():
    frame = pd.DataFrame({"layer": [0, 1, 2], "mean": [0.5, 0.501, 0.502], "low": -30.0, "high": 30.0})
    axis = plots.layer_lines(frame)
    assert axis.get_legend() is None and axis.get_ylim()[0] < -30 and axis.get_ylim()[1] > 30


def test_an_interval_without_ends_is_drawn_with_two_arrow_heads():
    frame = pd.DataFrame({"part": ["a"], "mean": [3.0], "low": [-np.inf], "high": [np.inf]})
    axis = plots.dot_rows(frame, rows="part")
    heads = sorted(line.get_xdata()[0] for line in axis.lines if line.get_label() in ("_arrow", BEYOND))
    assert heads[0] < 3 < heads[1] and np.isfinite(heads).all()


@pytest.mark.parametrize(
    "name", [name for name in ALL if "low" in ALL[name][1] and ALL[name][0] not in MAPS and name != "heads"]
)
def test_every_figure_says_which_intervals_go_on(name):
    """Every interval has no upper end, and each panel on which one is drawn has an arrow head and says so."""
    function, frame, options = ALL[name]
    axes = np.atleast_1d(function(frame.assign(high=np.inf), **(options if name in SINGLE else {})))
    said = {text.get_text() for axis in axes if axis.get_legend() for text in axis.get_legend().get_texts()}
    assert BEYOND in said
    for axis in axes:
        heads = [line for line in axis.lines if line.get_label() in ("_arrow", BEYOND)]
        assert heads and {line.get_marker() for line in heads} <= {"^", ">"}
        assert np.isfinite([*axis.get_xlim(), *axis.get_ylim()]).all()


# maps ------------------------------------------------------------------------------------------------------


def bar_label(axis):
    [bar] = axis.child_axes
    return (bar.get_ylabel() or bar.get_xlabel()).replace("\n", " ")


def test_a_map_has_the_cells_of_the_frame_and_writes_its_range():
    frame = by_layer(controls=[NONE], measure="restoration").sample(frac=1, random_state=1)
    axis = plots.heat_map(frame)
    cells = frame.pivot(index="group", columns="layer", values="mean").loc[["image", "last"], [0, 1, 2, 3]]
    assert np.array_equal(axis.images[0].get_array(), cells)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["image", "last"]
    assert (axis.images[0].norm.vmin, axis.images[0].norm.vmax) == (-1, 1)
    assert bar_label(axis).endswith("full) -1 to 1") and axis.get_legend() is None


def test_signed_values_reach_equally_far_on_both_sides_and_shares_begin_at_0():
    signed = pd.DataFrame({"head": [0, 1], "layer": [0, 0], "estimate": [-0.5, 4.0]})
    norm = plots.heat_map(signed).images[0].norm
    assert (norm.vmin, norm.vmax) == (-4, 4)
    shares = by_layer(controls=[NONE], measure="mass")
    norm = plots.heat_map(shares).images[0].norm
    assert (norm.vmin, norm.vmax) == (0, 1)
    assert plots.heat_map(signed).images[0].cmap.name != plots.heat_map(shares).images[0].cmap.name
    cut = plots.heat_map(signed, limit=2)
    assert (cut.images[0].norm.vmin, cut.images[0].norm.vmax) == (-2, 2)
    assert bar_label(cut) == "estimate -2 to 2, larger values cut off"


def test_cells_without_a_number_are_hatched_and_told():
    frame = by_layer(controls=[NONE]).drop(index=2)
    frame.loc[5, "mean"] = np.nan
    axis = plots.heat_map(frame)
    assert np.ma.getmaskarray(axis.images[0].get_array()).tolist() == [
        [False, False, True, False],
        [False, True, False, False],
    ]
    assert [text.get_text().replace("\n", " ") for text in axis.get_legend().get_texts()] == [
        "hatched: no finite value"
    ]
    assert [patch.get_hatch() for patch in axis.patches] == ["////"]
    assert not plots.heat_map(by_layer(controls=[NONE])).patches


def test_what_survives_many_comparisons_has_a_dot():
    frame = by_layer(controls=[NONE]).assign(survives=False)
    assert not plots.heat_map(frame).lines
    frame.loc[[1, 6], "survives"] = True
    [dots] = plots.heat_map(frame).lines
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(1, 0), (2, 1)]


def test_a_map_of_controls_and_measurements_is_refused():
    frame = by_layer()
    frame = frame[(frame["control"] == NONE) == (frame["layer"] > 1)]
    with pytest.raises(nv.SpecError, match=r"a map shows one control, and frame= has random positions, none; write"):
        plots.heat_map(frame)


def test_a_large_map_labels_as_many_ticks_as_fit():
    frame = pd.DataFrame([{"position": p, "layer": n, "estimate": p * n} for p in range(300) for n in range(40)])
    axis = plots.heat_map(frame)
    assert axis.images[0].get_array().shape == (300, 40)
    assert 3 < len(axis.get_yticklabels()) < 60 and 3 < len(axis.get_xticklabels()) < 20
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [str(int(place)) for place in axis.get_yticks()]


def test_patches_are_drawn_at_their_pixels():
    frame = patches()
    axis = plots.patch_knockout(frame, picture=PICTURE)
    drawn = axis.images[-1].get_array()
    for row in frame.itertuples():
        assert (drawn[int(row.y0) : int(row.y1), int(row.x0) : int(row.x1)] == row.logprob_change).all()
    norm = axis.images[-1].norm
    assert (norm.vmin, norm.vmax) == (-3, 3) and bar_label(axis).endswith("(nats) -3 to 3")
    [note] = [text.get_text().replace("\n", " ") for text in axis.texts]
    assert note == "peak: -3 nats with this patch and its neighbours (4 patches) hidden"
    assert {tuple(map(float, (*ring.get_xdata(), *ring.get_ydata()))) for ring in axis.lines} == {(20.0, 4.0)}


def test_a_thousandth_of_a_nat_looks_like_nothing():
    axis = plots.patch_knockout(patches(scale=1e-3))
    image = axis.images[-1]
    assert (image.norm.vmin, image.norm.vmax) == (-0.1, 0.1)
    shades = image.cmap(image.norm(image.get_array()))[..., :3]
    assert shades.min() > 0.9  # next to white
    assert bar_label(axis).endswith("-0.1 to 0.1")


def test_tiles_are_chosen_and_otherwise_averaged():
    whole, tile = patches(), patches(scale=2.0).assign(tile=1)
    both = pd.concat([whole, tile.assign(token=tile["token"] + 100)])
    one = plots.patch_knockout(both, tile=1).images[-1].get_array()
    mean = plots.patch_knockout(both).images[-1].get_array()
    assert np.allclose(one, 2 * plots.patch_knockout(whole).images[-1].get_array())
    assert np.allclose(mean, 0.75 * one)
    with pytest.raises(nv.SpecError, match="rows for one patch"):
        plots.patch_knockout(pd.concat([whole, tile]))
    with pytest.raises(nv.SpecError, match="picture= has 3 x 3 pixels"):
        plots.patch_knockout(whole, picture=Image.new("RGB", (3, 3)))


def test_the_control_of_patches_is_told():
    axis = plots.patch_knockout(patches().assign(random_patches=0.25))
    assert axis.texts[0].get_text().replace("\n", " ").endswith("hidden; as many random patches: 0.25 at most")


# overlays --------------------------------------------------------------------------------------------------


def overlay(values, **options):
    model = tiny.load("sdpa")
    grid = nv.encode(model, "what is red ?", tiny.picture(0)).grid()
    return plots.Overlay.of(tiny.picture(0), grid, values, **{"title": "map", **options})


def test_an_overlay_says_what_its_peak_means_and_reaches_as_far_as_its_largest_patch():
    axis = plots.draw_overlay(overlay(np.arange(25.0), label="attention, %"))
    norm = axis.images[-1].norm
    assert (norm.vmin, norm.vmax) == (0, 24) and bar_label(axis) == "attention, % 0 to 24"
    assert axis.texts[0].get_text().replace("\n", " ") == "peak: patch with the largest value, 24"
    changes = np.zeros(25)
    changes[7] = -1e-6
    signed = plots.draw_overlay(overlay(changes, label="change (nats)", signed=True, least=0.1, note="peak: mine"))
    assert (signed.images[-1].norm.vmin, signed.images[-1].norm.vmax) == (-0.1, 0.1)
    assert signed.texts[0].get_text() == "peak: mine"


def test_maps_of_one_label_share_a_scale():
    maps = [overlay(np.arange(25.0) * scale, label=label) for scale, label in ((1, "a"), (3, "a"), (7, "b"))]
    axes = plots.draw_overlays([maps[:2], maps[2:]])
    assert axes.shape == (2, 3)
    high = [axis.images[-1].norm.vmax for axis in axes.flat if len(axis.images) > 1]
    assert high == [72, 72, 168]
    bars = [axis for axis in axes[0, 0].figure.axes if axis not in list(axes.flat)]
    assert [bar.get_xlabel() for bar in bars] == ["a\n0 to 72", "b\n0 to 168"]


def test_what_stands_around_pictures_does_not_overlap():
    long = {"note": "peak: patch with the most attention, 12 % of the image's", "title": "a rather purple triangle"}
    figures = [
        plots.draw_overlays([[overlay(np.arange(25.0), **long)] * 4] * 2)[0, 0].figure,
        plots.answer_map(
            tiny.picture(0),
            overlay(np.arange(25.0) - 9, signed=True, **long),
            pd.DataFrame({"layers": ["0-1", "2-3", "asked for"], "form": "block", "logprob_change": [0.5, -3.0, 0.1]}),
            title="a question",
        )[0].figure,
    ]
    for figure in figures:
        figure.draw_without_rendering()
        texts = [text for axis in figure.axes for text in [axis.title, *axis.texts]]
        texts += [label for axis in figure.axes if axis.axison for label in (axis.xaxis.label, *axis.get_xticklabels())]
        boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
        boxes += [axis.get_window_extent() for axis in figure.axes if axis.images]
        apart = [one.overlaps(other) for one, other in itertools.combinations(boxes, 2)]
        assert len(boxes) > 10 and sum(apart) == 0


def test_the_scores_of_an_answer_lie_at_their_layers():
    scores = pd.DataFrame(
        {
            "layers": ["0-2", "3-4", "0-2", "3-4", "asked for"],
            "form": ["block", "block", "allow", "allow", "block"],
            "logprob_change": [-1e-6, 2e-6, 3e-6, -4e-6, 5e-6],
        }
    )
    axis = plots.answer_map(tiny.picture(0), None, scores, title="a question")[-1]
    assert list(line_with(axis, [-1e-6, 2e-6]).get_xdata()) == [1, 3.5]
    assert list(line_with(axis, [3e-6, -4e-6]).get_xdata()) == [1, 3.5]
    assert axis.get_ylim()[0] <= -0.1 and axis.get_ylim()[1] >= 0.1


# the frames of recipes -------------------------------------------------------------------------------------


def test_routes_in_windows_are_the_frame_at_the_centres_of_windows():
    frame = windows()
    axes = plots.knockout_windows(frame)
    assert [axis.get_title() for axis in axes] == ["image → last", "image → query"]
    for axis, route in zip(axes, ("image->last", "image->query"), strict=True):
        for form in ("block", "allow"):
            of_form = frame[(frame["route"] == route) & (frame["form"] == form)]
            cuts = of_form[of_form["window"].str[0].str.isdigit()]
            assert list(line_with(axis, cuts["mean"]).get_xdata()) == [1, 3.5, 6]
            [control] = of_form[of_form["control"] == RANDOM_LAYERS]["mean"]
            assert to_hex(line_with(axis, [control, control]).get_color()) == to_hex(GREY)
        assert line_with(axis, [0.1, 0.1]).get_label() == "blind: image cut from all text"


def test_routes_with_the_same_numbers_share_a_panel_that_says_so():
    frame = windows("logprob_change", routes=("image->last", "image->query"))
    joint = frame[frame["route"] == "image->query"].assign(route="image->text")
    joint["mean"] += 1e-7  # the same cut, rounded elsewhere
    both = pd.concat([frame, joint])
    axes = plots.answer_windows(both)
    assert [axis.get_title().replace("\n", " ") for axis in axes] == [
        "image → last",
        "image → query, image → text: the same numbers",
    ]
    assert plots.answer_windows(both, route="image->text")[0].get_title() == "image → text"
    joint["mean"] += 0.1
    assert len(plots.answer_windows(pd.concat([frame, joint]))) == 3


def dots_of(axis):
    """Means and heights of the dots that are drawn: a bar of each, told by its line."""
    return {(round(float(x), 9), color) for dots in axis.containers for x, color in zip(
        dots[0].get_xdata(), itertools.repeat(to_hex(dots[0].get_color())))}  # fmt: skip


def test_rows_of_dots_are_the_frame_with_controls_in_grey():
    frame = ablation()
    drawn = dots_of(plots.prompt_ablation(frame))
    for row in frame.itertuples():
        found = {color for mean, color in drawn if mean == round(row.mean, 9)}
        assert (found == {to_hex(GREY)}) == (row.control != NONE) and found
    routes = windows()
    cut = routes[(routes["window"].isin(["all", ""]))]
    assert {round(mean, 9) for mean in cut["mean"]} == {mean for mean, _ in dots_of(plots.knockout_routes(routes))}
    general = by_layer(layers=[2])
    assert {round(mean, 9) for mean in general["mean"]} == {
        mean for mean, _ in dots_of(plots.dot_rows(general, rows="group"))
    }
    claims = {mean for axis in plots.claims(judged()) for mean, _ in dots_of(axis)}
    assert claims == {0.8, 0.2}


def test_layers_of_recipes_are_the_frame():
    frame = patching()
    for axis, group in zip(plots.query_patching(frame), ("image", "question", "last"), strict=True):
        for control in (NONE, ANOTHER_IMAGE, RANDOM_POSITIONS):
            assert line_with(axis, sorted_rows(frame, group=group, control=control)["mean"])
    masses = attention()
    query = plots.attention_share(masses, target="query")[0]
    rows = sorted_rows(masses, target="query", source="system", control=NONE, measure="mass")
    assert line_with(query, rows["mean"]).get_label() == "system"
    words = grounding()
    hits = plots.patch_grounding(words, measure="hit")[0]
    rows = words[(words["measure"] == "hit") & (words["read_at"] == "word") & (words["control"] == NONE)]
    assert line_with(hits, rows[rows["layer"].str.isdigit()]["mean"]).get_label() == "read at the word"
    top = words[words["measure"] == "hit"].assign(measure="top_mass")
    [axis] = plots.patch_grounding(top)
    assert axis.get_ylabel().startswith("share of the")


def test_panels_with_one_axis_show_all_intervals():
    """The first panel's numbers are small, and the last one's interval is wide."""
    frame = patching()
    wide = (frame["group"] == "last") & (frame["layer"] == 3)
    frame.loc[wide, ["low", "high"]] = [-1.5, 2.5]
    for axis in plots.query_patching(frame):
        low, high = axis.get_ylim()
        assert low <= -1.5 and high >= 2.5
    frame.loc[wide, ["low", "high"]] = [-40.0, 70.0]
    axes = plots.query_patching(frame)
    assert axes[0].get_ylim() == axes[-1].get_ylim() and axes[0].get_ylim()[1] < 2
    assert BEYOND in {text.get_text() for text in axes[-1].get_legend().get_texts()}


def test_maps_of_patches_show_the_means_and_dot_what_survives():
    frame = mapped()
    axis = plots.patching_map(frame)
    own = frame[frame["control"] == "none"].pivot_table(index="group", columns="layer", values="mean")
    shown = axis.images[0].get_array()
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert sorted(names) == sorted(own.index)
    for row, name in enumerate(names):
        assert np.asarray(shown[row]) == pytest.approx(own.loc[name].to_numpy())
    assert len(axis.lines[0].get_xdata()) == own.size  # all of them survive
    assert plots.patching_map(frame, control="another image").images[0].get_array().shape == own.shape
    cells = ("-2 ?", "-1 :", "last", "all", "-3 ring", "image.0 0,1", "image.0 1,0", "-10 what")
    ordered = plots.causal_trace(mapped("position", cells)).get_yticklabels()
    expected = ["image.0 0,1", "image.0 1,0", "-10 what", "-3 ring", "-2 ?", "-1 :", "last", "all"]
    assert [label.get_text() for label in ordered] == expected
    heads = mapped("head", ("0", "1", "all"), group="last")
    assert plots.patching_map(heads, group="last").images[0].get_array().shape == (3, 4)
    with pytest.raises(nv.SpecError, match="chooses a map of heads"):
        plots.patching_map(frame, group="last")
    percent = plots.pair_routes(by_cut(), measure="percent")
    assert percent.lines[0].get_ydata().tolist() == [40.0, 41.0, 42.0, 43.0]
    low, high = percent.get_ylim()
    assert -25 < low < 0 and 100 < high < 125


def test_routes_by_cut_are_the_frame_with_their_controls():
    frame = by_cut()
    axis = plots.pair_routes(frame)
    for route, control in itertools.product(("total", "direct", "text-mediated"), (NONE, ANOTHER_IMAGE)):
        rows = sorted_rows(frame, "cut", route=route, control=control, measure="restoration")
        line = line_with(axis, rows["mean"])
        assert (to_hex(line.get_color()) == to_hex(GREY)) == (control != NONE)
    assert axis.get_xlabel() == "first layer that is changed"


def dots_in(axis):
    """`(row, mean, whether it is grey)` of every dot, rows by their names."""
    names = {round(tick.get_position()[1]): tick.get_text().replace("\n", " ") for tick in axis.get_yticklabels()}
    return sorted(
        (names[round(height)], mean, to_hex(container[0].get_color()) == to_hex(GREY))
        for container in axis.containers
        for mean, height in zip(container[0].get_xdata(), container[0].get_ydata(), strict=True)
    )


def test_routes_cut_open_and_swapped_are_rows_of_dots():
    frame = joint()
    expected = [
        (row.route.replace("->", " → "), row.mean, row.control != NONE)
        for row in frame.itertuples()
        if row.measure != "logprob_change" and row.condition != "others swapped" and "&" not in row.route
    ]
    axis = plots.joint_routes(frame)
    assert dots_in(axis) == sorted(expected)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["image → last", "image → question", "all"]
    assert axis.get_xlim()[0] < -0.25 and axis.get_xlim()[1] >= 1
    with pytest.raises(nv.SpecError, match="no loss and no restoration"):
        plots.joint_routes(frame[frame["measure"] == "logprob_change"])


def test_sets_of_tokens_are_rows_of_dots_beside_the_run_without_an_ablation():
    frame = tokens()
    names = {
        "object": "the object's tokens",
        "random": "as many random tokens",
        "gradient": "as many of largest gradient",
    }
    expected = [
        (f"{names[row.tokens]}, border {row.border}", row.mean, row.control != NONE)
        for row in frame.itertuples()
        if row.tokens != "nothing"
    ]
    axis = plots.ablation(frame)
    assert dots_in(axis) == sorted(expected)
    [clean] = [line for line in axis.lines if line.get_label() == "no ablation"]
    assert list(clean.get_xdata()) == [0.9, 0.9]
    single = plots.ablation(tokens(["mean"], [0]), measure="kept")
    assert {name for name, _, _ in dots_in(single)} == set(names.values())
    both = pd.concat([frame, frame.assign(form="polling")])
    with pytest.raises(
        nv.SpecError, match=r"several forms; draw one at a time: frame\[frame\['form'\] == 'question'\]"
    ):
        plots.ablation(both, measure="kept")


def test_regions_that_were_hidden_in_many_pictures_are_rows_of_dots():
    frame = regions()
    names = {"patch": "a patch and its neighbours", "object": "the object's patches", "image": "the whole image"}
    for measure in ("logprob_change", "hit"):
        rows = frame[frame["measure"] == measure]
        expected = [(names[row.region], row.mean, row.control != NONE) for row in rows.itertuples()]
        assert dots_in(plots.patch_knockout(frame, measure=measure)) == sorted(expected)
    assert dots_in(plots.patch_knockout(frame)) == dots_in(plots.patch_knockout(frame, measure="logprob_change"))
    for given in ({"tile": 0}, {"limit": 1.0}, {"picture": PICTURE}):
        with pytest.raises(nv.SpecError, match=f"{next(iter(given))}= belongs to the map of one prompt"):
            plots.patch_knockout(frame, **given)
    with pytest.raises(nv.SpecError, match="measure='hit' chooses a number of the frame of several prompts"):
        plots.patch_knockout(patches(), measure="hit")


def test_a_map_of_paths_has_a_row_for_each_receiver_and_a_column_behind_all_layers():
    frame = paths()
    for control in (NONE, ANOTHER_IMAGE):
        axis = plots.path_patching(frame, Figure(figsize=(8, 3)).subplots(), control=control)
        rows = frame[frame["control"] == control]
        for number, name in enumerate(("question", "last")):
            of_receiver = rows[rows["receiver"] == name]
            means_of = [*of_receiver.dropna(subset="layer")["mean"], *of_receiver[of_receiver["layer"].isna()]["mean"]]
            assert axis.images[0].get_array()[number].tolist() == means_of
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["4", "5", "output"]
    [dots] = plots.path_patching(frame).lines
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0, 1), (1, 1), (2, 1)]
    assert plots.path_patching(frame).get_title() == "from image residual 3"
    layers = plots.path_patching(paths(layers=(10, 9, 2)))
    assert [tick.get_text() for tick in layers.get_xticklabels()] == ["2", "9", "10"]
    with pytest.raises(nv.SpecError, match=r"several senders; draw one at a time: frame\[frame\['sender'\] == "):
        plots.path_patching(pd.concat([frame, frame.assign(sender="last residual 2")]))
