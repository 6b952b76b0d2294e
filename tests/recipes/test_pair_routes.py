"""Direct and text-mediated effects of a picture: by hand, where only one of them is possible, and on `shapes`."""

from __future__ import annotations

import interchanged
import numpy as np
import pandas as pd
import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, pair_routes, text_mediation
from nnsight_vlm.report.study import color_pairs

QUIET = Work(progress=False)
MEASURES = ["restoration", "logit_diff", "logit_diff_change", "logit_diff_restored"]
LONG = "what is the red square left of the big blue circle " * 3 + "?"
"""So long that in a decoder whose layers see `tiny.WINDOW` tokens the last token sees no image token."""


@pytest.fixture
def pairs(sdpa):
    return interchanged.known_pairs(sdpa)


def of(frame, route, cut, measure, control="none"):
    chosen = frame[(frame["route"] == route) & (frame["cut"] == cut) & (frame["control"] == control)]
    return chosen[chosen["measure"] == measure].iloc[0]


def written_from(states, positions, cut):
    """States of a run at some positions, from what enters layer `cut` on."""
    return {layer: {place: states[layer + 1][place] for place in positions} for layer in range(cut - 1, tiny.LAYERS)}


def joined(*parts):
    keys = {layer for part in parts for layer in part}
    return {layer: {place: at for part in parts for place, at in part.get(layer, {}).items()} for layer in keys}


@pytest.mark.float64
@pytest.mark.parametrize("cut", [0, 2])
def test_routes_are_those_of_plain_hooks(sdpa, pairs, cut):
    rows = pair_routes(sdpa, pairs[:1], cuts=[cut], per_image=True, work=QUIET).set_index("route")
    pair, image = pairs[0], pairs[0].prompt["image"]
    last = pair.prompt["last"][0]
    text = range(image[-1] + 1, last)
    own, other = (interchanged.states(sdpa, prompt) for prompt in (pair.prompt, pair.other))
    total = written_from(other, image, cut)
    treated = interchanged.states(sdpa, pair.prompt, total)
    changes = {
        "total": total,
        "direct": joined(total, written_from(own, text, cut)),
        "text-mediated": written_from(treated, text, cut),
    }
    if cut:
        changes["text rows"] = {cut - 1: {place: other[cut][place] for place in text}}
        changes["last row"] = {cut - 1: {last: other[cut][last]}}
    before, after = (interchanged.logits(sdpa, prompt) for prompt in (pair.prompt, pair.other))
    for route, change in changes.items():
        patched = interchanged.logits(sdpa, pair.prompt, change)
        expected = interchanged.measures(before, patched, after, pair.answer, pair.other_answer)
        assert rows.loc[route, MEASURES].astype(float).to_dict() == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
    assert set(rows.index) == set(changes)
    if cut == 0:
        assert rows.loc["total", "restoration"] == pytest.approx(1, rel=LIMIT)


@pytest.mark.float64
def test_where_the_last_token_sees_no_image_all_of_the_effect_is_text_mediated():
    """A planted positive: layers that see so few tokens leave the text as the only route."""
    import torch
    from float64 import float64

    with float64():
        model = tiny.load("sdpa", "mistral", torch.float64)
        pairs = interchanged.known_pairs(model, LONG)
        shown = pairs[0].prompt
        assert shown["last"][0] - shown["image"][-1] >= tiny.WINDOW and len(pairs) >= 2
        rows = pair_routes(model, pairs, cuts=[0], per_image=True, work=QUIET)
    by_route = rows[rows["control"] == "none"].set_index(["route", "image"])
    for image in range(len(pairs)):
        assert by_route.loc[("direct", image), "logit_diff_change"] == pytest.approx(0, abs=LIMIT)
        assert by_route.loc[("text-mediated", image), "restoration"] == pytest.approx(1, rel=LIMIT)
    frame = text_mediation.summary(rows)
    for measure in ("percent", "percent_logit_diff"):
        assert of(frame, "text-mediated", 0, measure)["mean"] == pytest.approx(100, rel=LIMIT)


@pytest.fixture(scope="module")
def colors():
    model = nv.load("shapes")
    return pair_routes(model, color_pairs(model, first=0, count=8), cuts=[0, 9], work=QUIET)


def test_on_shapes_the_last_token_reads_colors_from_the_image_itself(colors):
    assert of(colors, "direct", 0, "restoration")["low"] > 0.95
    assert of(colors, "text-mediated", 0, "restoration")["high"] < 0.05
    assert of(colors, "text-mediated", 0, "percent")["high"] < 1
    assert of(colors, "last row", 9, "restoration")["low"] > 0.95 > 0.05 > of(colors, "total", 9, "restoration")["high"]
    assert of(colors, "total", 0, "restoration")["mean"] == pytest.approx(1, abs=1e-3)


def test_where_nothing_comes_through_there_is_no_percentage(colors):
    assert np.isnan(of(colors, "text-mediated", 9, "percent")["mean"])
    assert of(colors, "direct", 0, "restoration", control="another image")["mean"] < 0.5
    assert np.isnan(of(colors, "text-mediated", 0, "percent", control="another image")["mean"])


def test_percentages_are_ratios_of_means_over_images():
    restored = {"direct": [0.2, 0.4, 0.3] * 3, "text-mediated": [0.6, 0.5, 0.7] * 3, "total": [1.0] * 9}
    rows = pd.DataFrame(
        {"image": image, "route": route, "cut": 0, "control": "none", **dict.fromkeys(MEASURES, value)}
        for route, values in restored.items()
        for image, value in enumerate(values)
    )
    found = of(text_mediation.summary(rows), "text-mediated", 0, "percent")
    assert found["mean"] == pytest.approx(100 * 0.6 / 0.9) and found["images"] == 9
    assert found["low"] < found["mean"] < found["high"]


def test_a_simulated_server_gives_the_same(sdpa, pairs):
    here, there = (
        pair_routes(sdpa, pairs[:2], cuts=[0, 1], per_image=True, remote=remote, work=QUIET)
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on_where_it_stopped(sdpa, pairs, tmp_path, monkeypatch):
    whole = pair_routes(sdpa, pairs[:3], cuts=[1], work=QUIET)
    work, calls, pair_rows = Work(journal=tmp_path, progress=False, chunk=1), [], text_mediation.pair_rows

    def rows(*arguments):
        calls.append(arguments[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pair_rows(*arguments)

    monkeypatch.setattr(text_mediation, "pair_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        pair_routes(sdpa, pairs[:3], cuts=[1], work=work)
    resumed = pair_routes(sdpa, pairs[:3], cuts=[1], work=work)
    assert calls == [0, 1, 1, 2]
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-5, atol=1e-6)


def test_prompts_without_text_rows_or_image_rows_are_refused(sdpa, pairs):
    short = "<s><image>"
    encoded = [dict(sdpa.processor(text=short, images=tiny.picture(n), return_tensors="pt")) for n in (0, 1)]
    bare = [nv.encode(sdpa, inputs=inputs) for inputs in encoded]
    with pytest.raises(nv.SpecError, match="pair 0: "):
        pair_routes(sdpa, [(*bare, 5, 6)], work=QUIET)
    text = nv.encode(sdpa, "see the dog")
    with pytest.raises(nv.SpecError, match="is empty in this prompt"):
        pair_routes(sdpa, [(text, text, 5, 6)], work=QUIET)
    with pytest.raises(nv.SpecError, match="names no layer to cut at"):
        pair_routes(sdpa, pairs[:1], cuts=[], work=QUIET)
