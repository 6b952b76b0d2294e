"""Attribution maps of what heads read: by plain hooks of torch, and on models whose route is known."""

from __future__ import annotations

import interchanged
import numpy as np
import pandas as pd
import pytest
import torch
from float64 import LIMIT
from matplotlib.patches import FancyArrowPatch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Work, attribution_map
from nnsight_vlm.report.study import color_pairs

QUIET = Work(progress=False)
LAYER, SIZE = 2, 8
EDGES = [("image", "image"), ("image", "question"), ("image", "last"), ("question", "question"), ("question", "last")]
EDGES += [("last", "last")]


@pytest.fixture
def pairs(sdpa):
    return interchanged.known_pairs(sdpa)


def difference(logits, pair):
    return logits[pair.other_answer] - logits[pair.answer]


def handed_over(model, prompt, layer):
    """What a layer's attention makes keys and values of, `[position, width]`, before they are rotated."""
    attention, kept = interchanged.layers_of(model)[layer].self_attn, {}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _, __, out, name=name: kept.update({name: out[0].clone()})
        )
        for name in ("k_proj", "v_proj")
    ]
    view_of(model).module(**prompt.inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return kept


def read_with(model, prompt, layer, places, given):
    """What the output projection is handed where some keys and values are others; the queries are the prompt's own."""
    attention, hooks = interchanged.layers_of(model)[layer].self_attn, []
    for name, states in given.items():

        def over(_, __, out, states=states):
            changed = out.clone()
            changed[0, list(places)] = states[list(places)]
            return changed

        hooks.append(getattr(attention, name).register_forward_hook(over))
    found = interchanged.head_inputs(model, prompt)[layer]
    for hook in hooks:
        hook.remove()
    return found


def slope_at(model, pair, layer):
    """The gradient of the logit difference with respect to what the output projection is handed."""
    held, projection = [], interchanged.layers_of(model)[layer].self_attn.o_proj

    def hook(_, handed):
        held.append(handed[0].detach().requires_grad_())
        return (held[0],)

    handle = projection.register_forward_pre_hook(hook)
    with torch.enable_grad():
        logits = view_of(model).module(**pair.prompt.inputs, use_cache=False).logits[0, -1]
        [found] = torch.autograd.grad(difference(logits, pair), held)
    handle.remove()
    return found[0]


def effect_of(model, pair, layer, places, part, states):
    """What writing one head's output at some places does to the logit difference."""

    def write(_, handed):
        changed = handed[0].clone()
        changed[0, places, part] = states[places, part]
        return (changed,)

    handle = interchanged.layers_of(model)[layer].self_attn.o_proj.register_forward_pre_hook(write)
    after = interchanged.logits(model, pair.prompt)
    handle.remove()
    return float(difference(after, pair) - difference(interchanged.logits(model, pair.prompt), pair))


@pytest.mark.float64
@torch.no_grad()
def test_estimates_and_patches_of_edges_are_those_of_plain_torch(sdpa, pairs):
    pair = pairs[0]
    rows = attribution_map(sdpa, [pair], at="edge", layers=LAYER, exact=100, per_image=True, work=QUIET)
    own, slope = interchanged.head_inputs(sdpa, pair.prompt)[LAYER], slope_at(sdpa, pair, LAYER)
    given = handed_over(sdpa, pair.other, LAYER)
    assert set(rows["site"]) == {"edge"}
    found = rows.groupby(["source", "group", "head"], sort=False)[["estimate", "exact"]].first().drop(index="all")
    assert list(dict.fromkeys(key[:2] for key in found.index)) == EDGES
    for (source, target, head), row in found.iterrows():
        read = read_with(sdpa, pair.prompt, LAYER, pair.prompt[source], given)
        places, part = list(pair.prompt[target]), slice(int(head) * SIZE, (int(head) + 1) * SIZE)
        expected = float(((read - own) * slope)[places, part].sum())
        assert row["estimate"] == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
        effect = effect_of(sdpa, pair, LAYER, places, part, read)
        assert row["exact"] == pytest.approx(effect, rel=LIMIT, abs=LIMIT)
    assert (found["exact"].abs() > 1e-3).any()


def test_edges_stand_beside_states_and_change_none_of_their_numbers(sdpa, pairs):
    options = {"layers": [1], "exact": 2, "work": QUIET}
    plain = attribution_map(sdpa, pairs[:3], **options)
    both = attribution_map(sdpa, pairs[:3], at=("residual", "head", "edge"), **options)
    assert set(plain["source"]) == {"all"}
    states = both[both["site"] != "edge"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        states.drop(columns=["p", "survives"]), plain.drop(columns=["p", "survives"]), check_exact=False, atol=1e-6
    )
    edges = both[(both["site"] == "edge") & (both["measure"] == "estimate") & (both["control"] == "none")]
    assert set(zip(edges["source"], edges["group"], strict=True)) == set(EDGES)
    assert (both[(both["site"] == "edge") & (both["measure"] == "exact")]["images"] == 3).sum() == 2
    assert both.attrs["comparisons"] == plain.attrs["comparisons"] + len(EDGES) * 4


def test_the_same_picture_read_again_moves_nothing(sdpa, pairs):
    """A control that must fail: every edge carries what was there before."""
    from nnsight_vlm.gradients.edges import estimate_edges, readings_of

    prompt = pairs[0].prompt
    readings = readings_of(sdpa, prompt, prompt, ("image", "last"))
    some = {"layers": "all", "answer": pairs[0].other_answer, "against": pairs[0].answer}
    frames = estimate_edges(sdpa, prompt, list(readings.values()), ("last",), **some, memory=None, remote=False)
    assert max(frame["estimate"].abs().max() for frame in frames) < 1e-6


def test_a_simulated_server_gives_the_same_edges(sdpa, pairs):
    here, there = (
        attribution_map(sdpa, pairs[:1], at="edge", layers=[1], exact=2, per_image=True, remote=remote, work=QUIET)
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-4)


def test_steps_go_with_states_only(sdpa, pairs):
    with pytest.raises(nv.SpecError, match="leave steps= out"):
        attribution_map(sdpa, pairs[:1], at="edge", steps=2, work=QUIET)


def test_the_graph_leads_from_where_heads_read_to_where_they_write(sdpa, pairs):
    frame = attribution_map(sdpa, pairs[:3], at=("residual", "head", "edge"), layers=[1, 2], exact=0, work=QUIET)
    own = (frame["measure"] == "estimate") & (frame["control"] == "none")
    strong = own & (frame["mean"].abs() > frame.loc[own, "mean"].abs().median())
    axes = nv.plots.attribution_map(frame.assign(survives=strong), routes=True)
    edges = frame[strong & (frame["site"] == "edge")]
    arrows = [each for each in axes.patches if isinstance(each, FancyArrowPatch)]
    said = {f"{e.source}->{e.group}, layer {e.layer}, head {e.head}" for e in edges.itertuples()}
    assert {arrow.get_gid() for arrow in arrows} == said and len(edges) > 3
    height = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    for arrow in arrows:
        source, target = arrow.get_gid().partition(",")[0].split("->")
        begin, end = arrow._posA_posB
        assert (begin[1], end[1]) == (height[source], height[target]) and begin[0] < end[0]


@pytest.fixture(scope="module")
def read_from():
    """The edges of `shapes`, and of the model whose question must carry the image."""
    frames = {}
    for name in ("shapes", "shapes-gist"):
        model = nv.load(name)
        pairs = color_pairs(model, first=0, count=3)
        frames[name] = attribution_map(model, pairs, at="edge", exact=6, work=QUIET)
    return frames


def test_on_shapes_the_heads_that_carry_the_color_read_it_from_the_image(read_from):
    for frame in read_from.values():
        exact = frame[frame["measure"] == "exact"]
        largest = exact.loc[exact["mean"].abs().idxmax()]
        assert (largest["source"], largest["group"]) == ("image", "last") and largest["mean"] > 0
        assert np.isfinite(exact["mean"]).all()
