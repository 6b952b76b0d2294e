"""Phrases, sinks, single heads, contributions, ablations and tolerance, each against numbers computed one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, Work, patch_grounding, shape_truth
from nnsight_vlm.shapes.embedded import checkpoint
from nnsight_vlm.studies.labels import MIDDLE_HALF
from nnsight_vlm.studies.layer_sets import middle_half
from nnsight_vlm.studies.pointing import Tolerance, patches_near

QUIET = Work(progress=False)
HALF = list(middle_half(tiny.LAYERS))
TAU = 1.5
"""A threshold that some hidden states of the tiny model reach: of 32 dimensions none is above 5.7."""


def square(x, y, side=8):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(2)]


@pytest.fixture
def answers(sdpa, prompts):
    return [nv.generate(sdpa, prompt, max_new_tokens=12) for prompt in prompts]


def places_of(answer, name):
    return answer.prompt.find(name, within="generated", occurrence=0)


@pytest.fixture
def truths(answers):
    """Of each picture a name of two words that its description has, and another one, each given a place."""
    truths = []
    for answer in answers:
        words = [word for word in answer.prompt.words("generated") if len(word.positions) == 1]
        pair = next((one, two) for one, two in itertools.pairwise(words) if one.positions[0] + 1 == two.positions[0])
        other = next(word.text for word in words if word.text not in {word.text for word in pair})
        name = " ".join(word.text for word in pair)
        truths.append((Thing(name=name, mask=square(0, 0)), Thing(name=other, mask=square(9, 10))))
    return truths


def grounded(model, prompts, truths, **options):
    plain = {"cut": False, "max_new_tokens": 12, "per_image": True, "work": QUIET}
    return patch_grounding(model, prompts, truths=truths, **{**plain, **options})


def one(frame, **labels):
    for name, value in labels.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def scores_of(values, patches):
    best = np.argsort(-values, kind="stable")
    shared = patches[best[: patches.sum()]].sum()
    return float(patches[best[0]]), shared / (2 * patches.sum() - shared)


@pytest.mark.float64
@pytest.mark.parametrize("read_at", ["predicting", "word"])
def test_the_map_of_a_phrase_is_the_mean_over_its_tokens(sdpa, prompts, answers, truths, read_at):
    frame = grounded(sdpa, prompts, truths, of=["phrase", "word"], read_at=[read_at])
    assert set(frame["of"]) == {"phrase", "word"}
    for image, answer in enumerate(answers):
        name, mask = truths[image][0].name, truths[image][0].mask
        places = [place - (read_at == "predicting") for place in places_of(answer, name)]
        single = [nv.run(sdpa, answer.prompt, reads=nv.Attention([place], "image")).reads[0] for place in places]
        maps = torch.cat(single, 2).mean((1, 2)).numpy()
        patches = prompts[image].grid().coverage(mask) > 0
        labels = {"image": image, "thing": name, "control": "none"}
        for layer, values in [*enumerate(maps), (MIDDLE_HALF, maps[HALF].mean(0))]:
            row = one(frame, **labels, of="phrase", word=name, layer=str(layer))
            assert (row["hit"], row["iou"]) == pytest.approx(scores_of(values, patches))
            assert row["top_mass"] == pytest.approx(np.sort(values)[-5:].sum() / values.sum(), rel=LIMIT)
        words = frame[(frame["of"] == "word") & (frame["thing"] == name) & (frame["image"] == image)]
        assert list(dict.fromkeys(words["word"])) == name.split()


@pytest.mark.float64
def test_single_heads_and_contributions_are_those_that_are_read(sdpa, prompts, answers, truths):
    frame = grounded(sdpa, prompts, truths, quantity=["contribution", "weight"], heads="each", read_at=["word"])
    name, mask = truths[1][1].name, truths[1][1].mask
    place, patches = places_of(answers[1], name)[0], prompts[1].grid().coverage(mask) > 0
    read = {
        "weight": nv.Attention([place], "image"),
        "contribution": nv.Attention([place], "image", reduce="contribution"),
    }
    maps = {kind: nv.run(sdpa, answers[1].prompt, reads=each).reads[0][:, :, 0].numpy() for kind, each in read.items()}
    summed = nv.Attention([place], "image", reduce="contribution", over="heads")
    means = {
        "weight": maps["weight"].mean(1),
        "contribution": nv.run(sdpa, answers[1].prompt, reads=summed).reads[0][:, 0].numpy(),
    }
    labels = {"image": 1, "thing": name, "control": "none"}
    for kind in read:
        for layer in range(tiny.LAYERS):
            for head, values in [*enumerate(maps[kind][layer]), ("mean", means[kind][layer])]:
                row = one(frame, **labels, quantity=kind, head=str(head), layer=str(layer))
                assert (row["hit"], row["iou"]) == pytest.approx(scores_of(values, patches))
                assert row["top_mass"] == pytest.approx(np.sort(values)[-5:].sum() / values.sum(), rel=LIMIT)
    assert MIDDLE_HALF not in set(frame.loc[frame["head"] != "mean", "layer"])


def test_single_heads_are_compared_with_chance_and_the_others_are_not(sdpa, prompts, truths):
    frame = grounded(sdpa, prompts, truths, heads="each", per_image=False)
    tested = frame[frame["p"].notna()]
    assert set(tested["head"]) == set(map(str, range(tiny.HEADS)))
    assert set(tested["measure"]) == {"hit"}
    assert set(tested["control"]) == {"none"}
    assert len(tested) == frame.attrs["comparisons"] == 2 * tiny.LAYERS * tiny.HEADS
    assert frame.attrs["against"] == "random patches"


# sinks --------------------------------------------------------------------------------------------------


def sinks_by_hand(model, prompt, tau):
    """From the hidden states of the module itself, with plain hooks: bool `[layer, patch]`."""
    module, seen = view_of(model).module, []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0][0]), with_kwargs=True
        )
        for layer in module.model.language_model.layers
    ]
    with torch.no_grad():
        module(**prompt.inputs)
    for hook in hooks:
        hook.remove()
    states = torch.stack(seen).abs()
    sizes = states / states.square().mean(-1, keepdim=True).sqrt()
    dimensions = [d for d in range(tiny.WIDTH) if (sizes[:, 0, d] >= tau).any()]
    return (sizes[:, list(prompt["image"])][..., dimensions] >= tau).any(-1).numpy()


@pytest.mark.float64
def test_sinks_are_those_of_the_hidden_states_and_leave_the_map(sdpa, prompts, answers, truths):
    frame = grounded(sdpa, prompts, truths, sinks=TAU, read_at=["word"])
    found = 0
    for image, answer in enumerate(answers):
        name, mask = truths[image][1].name, truths[image][1].mask
        sinks = sinks_by_hand(sdpa, answer.prompt, TAU)
        maps = nv.run(sdpa, answer.prompt, reads=nv.Attention(places_of(answer, name)[:1], "image")).reads[0]
        maps, patches = maps.mean(1)[:, 0].numpy(), prompts[image].grid().coverage(mask) > 0
        cells = np.array([f"{row},{column}" for row, column in prompts[image].grid().cells])
        labels = {"image": image, "thing": name}
        cases = [(str(layer), maps[layer], sinks[layer]) for layer in range(tiny.LAYERS)]
        for layer, values, gone in [*cases, (MIDDLE_HALF, maps[HALF].mean(0), sinks[HALF].any(0))]:
            whole = one(frame, **labels, layer=layer, control="none", map="all patches")
            assert whole["sinks"] == " ".join(cells[gone])
            assert whole["sink_mass"] == pytest.approx(values[gone].sum() / values.sum(), rel=LIMIT)
            chance = one(frame, **labels, layer=layer, control="random patches", map="all patches")
            assert chance["sink_mass"] == gone.mean()
            left = one(frame, **labels, layer=layer, control="none", map="without sinks")
            assert left["hit"] == patches[~gone][values[~gone].argmax()]
            assert left["top"].split() == list(cells[~gone][np.argsort(-values[~gone])[:5]])
            chance = one(frame, **labels, layer=layer, control="random patches", map="without sinks")
            assert chance["hit"] == pytest.approx(patches[~gone].mean())
            found += gone.sum()
    assert found > 0


def test_planted_sinks_are_found_and_no_others(sdpa, prompts, truths):
    """One dimension of the first token and of two patches is made huge where they enter the decoder."""
    planted = (7, 18)

    def plant(module, args, kwargs):
        states = kwargs["inputs_embeds"].clone()
        start, image = 0, list(prompts[0]["image"])
        if states.shape[1] > len(image):
            states[:, [start, *(image[patch] for patch in planted)], 5] = 1000.0
        return args, {**kwargs, "inputs_embeds": states}

    hook = view_of(sdpa).module.model.language_model.register_forward_pre_hook(plant, with_kwargs=True)
    try:
        prompt, cells = prompts[0], prompts[0].grid().cells
        text = nv.generate(sdpa, prompt, max_new_tokens=6).prompt.words("generated")[0].text
        things = [(Thing(name=text, mask=square(0, 0)),)]
        frame = grounded(sdpa, [prompt], things, sinks=5.0, max_new_tokens=6, per_image=False)
    finally:
        hook.remove()
    listed = " ".join(f"{row},{column}" for row, column in (cells[patch] for patch in planted))
    first = [each for each in frame.attrs["sinks"] if each["layer"] == "0"]
    assert first == [{"image": 0, "layer": "0", "patches": listed}]


def test_a_threshold_that_no_hidden_state_can_reach_is_refused(sdpa, prompts, truths):
    with pytest.raises(nv.SpecError, match=r"none can be above 5\.66 times.*sinks=1\.77"):
        grounded(sdpa, prompts, truths, sinks=True)


def test_without_sinks_above_the_threshold_the_maps_are_the_same(sdpa, prompts, truths):
    frame = grounded(sdpa, prompts, truths, sinks=5.65)
    assert not frame["sinks"].fillna("").any()
    both = [frame[frame["map"] == each].reset_index(drop=True) for each in ("all patches", "without sinks")]
    assert both[0]["hit"].equals(both[1]["hit"])
    assert both[0]["top"].equals(both[1]["top"])


# ablations ----------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_ablations_are_single_patches_of_the_mean_feature(sdpa, prompts, answers, truths):
    frame = grounded(sdpa, prompts, truths, of="phrase", ablate=True, cut=True, read_at=["word"])
    assert set(frame.loc[frame["ablation_change"].notna(), "layer"]) == {MIDDLE_HALF}
    for image, answer in enumerate(answers):
        name, mask = truths[image][0].name, truths[image][0].mask
        places = places_of(answer, name)
        maps = nv.run(sdpa, answer.prompt, reads=nv.Attention(places, "image")).reads[0].mean((1, 2))[HALF].mean(0)
        grid = prompts[image].grid()
        own = np.flatnonzero(grid.coverage(mask) > 0)
        best = np.argsort(-maps.numpy())[: len(own)]
        features = nv.run(sdpa, prompts[image], reads=nv.Residual("image", site="features")).reads[0]
        start = prompts[image].rows[0].answer
        ids = answer.tokens[places[0] - start : places[-1] + 1 - start]

        def logprob(case, image=image, start=start, ids=ids, places=places, answer=answer):
            total = 0.0
            for number, token in enumerate(ids):
                before = prompts[image].grown(answer.tokens[: places[0] - start + number])
                total += float(nv.run(sdpa, before, case).logits.log_softmax(-1)[token])
            return total

        rows = frame[(frame["image"] == image) & (frame["thing"] == name)]
        for control, patches in (("none", best), ("object's patches", own)):
            where = sorted(grid.positions[patch] for patch in patches)
            case = nv.Patch(where, source=features.mean(0), site="features")
            row = rows[(rows["control"] == control) & rows["ablation_change"].notna()].iloc[0]
            assert row["ablation_change"] == pytest.approx(logprob(case) - logprob(None), rel=LIMIT, abs=LIMIT)
        cut = rows[rows["logprob_change"].notna() & (rows["control"] == "none")].iloc[0]
        hidden = nv.Knockout([grid.positions[patch] for patch in own], ("last", "generated"))
        assert cut["logprob_change"] == pytest.approx(logprob(hidden) - logprob(None), rel=LIMIT, abs=LIMIT)


def test_ablated_random_patches_are_matched_and_lie_outside(sdpa, prompts, answers):
    from nnsight_vlm.recipes.word_ablations import sets_of
    from nnsight_vlm.recipes.word_maps import WordMap
    from nnsight_vlm.studies.image_patches import patch_source
    from nnsight_vlm.studies.object_words import ObjectWord

    source = patch_source(prompts[0])
    patches = np.arange(25) < 4
    word = ObjectWord(thing="dog", text="dog", positions=(40,), patches=patches, hits=patches, other_hits=())
    values = np.arange(25.0)
    each = WordMap(word, values, source.grid, {}, None)
    sets = sets_of(each, word, source, 5, np.random.default_rng(0))
    assert sets["none"] == source.grid.positions[-4:]
    assert sets["object's patches"] == source.grid.positions[:4]
    assert len(sets["random patches"]) == 4
    assert not set(sets["random patches"]) & {*sets["none"], *sets["object's patches"]}
    large = ObjectWord(**{**vars(word), "patches": np.arange(25) < 13})
    assert sets_of(each, large, source, 5, np.random.default_rng(0)) == {}


@pytest.mark.parametrize("name", ["shapes", "shapes-gist"])
def test_in_trained_models_the_grounded_patches_matter_and_random_ones_do_not(name):
    if not (checkpoint(name) / "config.json").is_file():
        pytest.skip(f"this checkout has no {name}")
    model, scenes = nv.load(name), [nv.shapes.scene(seed) for seed in range(8)]
    frame = patch_grounding(
        model,
        [nv.encode(model, "describe the image.", scene.image) for scene in scenes],
        truths=[shape_truth(scene) for scene in scenes],
        of="phrase",
        read_at=["predicting"],
        ablate=True,
        cut=False,
        max_new_tokens=32,
        work=QUIET,
    )
    change = frame[frame["measure"] == "ablation_change"].set_index("control")
    assert change.loc["none", "high"] < change.loc["random patches", "low"]
    assert change.loc["object's patches", "high"] < -1
    hits = frame[(frame["measure"] == "hit") & (frame["layer"] == MIDDLE_HALF)].set_index("control")
    assert hits.loc["none", "mean"] > 0.9
    assert hits.loc["other object", "mean"] < 0.1


# tolerance, words, and how it runs -------------------------------------------------------------------------


def test_tolerance_is_the_distance_of_the_nearest_pixels(prompts):
    grid, mask = prompts[0].grid(), square(9, 10, 3)
    ys, xs = np.nonzero(mask)
    for amount in (0, 1, 3, 4.5, 15):
        near = []
        for x0, y0, x1, y1 in grid.boxes:
            there = [(x, y) for x in range(round(x0), round(x1)) for y in range(round(y0), round(y1))]
            near.append(min(np.hypot(xs - x, ys - y).min() for x, y in there) <= amount)
        assert patches_near(grid, mask, Tolerance(amount, "pixels")).tolist() == near
    touched = [grid.cells[patch] for patch in np.flatnonzero(grid.coverage(mask) > 0)]
    for amount in (0, 1, 2):
        near = [min(max(abs(r - a), abs(c - b)) for a, b in touched) <= amount for r, c in grid.cells]
        assert patches_near(grid, mask, Tolerance(amount, "patches")).tolist() == near
    assert not patches_near(grid, np.zeros_like(mask), Tolerance(15, "pixels")).any()


def test_tolerance_moves_hits_and_their_chance_alone(sdpa, prompts, answers, truths):
    plain = grounded(sdpa, prompts, truths)
    near = grounded(sdpa, prompts, truths, tolerance=1, tolerance_in="patches")
    assert plain["iou"].equals(near["iou"])
    for control in ("none", "random patches", "other object"):
        before, after = (each.loc[each["control"] == control, "hit"] for each in (plain, near))
        assert (before <= after).all()
        assert (before < after).any()
    chance = near[(near["control"] == "random patches") & (near["image"] == 0)]
    hits = patches_near(prompts[0].grid(), truths[0][0].mask, Tolerance(1, "patches"))
    assert set(chance.loc[chance["thing"] == truths[0][0].name, "hit"]) == {hits.mean()}


def test_words_are_found_in_the_answer_and_have_the_masks_of_truths(sdpa, prompts, truths):
    name = truths[0][0].name
    frame = grounded(sdpa, prompts, truths, words=[name.split()[1].upper(), name, "nowhere"], of="phrase")
    own = frame[(frame["image"] == 0) & (frame["control"] == "none")]
    assert set(own["thing"]) == {name, name.split()[1]}
    assert own.loc[own["thing"] == name, "hit"].notna().all()
    assert own.loc[own["thing"] != name, "hit"].isna().all()


EVERYTHING = {
    "of": ["token", "phrase"],
    "quantity": ["weight", "contribution"],
    "heads": "each",
    "sinks": TAU,
    "tolerance": 2,
    "ablate": True,
    "read_at": ["word"],
}


def test_a_server_gives_the_same_numbers(sdpa, prompts, truths):
    here, there = (grounded(sdpa, prompts[:1], truths[:1], **EVERYTHING, remote=remote) for remote in (False, "local"))
    assert here.drop(columns=["ablation_change"]).equals(there.drop(columns=["ablation_change"]))
    changes = (each["ablation_change"].to_numpy() for each in (here, there))
    np.testing.assert_allclose(*changes, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_frame(sdpa, prompts, truths, tmp_path, monkeypatch):
    from nnsight_vlm.recipes import word_patches

    whole, read, calls = grounded(sdpa, prompts, truths, **EVERYTHING), word_patches.read_maps, []

    def interrupted(model, answered, *args, **options):
        calls.append(answered.image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(model, answered, *args, **options)

    monkeypatch.setattr(word_patches, "read_maps", interrupted)
    work = Work(progress=False, journal=tmp_path, chunk=1)
    with pytest.raises(KeyboardInterrupt):
        grounded(sdpa, prompts, truths, **EVERYTHING, work=work)
    resumed = grounded(sdpa, prompts, truths, **EVERYTHING, work=work)
    assert calls == [0, 1, 1]
    assert whole.equals(resumed[whole.columns])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "letter"}, "no of 'letter'"),
        ({"quantity": []}, "quantity="),
        ({"heads": "all"}, "no heads 'all'"),
        ({"sinks": "yes"}, "sinks='yes'"),
        ({"sinks": -1}, "sinks=-1"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"tolerance": 0.5, "tolerance_in": "patches"}, "tolerance=0.5"),
        ({"tolerance_in": "inches"}, "no tolerance_in 'inches'"),
        ({"words": "dog"}, "words='dog'"),
        ({"words": ["dog", " "]}, "words="),
        ({"words": ["dog"], "truths": None, "objects": str.split}, "objects= is not used where words= are given"),
        ({"ablate": 1}, "ablate=1"),
    ],
)
def test_bad_arguments_are_refused(sdpa, prompts, truths, options, message):
    with pytest.raises(nv.SpecError, match=message):
        patch_grounding(sdpa, prompts, **{"truths": truths, "work": QUIET, **options})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blip-2-opt", {"quantity": "contribution"}, "image tokens are latents"),
        ("blip-2-opt", {"heads": "each"}, "image tokens are latents"),
        ("blip-2-opt", {"ablate": True}, "image tokens are latents"),
        ("blip-2-opt", {"sinks": 2, "top": 1}, "patches have none there"),
        ("mllama", {"sinks": 2, "top": 1}, "patches have none there"),
        ("qwen3_vl", {"ablate": True}, "DeepStack"),
    ],
)
def test_what_a_family_cannot_give_is_refused(name, options, message):
    prompt = zoo.prompt(name)
    with pytest.raises(nv.SpecError, match=message):
        patch_grounding(prompt.model, [prompt], max_new_tokens=2, work=QUIET, **options)


@pytest.mark.parametrize("name", ["mllama", "qwen2_5_vl"])
def test_patches_outside_the_sequence_and_of_other_families_are_ablated_too(name):
    prompt = zoo.prompt(name)
    options = {"quantity": ["weight", "contribution"], "heads": "each", "ablate": True, "objects": str.split}
    rows = patch_grounding(prompt.model, [prompt], max_new_tokens=4, top=2, per_image=True, work=QUIET, **options)
    assert (
        rows.loc[rows["ablation_change"].notna(), "control"].value_counts().index.isin(["none", "random patches"]).all()
    )
    assert rows["ablation_change"].abs().max() > 0
