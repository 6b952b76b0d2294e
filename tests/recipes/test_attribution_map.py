"""Attribution maps: estimates and patches by plain torch, what is known of `shapes`, and what controls show."""

from __future__ import annotations

import interchanged
import numpy as np
import pandas as pd
import pytest
import torch
from float64 import LIMIT
from matplotlib.text import Annotation

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Pair, Work, attribution_map, estimated_places, pair_estimates
from nnsight_vlm.report.study import color_pairs
from nnsight_vlm.studies.pair_sources import third_picture

QUIET = Work(progress=False)


@pytest.fixture
def pairs(sdpa):
    return interchanged.known_pairs(sdpa)


def one(frame, **labels):
    chosen = frame.loc[np.logical_and.reduce([frame[name] == value for name, value in labels.items()])]
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


def difference(logits, pair):
    return logits[pair.other_answer] - logits[pair.answer]


def gradient(model, pair, layer):
    """Of the logit difference, with respect to what a layer gives, `[position, width]`; by a plain hook."""
    held = []

    def hook(_, __, output):
        state = (output[0] if isinstance(output, tuple) else output).detach().requires_grad_()
        held.append(state)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = interchanged.layers_of(model)[layer].register_forward_hook(hook)
    try:
        with torch.enable_grad():
            logits = view_of(model).module(**pair.prompt.inputs, use_cache=False).logits[0, -1]
            [found] = torch.autograd.grad(difference(logits, pair), held)
    finally:
        handle.remove()
    return found[0]


def difference_of_runs(model, pair):
    return tuple(float(difference(interchanged.logits(model, prompt), pair)) for prompt in (pair.prompt, pair.other))


# by hand ------------------------------------------------------------------------------------------


@pytest.mark.float64
@torch.no_grad()
def test_estimates_and_patches_are_those_of_plain_torch(sdpa, pairs):
    some = pairs[:3]
    rows = attribution_map(sdpa, some, at="residual", layers=[0, 2], exact=100, per_image=True, work=QUIET)
    for image, pair in enumerate(some):
        before, after = difference_of_runs(sdpa, pair)
        own = interchanged.states(sdpa, pair.prompt)
        assert before < 0 < after
        for layer in (0, 2):
            slope = gradient(sdpa, pair, layer)
            for control, donor in (("none", pair.other), ("another image", third_picture(some, image))):
                given = interchanged.states(sdpa, donor)
                for group in ("image", "question", "last"):
                    at = list(pair.prompt[group])
                    here = {"image": image, "group": group, "layer": layer, "control": control}
                    found = rows[np.logical_and.reduce([rows[name] == value for name, value in here.items()])]
                    expected = float(((given[layer + 1] - own[layer + 1])[at] * slope[at]).sum())
                    estimate = found[found["estimate"].notna()].iloc[0]
                    assert estimate["estimate"] == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
                    assert estimate["estimate_restored"] == pytest.approx(expected / (after - before), abs=LIMIT)
                    if control == "none":
                        patched = {layer: {position: given[layer + 1][position] for position in at}}
                        logits = interchanged.logits(sdpa, pair.prompt, patched)
                        effect = float(difference(logits, pair)) - before
                        exact = found[found["exact"].notna()].iloc[0]
                        assert exact["exact"] == pytest.approx(effect, rel=LIMIT, abs=LIMIT)
                        assert exact["exact_restored"] == pytest.approx(effect / (after - before), abs=LIMIT)


@pytest.mark.float64
@torch.no_grad()
def test_a_head_is_estimated_and_patched_where_the_output_projection_reads_it(sdpa, pairs):
    pair, layer, size = pairs[0], 2, 8
    rows = attribution_map(
        sdpa, [pair], at="head", groups=["last"], layers=layer, exact=100, per_image=True, work=QUIET
    )
    before, _ = difference_of_runs(sdpa, pair)
    given = interchanged.head_inputs(sdpa, pair.other)[layer][-1]
    projection = interchanged.layers_of(sdpa)[layer].self_attn.o_proj
    for head in range(4):
        part = slice(head * size, (head + 1) * size)

        def write(_, handed, part=part):
            changed = handed[0].clone()
            changed[0, -1, part] = given[part]
            return (changed,)

        hook = projection.register_forward_pre_hook(write)
        effect = float(difference(interchanged.logits(sdpa, pair.prompt), pair)) - before
        hook.remove()
        found = rows[(rows["head"] == str(head)) & rows["exact"].notna()]
        assert found["exact"].tolist() == pytest.approx([effect], rel=LIMIT, abs=LIMIT)
    both = rows.groupby("head", sort=False)[["estimate", "exact"]].first().drop(index="all")
    expected = np.corrcoef(both["estimate"], both["exact"])[0, 1]
    assert rows["correlation"].dropna().tolist() == pytest.approx([expected], rel=1e-9)


def test_the_largest_mean_estimates_of_each_site_are_patched_in_every_pair(sdpa, pairs):
    rows = attribution_map(sdpa, pairs[:3], layers=[0, 1], exact=2, per_image=True, work=QUIET)
    own = rows[(rows["control"] == "none") & rows["estimate"].notna()]
    for site, some in own.groupby("site"):
        means = some.groupby(["layer", "group", "head"])["estimate"].mean().abs().nlargest(2)
        patched = rows[(rows["site"] == site) & rows["exact"].notna()]
        assert {(r.layer, r.group, r.head) for r in patched.itertuples()} == set(means.index)
        assert (patched.groupby(["layer", "group", "head"])["image"].nunique() == 3).all()


def test_pairs_whose_runs_do_not_differ_in_sign_are_left_out(sdpa, pairs):
    wrong = Pair(pairs[0].other, pairs[0].prompt, pairs[0].answer, pairs[0].other_answer)
    frame = attribution_map(sdpa, [pairs[0], wrong], at="residual", layers=[1], exact=1, cluster=[0, 1], work=QUIET)
    assert set(frame["images"]) == {1}


def test_comparisons_are_counted_and_tested_against_the_third_picture(sdpa, pairs):
    frame = attribution_map(sdpa, pairs[:5], at="residual", layers=[0, 2], exact=0, work=QUIET)
    assert frame.attrs["against"] == "another image" and frame.attrs["comparisons"] == 6 == frame["p"].notna().sum()
    assert set(frame["measure"]) == {"estimate", "estimate_restored"}
    rows = attribution_map(sdpa, pairs[:5], at="residual", layers=[0, 2], exact=0, per_image=True, work=QUIET)
    here = rows[(rows["layer"] == 0) & (rows["group"] == "image")].pivot(
        index="image", columns="control", values="estimate"
    )
    gaps = (here["none"] - here["another image"]).dropna().to_numpy()
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(gaps))).reshape(len(gaps), -1)
    expected = np.mean(np.abs(gaps @ signs) >= abs(gaps.sum()) - 1e-12)
    found = one(frame, layer=0, group="image", control="none", measure="estimate")
    assert found["p"] == pytest.approx(expected)


# what is known of shapes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colors():
    model = nv.load("shapes")
    return attribution_map(model, color_pairs(model, first=0, count=6), layers=[0, 9], exact=3, work=QUIET)


def test_on_shapes_the_image_carries_the_color_at_first_and_the_last_token_in_the_end(colors):
    exact = colors[colors["measure"] == "exact_restored"].set_index(["site", "layer", "group", "head"])
    for place in (("residual", 0, "image", "all"), ("residual", 9, "last", "all")):
        assert exact.loc[place, "low"] > 0.95
    survivors = colors[(colors["site"] == "residual") & colors["survives"]]
    found = set(zip(survivors["layer"], survivors["group"], strict=True))
    assert not {(0, "last"), (9, "image"), (0, "question"), (9, "question")} & found
    means = colors[(colors["measure"] == "estimate") & (colors["control"] == "none") & (colors["site"] == "residual")]
    means = means.set_index(["layer", "group"])["mean"]
    assert means[9, "last"] > 10 * abs(means[9, "image"]) and means[0, "image"] > 10 * abs(means[0, "last"])


def test_a_third_picture_carries_less_than_the_pictures_own_answer(colors):
    rows = colors[(colors["measure"] == "estimate_restored") & (colors["site"] == "residual")]
    by = rows.set_index(["layer", "group", "control"])
    assert by.loc[(9, "last", "another image"), "mean"] < by.loc[(9, "last", "none"), "low"]


def test_the_estimates_of_heads_agree_better_than_those_of_whole_states(colors):
    agreement = colors[colors["measure"] == "correlation"].set_index("site")["mean"]
    assert agreement["head"] > 0.5


def test_the_graph_shows_what_survives_and_says_of_how_many(colors):
    own = (colors["measure"] == "estimate") & (colors["control"] == "none")
    marked = colors.assign(survives=own & (colors["mean"].abs() > 0.2))
    axes = nv.plots.attribution_map(marked, routes=True)
    rows = marked[own]
    survivors = rows[rows["survives"]]
    assert {"all"} < set(survivors["head"])
    assert axes.get_title() == f"{len(survivors)} of {colors.attrs['comparisons']} comparisons hold"
    states = [line for line in axes.lines if line.get_solid_capstyle() == "butt"]
    assert len(states) == (survivors["head"] == "all").sum()
    arrows = [each for each in axes.texts if isinstance(each, Annotation)]
    assert len(arrows) == (survivors["head"] != "all").sum()


def test_states_of_the_same_picture_carry_nothing(sdpa, pairs):
    """A control that must fail: with a copy of the own picture in place of the other, no estimate is but 0."""
    own = pairs[0]
    frame = nv.attribute(sdpa, own.prompt, own.prompt, answer=own.other_answer, against=own.answer)
    assert frame["estimate"].abs().max() < 1e-6


# the same elsewhere, and again --------------------------------------------------------------------


def test_a_simulated_server_gives_the_same(sdpa, pairs):
    here, there = (
        attribution_map(sdpa, pairs[:2], layers=[1], exact=2, per_image=True, remote=remote, work=QUIET)
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at", ["attribute", "sweep"])
def test_an_interrupted_map_goes_on_where_it_stopped(sdpa, pairs, tmp_path, monkeypatch, at):
    options = {"layers": [1], "exact": 2, "per_image": True}
    whole = attribution_map(sdpa, pairs[:2], **options, work=QUIET)
    calls, function = [], getattr(pair_estimates, at)

    def counted(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    monkeypatch.setattr(pair_estimates, at, counted)
    work = Work(journal=tmp_path, progress=False, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        attribution_map(sdpa, pairs[:2], **options, work=work)
    resumed = attribution_map(sdpa, pairs[:2], **options, work=work)
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-4, atol=1e-4, check_dtype=False)
    done = len(calls)
    attribution_map(sdpa, pairs[:2], **options, work=work)
    assert len(calls) == done
    attribution_map(sdpa, pairs[:2], **{**options, "exact": 3}, work=work)
    assert len(calls) == done + (2 if at == "sweep" else 0)  # more patches, and the same estimates


def test_what_no_map_can_be_made_of_is_refused_before_anything_runs(sdpa, pairs):
    ran = []
    hook = view_of(sdpa).module.register_forward_pre_hook(lambda *_: ran.append(1))
    wrong = [
        ({"at": "sky"}, "names no site"),
        ({"groups": []}, "names no group"),
        ({"groups": ["sky"]}, "sky"),
        ({"layers": [40]}, "out of range"),
        ({"exact": -1}, "exact"),
        ({"steps": 0}, "steps"),
    ]
    try:
        for options, message in wrong:
            with pytest.raises(nv.SpecError, match=message):
                attribution_map(sdpa, pairs[:2], **options, work=QUIET)
    finally:
        hook.remove()
    assert not ran and estimated_places.DEFAULT == ("image", "question", "last")
