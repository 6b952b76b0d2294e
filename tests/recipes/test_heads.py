"""Localisation heads: every number by a forward without nnsight, a planted head, controls that fail, `shapes`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import reference
import tiny
from float64 import LIMIT
from scene_questions import steered_questions

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, Work, head_scores, head_sets, heads, localising_heads
from nnsight_vlm.studies import head_maps

QUIET = Work(progress=False)
QUESTION = "what is the red square ?"
ANSWERS, OTHERS = ["dog", "red", "bike", "red"], ["red", "dog", "dog", "bike"]
MINE, THEIRS = (0, 1, 5, 6), (18, 19, 23, 24)
"""Image tokens of the two objects, of 5 x 5."""
PATCHES = tiny.IMAGE_TOKENS


def square(x, y, side=8):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


TRUTH = (Thing(name="red square", mask=square(0, 0)), Thing(name="dog", mask=square(12, 12)), Thing(name="star"))


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, QUESTION, tiny.picture(number)) for number in range(4)]


def measured(model, prompts, **options):
    count = len(prompts)
    given = {"truths": [TRUTH] * count, "answers": ANSWERS[:count], "asked": ["red square"] * count, "work": QUIET}
    return heads(model, prompts, **{**given, "per_image": True, "top": 3, "draws": 2, **options})


def steered(model, prompts, **options):
    count = len(prompts)
    return measured(model, prompts, **{"towards": ["dog"] * count, "other_answers": OTHERS[:count], **options})


def rows_of(frame, **labels):
    chosen = [(frame[name] == value).fillna(False).astype(bool) for name, value in labels.items()]
    return frame.loc[np.logical_and.reduce(chosen)]


def one(frame, **labels):
    chosen = rows_of(frame, **labels)
    assert len(chosen) == 1, f"{len(chosen)} rows are {labels}"
    return chosen.iloc[0]


def chosen_of(frame):
    ranked = frame[frame["rank"].notna()].drop_duplicates(["layer", "head"]).sort_values("rank")
    return [(int(layer), int(head)) for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]


def image_places(prompt):
    return [place for place, token in enumerate(prompt.inputs["input_ids"][0]) if token == 4]


def map_by_hand(model, prompt):
    """What the last token pays to the image, `[layer, head, patch]`."""
    weights = reference.forward(view_of(model).module, prompt.inputs).weights
    return weights[:, 0, :, -1, image_places(prompt)].numpy()


def fit_by_hand(values, own):
    """Peak, mass, IoU with as many patches, and IoU with the patches above the mean; by sets."""
    own, best = set(own), sorted(range(PATCHES), key=lambda patch: -values[patch])
    marked = {patch for patch in range(PATCHES) if values[patch] > values.mean()}
    most = set(best[: len(own)])
    return {
        "hit": float(best[0] in own),
        "mass": sum(values[patch] for patch in own) / values.sum(),
        "iou": len(own & most) / len(own | most),
        "mask_iou": len(own & marked) / len(own | marked),
    }


def groups_by_hand(marked):
    """How many patches of a 5 x 5 picture hang together, group by group."""
    left, sizes = set(marked), []
    while left:
        front, size = [left.pop()], 0
        while front:
            patch = front.pop()
            size += 1
            near = {other for other in left if max(abs(other // 5 - patch // 5), abs(other % 5 - patch % 5)) <= 1}
            left -= near
            front += near
        sizes.append(size)
    return sizes


def logprobs_by_hand(model, prompt, closed=()):
    """Log-probabilities of the next word where the last token does not see some positions in some heads."""
    module = view_of(model).module
    cut = reference.no_cut(module, prompt.inputs["input_ids"])
    for layer, head, positions in closed:
        cut[layer, :, head, -1, positions] = True
    return reference.forward(module, prompt.inputs, cut).logits[0, -1].log_softmax(-1)


# by hand ------------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_every_score_of_every_head_is_that_of_a_forward_without_nnsight(sdpa, prompts):
    rows = measured(sdpa, prompts)
    single = rows[(rows["heads"] == "each") & (rows["control"] == "none")]
    assert len(single) == len(prompts) * tiny.LAYERS * tiny.HEADS
    for image, prompt in enumerate(prompts):
        maps = map_by_hand(sdpa, prompt)
        for layer in range(tiny.LAYERS):
            for head in range(tiny.HEADS):
                found, values = one(single, image=image, layer=layer, head=head), maps[layer, head]
                for name, number in fit_by_hand(values, MINE).items():
                    assert found[name] == pytest.approx(number, rel=LIMIT), name
                assert found["attention"] == pytest.approx(values.sum(), rel=LIMIT)
                sizes = groups_by_hand([patch for patch in range(PATCHES) if values[patch] > values.mean()])
                shares = [size / sum(sizes) for size in sizes]
                assert found["entropy"] == pytest.approx(-sum(s * math.log(s) for s in shares), abs=LIMIT)
    chance = rows_of(rows, heads="each", control="random patches")
    assert (chance[["hit", "mass"]] == len(MINE) / PATCHES).all(axis=None)


@pytest.mark.float64
def test_the_map_of_several_heads_is_their_mean_and_its_controls_are_other_maps_of_as_many(sdpa, prompts):
    rows = measured(sdpa, prompts, smooth=0)
    chosen, held_out = chosen_of(rows), rows_of(rows, what="cut", heads="all")["image"].tolist()
    assert len(held_out) == 2 and set(rows["what"]) == {"map", "cut", "nothing"}
    for image in held_out:
        maps = map_by_hand(sdpa, prompts[image])
        mean = np.mean([maps[layer, head] for layer, head in chosen], axis=0)
        wanted = {
            ("chosen", "none"): (mean, MINE),
            ("chosen", "other object"): (mean, THEIRS),
            ("all", "none"): (maps.mean((0, 1)), MINE),
        }
        for (which, control), (values, own) in wanted.items():
            found = one(rows, image=image, what="map", heads=which, control=control)
            for name, number in fit_by_hand(values, own).items():
                assert found[name] == pytest.approx(number, rel=LIMIT), (which, control, name)
        drawn = rows_of(rows, image=image, what="map", control="random heads")
        others = [maps[layer, head] for layer in range(4) for head in range(4) if (layer, head) not in chosen]
        sums = [sum(three) / 3 for three in threes(others)]
        masses = [fit_by_hand(values, MINE)["mass"] for values in sums]
        assert len(drawn) == 2 and all(np.isclose(masses, mass, rtol=LIMIT).any() for mass in drawn["mass"])


def test_random_heads_are_as_many_others_anew_for_every_picture_and_of_the_same_layers():
    chosen = ((1, 0), (3, 2), (3, 1))
    sets = head_sets.Sets("last", (1, 2, 3), chosen, draws=20, smooth=0)
    drawn = [sets.random_sets(6, seed=0, image=image) for image in range(3)]
    assert drawn[0] != drawn[1] and drawn[0] == sets.random_sets(6, seed=0, image=0) != sets.random_sets(6, 1, 0)
    every = [heads for control, heads in drawn[0] if control == "random heads"]
    same = [heads for control, heads in drawn[0] if control == "random heads, same layers"]
    assert len(every) == len(same) == 20 and len(set(every)) > 10 and len(set(same)) > 10
    for heads_drawn in (*every, *same):
        assert len(set(heads_drawn)) == 3 and not set(heads_drawn) & set(chosen)
    assert all(sorted(layer for layer, _ in heads_drawn) == [1, 3, 3] for heads_drawn in same)
    assert {layer for heads_drawn in every for layer, _ in heads_drawn} == {1, 2, 3}
    assert {control for control, _ in sets.random_sets(3, 0, 0)} == {"random heads"}  # no two others in layer 3
    assert not head_sets.Sets("last", (1, 3), chosen, draws=2, smooth=0).random_sets(2, 0, 0)


def threes(maps):
    """Every choice of three maps."""
    places = range(len(maps))
    return [[maps[a], maps[b], maps[c]] for a in places for b in places for c in places if a < b < c]


@pytest.mark.float64
def test_cuts_and_steering_are_those_of_a_forward_in_which_these_edges_are_closed(sdpa, prompts):
    rows = steered(sdpa, prompts, draws=1)
    chosen, vocabulary = chosen_of(rows), tiny.vocabulary()
    every = [(layer, head) for layer in range(tiny.LAYERS) for head in range(tiny.HEADS)]
    images = rows_of(rows, what="cut", heads="all")["image"].tolist()
    for image in images:
        prompt, answers = prompts[image], [vocabulary[ANSWERS[image]], vocabulary[OTHERS[image]]]
        places = image_places(prompt)
        kept = [places[patch] for patch in THEIRS]
        not_theirs = [place for place in places if place not in kept]
        rest = [place for place in range(len(prompt.inputs["input_ids"][0])) if place not in kept]
        clean = logprobs_by_hand(sdpa, prompt)
        nothing = one(rows, image=image, what="nothing")
        assert [nothing["kept"], nothing["flipped"]] == [float(clean.argmax() == answer) for answer in answers]
        for what, positions in (("cut", places), ("steered", not_theirs), ("forced", rest)):
            for which, where in (("chosen", chosen), ("all", every)):
                if (what, which) == ("forced", "all"):
                    assert rows_of(rows, image=image, what=what, heads=which).empty
                    continue
                closed = logprobs_by_hand(sdpa, prompt, [(layer, head, positions) for layer, head in where])
                found = one(rows, image=image, what=what, heads=which, control="none")
                assert found["logprob_change"] == pytest.approx(float((closed - clean)[answers[0]]), rel=LIMIT)
                assert found["kept"] == float(closed.argmax() == answers[0])
                if what == "cut":
                    assert np.isnan(found["other_change"]) and np.isnan(found["flipped"])
                else:
                    assert found["other_change"] == pytest.approx(float((closed - clean)[answers[1]]), rel=LIMIT)
                    assert found["flipped"] == float(closed.argmax() == answers[1])


@pytest.mark.parametrize(
    ("choose", "measure", "then"), [("peak", "hit", "mass"), ("mass", "mass", "hit"), ("iou", "iou", "mass")]
)
def test_heads_are_chosen_by_their_means_on_the_pictures_of_calibration_alone(sdpa, prompts, choose, measure, then):
    rows = measured(sdpa, prompts, choose=choose, answers=False, cluster=[0, 0, 1, 2], calibration=0.4)
    seen = rows_of(rows, split="calibration", control="none")
    means = seen.groupby(["layer", "head", "cluster"])[[measure, then]].mean().groupby(["layer", "head"]).mean()
    ordered = means.reset_index().sort_values([measure, then], ascending=False, kind="stable")
    assert chosen_of(rows) == [*ordered[["layer", "head"]].head(3).itertuples(index=False, name=None)]
    assert rows.attrs["settings"]["chosen"] and set(rows["what"]) == {"map", "smoothed map"}


def test_the_paper_chooses_without_masks_by_attention_and_then_by_how_often_a_map_is_compact(sdpa, prompts):
    rows = measured(sdpa, prompts, choose="paper", lowest=2, calibration=0.7, answers=False)
    seen = rows_of(rows, split="calibration", control="none")
    assert rows_of(rows, split="held out")["selected"].isna().all() and seen["image"].nunique() == 3
    sums = seen.groupby(["layer", "head"])["attention"].mean()
    curve = sums.sort_values().to_numpy()
    line = [curve[0] + (curve[-1] - curve[0]) * place / 15 for place in range(16)]
    bend = curve[max(range(16), key=lambda place: abs(curve[place] - line[place]))]
    for _, of_image in seen.groupby("image"):
        able = of_image[
            [sums[layer, head] >= bend for layer, head in zip(of_image["layer"], of_image["head"], strict=True)]
        ]
        first = able.sort_values(["entropy", "attention"], ascending=[True, False]).head(2).index
        assert set(of_image.index[of_image["selected"] == 1]) == set(first)
    often = seen.groupby(["layer", "head"])["selected"].mean()
    best = often.loc[chosen_of(rows)]
    assert best.iloc[0] == often.max() and best.is_monotonic_decreasing


def test_prompts_about_one_picture_are_on_one_side_and_both_sides_have_some():
    clusters = [0, 0, 2, 3, 3, 3, 6]
    for seed in range(20):
        for share in (0.01, 0.5, 0.99):
            chosen = head_scores.calibrating(clusters, range(7), share, seed)
            images = {clusters[prompt] for prompt in chosen}
            assert set(chosen) == {prompt for prompt in range(7) if clusters[prompt] in images}
            assert len(images) == {0.01: 1, 0.5: 2, 0.99: 3}[share]
    assert len({head_scores.calibrating(clusters, range(7), 0.5, seed) for seed in range(20)}) > 1
    assert head_scores.calibrating(clusters, (2, 3), 0.5, 0) in ((2,), (3,))


# maps ---------------------------------------------------------------------------------------------------


def test_entropy_counts_groups_and_smoothing_spreads_without_loss(sdpa, prompts):
    grid = prompts[0].grid(0)

    def drawn(*patches):
        values = np.zeros(PATCHES)
        values[list(patches)] = 1.0
        return values

    assert head_maps.spatial_entropy(drawn(0, 6, 12), grid) == 0  # across corners
    assert head_maps.spatial_entropy(drawn(0, 1, 24), grid) == pytest.approx(
        -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    )
    assert math.isnan(head_maps.spatial_entropy(np.full(PATCHES, 0.1), grid))
    smooth = head_maps.smoothed(drawn(12), grid, 1.0).reshape(5, 5)
    assert smooth.argmax() == 12 and smooth.sum() == pytest.approx(1) and np.allclose(smooth, smooth.T)
    assert smooth[2, 3] / smooth[2, 2] == pytest.approx(math.exp(-0.5), rel=1e-2)
    own = set(MINE)
    for marked in (1, 2, 3):
        shared = [set(drawn) for drawn in itertools.combinations(range(PATCHES), marked)]
        mean = np.mean([len(each & own) / len(each | own) for each in shared])
        chance = head_maps.chance_fit(np.isin(range(PATCHES), MINE), marked)
        assert chance["mask_iou"] == pytest.approx(mean, rel=1e-9)


# a planted head, and controls that fail -------------------------------------------------------------------

PLANTED = (2, 1)


@pytest.fixture
def planted(sdpa, prompts):
    """One head of the third layer looks at the first object from the last token, and reads little else."""
    layer, size, (_, head) = view_of(sdpa).module.model.language_model.layers[2].self_attn, 8, PLANTED
    own = [image_places(prompts[0])[patch] for patch in MINE]

    def query(_, __, output):
        changed = output.clone()
        changed[:, -1, head * size : (head + 1) * size] = 0
        changed[:, -1, head * size + 3] = 60  # this pair of numbers hardly turns with the position
        return changed

    def key(_, __, output):
        changed, group = output.clone(), head // 2
        changed[..., group * size : (group + 1) * size] = 0
        changed[:, own, group * size + 3] = 1
        return changed

    hooks = [layer.q_proj.register_forward_hook(query), layer.k_proj.register_forward_hook(key)]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("choose", ["peak", "mass", "iou", "paper"])
def test_a_planted_head_is_chosen_first_and_other_objects_and_heads_fail(sdpa, prompts, planted, choose):
    rows = measured(sdpa, prompts, choose=choose, top=1, answers=False, draws=8)
    assert chosen_of(rows) == [PLANTED]
    fits = rows_of(rows, what="map", heads="chosen").groupby("control")[["hit", "mass"]].mean()
    assert fits.loc["none", "hit"] == 1 and fits.loc["none", "mass"] > 0.99
    assert fits.loc["other object", "hit"] == 0 and fits.loc["other object", "mass"] < 0.01
    assert fits.loc["random heads", "hit"] < 0.6 and fits.loc["random heads", "mass"] < 0.5
    assert fits.loc["random patches", "hit"] == len(MINE) / PATCHES


def test_the_planted_head_does_not_count_where_another_object_is_asked_about(sdpa, prompts, planted):
    rows = measured(sdpa, prompts, asked=["dog"] * 4, top=1, answers=False)
    found = rows_of(rows, heads="each", layer=PLANTED[0], head=PLANTED[1], control="none")
    assert (found["hit"] == 0).all() and chosen_of(rows) != [PLANTED]


# what shapes does -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    model = nv.load("shapes")
    prompts, known = steered_questions(model, 8)
    return heads(model, prompts, work=QUIET, draws=3, **known)


def test_on_shapes_chosen_heads_look_at_the_object_of_pictures_on_which_they_were_not_chosen(scenes):
    of_map = scenes[(scenes["what"] == "map") & (scenes["heads"] == "chosen") & (scenes["measure"] == "hit")]
    hits = of_map.set_index("control")["mean"]
    assert hits["none"] > 0.7 > hits["random heads"] and hits["random patches"] < 0.2 and hits["other object"] < 0.3
    assert of_map["images"].max() == 4


def test_on_shapes_the_answer_needs_the_chosen_heads_and_not_as_many_others(scenes):
    change = scenes[(scenes["what"] == "cut") & (scenes["measure"] == "logprob_change")]
    change = change.set_index(["heads", "control"])["mean"]
    assert change["chosen", "none"] < change["chosen", "random heads"] - 0.5
    assert change["chosen", "none"] < change["chosen", "random heads, same layers"] - 0.5
    assert change["all", "none"] < -0.5


def test_on_shapes_answers_follow_what_the_chosen_heads_are_made_to_see(scenes):
    flipped = scenes[(scenes["measure"] == "flipped")].set_index(["what", "heads", "control"])["mean"]
    assert flipped["nothing", "", "none"] == 0 and flipped["forced", "chosen", "none"] > 0.7
    assert flipped["forced", "chosen", "random heads"] < 0.2
    assert flipped["forced", "chosen", "random heads, same layers"] < flipped["forced", "chosen", "none"] - 0.3


# the same elsewhere, and again ------------------------------------------------------------------------------


def test_a_simulated_server_gives_the_same(sdpa, prompts):
    here, there = (steered(sdpa, prompts[:2], remote=remote) for remote in (False, "local"))
    pd.testing.assert_frame_equal(here, there, rtol=1e-4, atol=1e-5)


def test_an_interrupted_study_goes_on_where_it_stopped(sdpa, prompts, tmp_path, monkeypatch):
    whole, scored, tested = steered(sdpa, prompts, top=1, draws=1), [], []
    score, test = localising_heads.score_rows, localising_heads.set_rows

    def scoring(pictured, *arguments):
        scored.append(pictured.image)
        return score(pictured, *arguments)

    def testing(model, pictured, *arguments):
        tested.append(pictured.image)
        if len(tested) == 2:
            raise KeyboardInterrupt
        return test(model, pictured, *arguments)

    monkeypatch.setattr(localising_heads, "score_rows", scoring)
    monkeypatch.setattr(localising_heads, "set_rows", testing)
    work = Work(journal=tmp_path, progress=False, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        steered(sdpa, prompts, top=1, draws=1, work=work)
    resumed = steered(sdpa, prompts, top=1, draws=1, work=work)
    first, second = sorted({*tested})
    assert scored == [0, 1, 2, 3] and tested == [first, second, second]
    pd.testing.assert_frame_equal(resumed, whole, check_dtype=False, rtol=1e-5, atol=1e-6)
    for options in ({"smooth": 2.0}, {"other_answers": ["bike", "bike", "dog", "dog"]}):
        steered(sdpa, prompts, **{**options, "top": 1, "draws": 1, "work": work})
    assert scored == [0, 1, 2, 3] and len(tested) == 3 + 2 * 2  # heads are scored once, and sets anew


def test_pictures_without_a_patch_of_the_object_have_no_rows(sdpa, prompts):
    empty = (Thing(name="red square", mask=np.zeros((tiny.SIDE, tiny.SIDE), bool)),)
    rows = measured(sdpa, prompts, truths=[TRUTH, empty, TRUTH, TRUTH])
    assert set(rows["image"]) == {0, 2, 3}
    with pytest.raises(nv.SpecError, match=r"1 picture\(s\) can be measured"):
        measured(sdpa, prompts[:2], truths=[TRUTH, empty])


WRONG = [
    ({"truths": None}, "write truths="),
    ({"truths": [(Thing(name="red square"),)] * 4}, "no mask"),
    ({"truths": [(Thing(name="red square", mask=np.ones((3, 3), bool)),)] * 4}, "mask has shape"),
    ({"asked": ["cat"] * 4}, "asked= names 'cat'"),
    ({"top": 17}, "top=17 of 16 heads"),
    ({"choose": "best"}, "choose"),
    ({"lowest": 3}, 'lowest= is of choose="paper"'),
    ({"calibration": 1}, "calibration=1"),
    ({"layers": [9]}, "out of range"),
    ({"layers": []}, "names no layer"),
    ({"target": "generated"}, "generated"),
    ({"towards": ["dog"] * 4}, "other_answers= was not"),
    ({"other_answers": OTHERS}, "towards= was not"),
    ({"towards": ["cat"] * 4, "other_answers": OTHERS}, "towards= names 'cat'"),
    ({"towards": ["star"] * 4, "other_answers": OTHERS}, "'star', which has no mask"),
    ({"towards": ["dog"] * 4, "other_answers": ANSWERS}, "the answer itself"),
    ({"towards": ["dog"] * 4, "other_answers": OTHERS, "answers": False}, "write answers="),
    ({"cluster": [0, 0, 0, 0]}, "two or more"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_cannot_be_measured_is_refused_before_anything_runs(sdpa, prompts, options, message):
    ran = []
    hook = view_of(sdpa).module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(nv.SpecError, match=message):
            measured(sdpa, prompts, **options)
    finally:
        hook.remove()
    assert not ran


def test_the_figures_show_the_numbers_of_heads_and_frame_those_that_were_chosen(scenes):
    axes = nv.plots.heads(scenes, measure="mass")
    single = scenes[(scenes["heads"] == "each") & (scenes["measure"] == "mass") & (scenes["control"] == "none")]
    held_out = single[single["split"] == "held out"].pivot_table(index="head", columns="layer", values="mean")
    np.testing.assert_allclose(axes.images[0].get_array(), held_out.to_numpy())
    frames = [patch for patch in axes.patches if str(patch.get_label()).startswith(("chosen", "_chosen"))]
    ranked = {(int(row["layer"]), int(row["head"])) for _, row in single[single["rank"].notna()].iterrows()}
    layers = list(held_out.columns)
    assert {(layers[round(p.get_x() + 0.5)], round(p.get_y() + 0.5)) for p in frames} == ranked and len(ranked) == 5
    dots = nv.plots.heads(scenes, measure="logprob_change")
    names = [label.get_text().replace("\n", " ") for label in dots.get_yticklabels()]
    assert names[0] == "cut: chosen heads" and len(names) == 5
    with pytest.raises(nv.SpecError, match="of single heads only"):
        nv.plots.heads(scenes, measure="entropy", sets=True)
