"""Maps of interchange patching: every number by hand, what is known of `shapes`, and what controls show."""

from __future__ import annotations

import interchanged
import numpy as np
import pandas as pd
import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Pair, Work, patching_map, state_maps
from nnsight_vlm.recipes.patched_places import conditions_of, places_given
from nnsight_vlm.report.study import color_pairs
from nnsight_vlm.studies.pair_sources import third_picture

QUIET = Work(progress=False)
MEASURES = ["restoration", "logit_diff", "logit_diff_change", "logit_diff_restored"]


@pytest.fixture
def pairs(sdpa):
    return interchanged.known_pairs(sdpa)


def by_hand(model, pair, donor, layer, positions):
    """The measures of a patch, by plain hooks."""
    own, other, given = (interchanged.states(model, prompt) for prompt in (pair.prompt, pair.other, donor))
    assert len(own) == len(other)
    patched = {layer: {position: given[layer + 1][position] for position in positions}}
    runs = (
        interchanged.logits(model, pair.prompt),
        interchanged.logits(model, pair.prompt, patched),
        interchanged.logits(model, pair.other),
    )
    return interchanged.measures(*runs, pair.answer, pair.other_answer)


def one(frame, **labels):
    """The row with these labels."""
    chosen = frame.loc[np.logical_and.reduce([frame[name] == value for name, value in labels.items()])]
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


@pytest.mark.float64
def test_groups_are_those_of_plain_hooks(sdpa, pairs):
    rows = patching_map(sdpa, pairs[:3], layers=[0, 2], per_image=True, work=QUIET)
    for image, pair in enumerate(pairs[:3]):
        third = third_picture(pairs[:3], image)
        for group in ("last", "query", "image", "all"):
            for control, donor in (("none", pair.other), ("another image", third)):
                for layer in (0, 2):
                    expected = by_hand(sdpa, pair, donor, layer, pair.prompt[group])
                    found = one(rows, image=image, group=group, control=control, layer=layer)
                    assert found[MEASURES].astype(float).to_dict() == pytest.approx(expected, rel=LIMIT, abs=LIMIT)


@pytest.mark.float64
def test_positions_are_those_of_plain_hooks_and_the_groups_stand_beside_them(sdpa, pairs):
    rows = patching_map(
        sdpa, pairs[:2], over="position", positions=["query", "image"], layers=[1], per_image=True, work=QUIET
    )
    pair = pairs[0]
    labels = {
        "-1 :": pair.prompt["last"],
        "-4 square": pair.prompt.find("square"),
        "image.0 0,3": [pair.prompt["image"][3]],
    }
    labels |= {group: pair.prompt[group] for group in ("last", "query", "image", "all")}
    for label, positions in labels.items():
        expected = by_hand(sdpa, pair, pair.other, 1, positions)
        found = one(rows, image=0, position=label, control="none")
        assert found[MEASURES].astype(float).to_dict() == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
    singles = len(pair.prompt["query"]) + len(pair.prompt["image"])
    assert rows.loc[(rows["image"] == 0) & (rows["control"] == "none"), "position"].nunique() == singles + 4


@pytest.mark.float64
def test_heads_are_those_of_plain_hooks(sdpa, pairs):
    pair, layer, width = pairs[0], 2, tiny.WIDTH // tiny.HEADS
    rows = patching_map(sdpa, pairs[:2], over="head", layers=[layer], per_image=True, work=QUIET)
    given, last = interchanged.head_inputs(sdpa, pair.other)[layer], pair.prompt["last"][0]
    projection = interchanged.layers_of(sdpa)[layer].self_attn.o_proj
    before, after = (interchanged.logits(sdpa, prompt) for prompt in (pair.prompt, pair.other))
    for head in [*range(tiny.HEADS), "all"]:
        part = slice(None) if head == "all" else slice(head * width, (head + 1) * width)

        def write(_, handed, part=part):
            changed = handed[0].clone()
            changed[0, last, part] = given[last, part]
            return (changed,)

        hook = projection.register_forward_pre_hook(write)
        patched = interchanged.logits(sdpa, pair.prompt)
        hook.remove()
        expected = interchanged.measures(before, patched, after, pair.answer, pair.other_answer)
        found = one(rows, image=0, group="last", head=str(head), control="none")
        assert found[MEASURES].astype(float).to_dict() == pytest.approx(expected, rel=LIMIT, abs=LIMIT)
    assert set(rows["group"]) == {"last", "query", "image", "all"}


def test_every_comparison_is_counted_and_tested_against_the_third_picture(sdpa, pairs):
    rows = patching_map(sdpa, pairs, layers=[0], per_image=True, work=QUIET)
    frame = state_maps.summary(rows, "group")
    assert frame.attrs["comparisons"] == 4 * 2 == frame["p"].notna().sum()
    assert frame.attrs["against"] == "another image"
    measured, control = (
        rows[(rows["control"] == name) & (rows["group"] == "image") & (rows["layer"] == 0)].set_index("image")
        for name in ("none", "another image")
    )
    differences = (measured["restoration"] - control["restoration"]).dropna().to_numpy()
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    expected = np.mean(np.abs(differences @ signs) >= abs(differences.sum()) - 1e-12)
    found = one(frame, group="image", layer=0, control="none", measure="restoration")
    assert found["p"] == pytest.approx(expected)


def test_without_a_third_picture_comparisons_are_with_nothing_and_say_so(sdpa, pairs):
    frame = patching_map(sdpa, pairs[:1], layers=[0], work=QUIET)
    assert frame.attrs["against"] is None and set(frame["control"]) <= {"none", "random positions"}


# what is known of shapes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colors():
    model = nv.load("shapes")
    return patching_map(model, color_pairs(model, first=0, count=8), layers=[0, 9], work=QUIET)


def interval_of(frame, group, layer, measure="restoration", control="none"):
    return one(frame, group=group, layer=layer, measure=measure, control=control)


def test_on_shapes_the_image_rows_carry_the_color_at_first_and_the_last_row_in_the_end(colors):
    assert interval_of(colors, "image", 0)["low"] > 0.95 and interval_of(colors, "last", 9)["low"] > 0.95
    assert interval_of(colors, "image", 9)["high"] < 0.05 and interval_of(colors, "last", 0)["high"] < 0.05
    everything = colors[(colors["group"] == "all") & (colors["control"] == "none")]
    for measure in ("restoration", "logit_diff_restored"):
        assert everything.loc[everything["measure"] == measure, "mean"].to_numpy() == pytest.approx(1, abs=1e-3)
    survivors = colors[(colors["measure"] == "restoration") & colors["survives"]]
    assert set(zip(survivors["group"], survivors["layer"], strict=True)) == {
        *(("image", 0), ("last", 9), ("query", 9), ("all", 0), ("all", 9)),
    }


def test_a_third_picture_does_not_bring_the_other_pictures_answer(colors):
    for group, layer in (("image", 0), ("last", 9), ("all", 0)):
        assert interval_of(colors, group, layer, control="another image")["mean"] < 0.5
        assert (
            interval_of(colors, group, layer)["low"]
            > interval_of(colors, group, layer, control="another image")["mean"]
        )


def test_states_of_the_same_picture_carry_nothing(sdpa, pairs):
    """A control that must fail: with a copy of the own picture in place of the other, no place changes anything."""
    same = [pair._replace(other=pair.prompt) for pair in pairs[:2]]
    places = places_given("group", ["last", "query", "image", "all"], None, [1], None)
    own = [c for c in conditions_of(sdpa, same, 0, places, 0) if c.labels["control"] == "none"]
    frame = nv.sweep(sdpa, same[0].prompt, [condition.intervention for condition in own], answer=same[0].answer)
    assert frame["logit"].to_numpy() == pytest.approx(frame["clean_logit"].to_numpy(), rel=1e-5, abs=1e-5)


# the same elsewhere, and again ----------------------------------------------------------------------


@pytest.mark.parametrize("over", ["group", "head"])
def test_a_simulated_server_gives_the_same(sdpa, pairs, over):
    here, there = (
        patching_map(sdpa, pairs[:2], over=over, layers=[1], per_image=True, remote=remote, work=QUIET)
        for remote in (False, "local")
    )
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-5)


def test_a_table_of_pairs_gives_what_the_pairs_give(sdpa, pairs):
    some = pairs[:2]
    spelled = [[sdpa.tokenizer.decode([answer]) for answer in pair[2:]] for pair in some]
    table = pd.DataFrame(
        {
            "image": [pair.prompt.image(0) for pair in some],
            "other_image": [pair.other.image(0) for pair in some],
            "question": interchanged.QUESTION,
            "answer": [answers[0] for answers in spelled],
            "other_answer": [answers[1] for answers in spelled],
        }
    )
    of_table = patching_map(sdpa, items=table, layers=[1], work=QUIET)
    pd.testing.assert_frame_equal(of_table, patching_map(sdpa, some, layers=[1], work=QUIET), rtol=1e-5, atol=1e-6)


def test_an_interrupted_map_goes_on_where_it_stopped(sdpa, pairs, tmp_path, monkeypatch):
    whole = patching_map(sdpa, pairs[:3], layers=[1], work=QUIET)
    work, calls, pair_rows = Work(journal=tmp_path, progress=False, chunk=1), [], state_maps.pair_rows

    def rows(*arguments):
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pair_rows(*arguments)

    monkeypatch.setattr(state_maps, "pair_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        patching_map(sdpa, pairs[:3], layers=[1], work=work)
    resumed = patching_map(sdpa, pairs[:3], layers=[1], work=work)
    assert calls == [0, 1, 2, 2]
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-5, atol=1e-6)
    patching_map(sdpa, pairs[:3], layers=[2], work=work)
    assert len(calls) == 7  # other settings are other rows


def test_what_no_map_can_be_made_of_is_refused_before_anything_runs(sdpa, pairs):
    ran = []
    hook = view_of(sdpa).module.register_forward_pre_hook(lambda *_: ran.append(1))
    wrong = [
        ({"over": "layer"}, "write one of group, position, head"),
        ({"positions": ["query"]}, 'tokens of over="position"'),
        ({"groups": ["sky"]}, "sky"),
        ({"groups": []}, "names no group"),
        ({"site": "features"}, "no site"),
        ({"over": "head", "site": "mlp"}, "site of heads"),
        ({"layers": [40]}, "out of range"),
        ({"layers": []}, "names no layer"),
    ]
    try:
        for options, message in wrong:
            with pytest.raises(nv.SpecError, match=message):
                patching_map(sdpa, pairs[:2], **options, work=QUIET)
        with pytest.raises(nv.SpecError, match="nothing could be restored"):
            patching_map(sdpa, [Pair(pairs[0].prompt, pairs[0].other, 5, 5)], work=QUIET)
    finally:
        hook.remove()
    assert not ran
