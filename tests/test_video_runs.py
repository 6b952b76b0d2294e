"""What is done to videos equals the reference without nnsight: cuts, states, reads, sweeps, proofs and answers."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from float64 import LIMIT, float64
from test_families import gap
from zoo import reference, videos
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.families import FAMILIES, Family, unsupported, view_of
from nnsight_vlm.families.lookup import family_of

pytestmark = pytest.mark.skipif(
    not versions.lies_in(versions.installed("transformers"), ">=5.23"),
    reason="the small video processors of the tests stand in for those of transformers 5.23",
)
NAMES = tuple(videos.VIDEO_ZOO)
WITH_FEATURES = tuple(name for name in NAMES if "features" not in FAMILIES[name].limitations)
TEXT, FRAMES, STEPS = "what happens then ?", 5, 4
SEEN = 1e-3
"""The share of the logits' scale that every intervention here must move."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Case:
    """A member in float64, prompts about two videos, and its reference."""

    model: Any
    prompt: nv.Prompt
    other: nv.Prompt
    module: Any
    family: Family

    def reference(self, cuts: Any = None, writes: Any = None, prompt: nv.Prompt | None = None) -> reference.Reference:
        return reference.forward(self.module, self.family, (prompt or self.prompt).inputs, cuts, writes)


@functools.cache
def case(name: str, attention: str = "sdpa") -> Case:
    model = videos.load(name, attention, torch.float64)
    prompt, other = (nv.encode(model, TEXT, videos=videos.film(name, FRAMES, seed)) for seed in (0, 1))
    module = videos.module(name, attention, torch.float64)
    family = replace(family_of(module.config), tower=None, towers={})  # the reference leaves towers as they are
    return Case(model=model, prompt=prompt, other=other, module=reference.prepare(module, family), family=family)


@pytest.fixture(autouse=True)
def _exact():
    with float64():
        yield


def expect(found: torch.Tensor, expected: torch.Tensor, clean: torch.Tensor) -> None:
    """`found` is `expected`, and not what it is where nothing was done."""
    assert gap(found, expected) < LIMIT
    assert gap(expected, clean) > SEEN


def layers(at: Case) -> range:
    return range(view_of(at.model).stage().layer_count)


# cuts and reads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, attention", [*((name, "sdpa") for name in NAMES), ("qwen3_vl", "eager"), ("smolvlm", "eager")]
)
def test_a_frame_that_is_cut_off_equals_the_reference(name, attention):
    at = case(name, attention)
    frame, query = at.prompt["frame.2"], at.prompt["query"]
    clean = at.reference()
    found = nv.run(at.model, at.prompt, nv.Knockout("frame.2", "query"), reads=nv.Attention("last", "video"))
    expected = at.reference(reference.cuts(layers(at), query, frame))
    expect(found.logits, expected.logits[0, -1], clean.logits[0, -1])
    weights = torch.stack(
        [expected.weights["decoder", "attention", n][0, :, -1, list(at.prompt["video"])] for n in layers(at)]
    )
    torch.testing.assert_close(found.reads[0][:, :, 0], weights, atol=1e-9, rtol=0)
    cut = [at.prompt["video"].index(place) for place in frame]
    assert (found.reads[0][..., cut] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_shown_to_the_text_only_where_it_is_allowed(name):
    at = case(name)
    only = [1, 2]
    found = nv.run(at.model, at.prompt, nv.Allow("video", "text", layers=only))
    cuts = reference.cuts([n for n in layers(at) if n not in only], at.prompt["text"], at.prompt["video"])
    expect(found.logits, at.reference(cuts).logits[0, -1], at.reference().logits[0, -1])


# states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_states_of_a_frame_are_patched_and_ablated_as_in_the_reference(name):
    at = case(name)
    places, clean = list(at.prompt["frame.1"]), at.reference()
    held = at.reference(prompt=at.other).states["decoder", "residual", 1][0, places]
    spot = ("decoder", "residual", 1)
    for change, write in (
        (nv.Patch("frame.1", source=at.other, layers=1), reference.setter(0, places, held)),
        (nv.Ablate("frame.1", layers=1), reference.setter(0, places, 0.0)),
        (nv.Ablate("frame.1", layers=1, how="mean"), reference.mean(0, places)),
    ):
        found = nv.run(at.model, at.prompt, change, reads=nv.Residual("frame.1", layers=1))
        expected = at.reference(writes={spot: write})
        expect(found.logits, expected.logits[0, -1], clean.logits[0, -1])
        torch.testing.assert_close(found.reads[0][0], expected.states[spot][0, places], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_features_of_a_frame_are_those_of_its_tokens(name):
    at = case(name)
    image, frame = at.prompt["video"], at.prompt["frame.2"]
    rows = reference.feature_rows(at.module, at.family, at.prompt.inputs, image)
    own = [row for place, row in zip(image, rows, strict=True) if place in frame]
    assert len(own) == len(frame) and -1 not in own
    read = nv.run(at.model, at.prompt, reads=nv.Residual("frame.2", site="features")).reads[0]
    clean = at.reference()
    torch.testing.assert_close(read, clean.states[reference.FEATURES][0, own], atol=1e-9, rtol=0)
    found = nv.run(at.model, at.prompt, nv.Ablate("frame.2", site="features"))
    expected = at.reference(writes={reference.FEATURES: reference.setter(0, own, 0.0)})
    expect(found.logits, expected.logits[0, -1], clean.logits[0, -1])
    assert nv.verify(at.model, at.prompt, nv.Ablate("frame.2", site="features")).writes > 0


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_features_that_no_one_place_holds_are_refused(name):
    at = case(name)
    with pytest.raises(nv.SpecError, match="have no site 'features'"):
        nv.run(at.model, at.prompt, nv.Ablate("video", site="features"))


def test_features_of_images_and_videos_together():
    at, size = case("internvl"), videos.VIDEO_ZOO["internvl"].size
    both = nv.encode(at.model, TEXT, picture(9, size), videos=videos.film("internvl", 2))
    shown = (*both["image"], *both["video"])
    rows = reference.feature_rows(at.module, at.family, both.inputs, shown)
    read = nv.run(at.model, both, reads=[nv.Residual(group, site="features") for group in ("image", "frame.1")]).reads
    states = at.reference(prompt=both).states[reference.FEATURES][0]
    for group, found in zip(("image", "frame.1"), read, strict=True):
        own = [row for place, row in zip(shown, rows, strict=True) if place in both[group]]
        torch.testing.assert_close(found, states[own], atol=1e-9, rtol=0)
    at, size = case("qwen2_vl"), videos.VIDEO_ZOO["qwen2_vl"].size
    both = nv.encode(at.model, TEXT, picture(9, size), videos=videos.film("qwen2_vl", 2))
    for ask in (
        lambda: nv.run(at.model, both, nv.Ablate("video", site="features")),
        lambda: nv.run(at.model, both, reads=nv.Residual("image", site="features")),
        lambda: nv.run(
            at.model,
            nv.stack([at.prompt, nv.encode(at.model, TEXT, picture(9, size))]),
            nv.Ablate("video", site="features"),
            empty="ignore",
        ),
    ):
        with pytest.raises(nv.SpecError, match="runs once for the images and once for the videos"):
            ask()


# answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_transformers_own(name):
    at = case(name)
    plain = videos.module(name, dtype=torch.float64)
    expected = plain.generate(**dict(at.prompt.inputs), max_new_tokens=STEPS, do_sample=False)[0, at.prompt.width :]
    answer = nv.generate(at.model, at.prompt, max_new_tokens=STEPS)
    assert list(answer.tokens) == expected.tolist()
    assert answer.prompt["video"] == at.prompt["video"] and len(answer.prompt["generated"]) == STEPS
    batch = nv.stack([at.prompt, nv.encode(at.model, "is the dog red ?", videos=videos.film(name, FRAMES, 4))])
    assert nv.generate(at.model, batch, max_new_tokens=STEPS).tokens[0] == answer.tokens


@pytest.mark.parametrize("name", NAMES)
def test_answers_about_a_video_without_a_frame_equal_the_reference(name):
    at = case(name)
    cut = nv.Knockout("frame.1", ("query", "generated"))
    found = nv.generate(at.model, at.prompt, cut, max_new_tokens=STEPS)
    stop, frame = at.prompt.rows[0].stop, at.prompt["frame.1"]
    tokens, _ = reference.greedy(
        at.module,
        at.family,
        STEPS,
        lambda answer: at.prompt.grown(list(answer)).inputs if len(answer) else at.prompt.inputs,
        lambda step: (reference.cuts(layers(at), [*at.prompt["query"], *range(stop, stop + step)], frame), {}),
    )
    assert list(found.tokens) == list(tokens)


# sweeps and proofs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_over_frames_equals_its_variants_one_by_one(name):
    at = case(name)
    cuts = [nv.Knockout(f"frame.{number}", "query") for number in range(FRAMES)]
    variants = [*cuts, nv.Ablate("frame.0", layers=1), nv.Patch("video", source=at.other, layers=0)]
    if name in WITH_FEATURES:
        variants.append(nv.Ablate("frame.3", site="features"))
    one_by_one = torch.stack([nv.run(at.model, at.prompt, each).logits for each in variants])
    for execution in ("auto", "rows"):
        table = nv.sweep(at.model, at.prompt, variants, answer=20, execution=execution)
        np.testing.assert_allclose(table["logit"], one_by_one[:, 20], atol=1e-7)
    packed = nv.sweep(at.model, at.prompt, cuts, answer=20, execution="packed")
    np.testing.assert_allclose(packed["logit"], one_by_one[:FRAMES, 20], atol=1e-7)
    assert len(set(packed["logit"].round(6))) == len({at.prompt[f"frame.{number}"] for number in range(FRAMES)})


@pytest.mark.parametrize("name", NAMES)
def test_proofs_of_frames(name):
    at = case(name)
    change = nv.Knockout("frame.2", ("query", "generated"), layers=[1, 2]) | nv.Ablate("frame.0", layers=1)
    proof = nv.verify(at.model, at.prompt, change)
    assert proof.edges > 0 and proof.moved > 0
    if "complete cut" not in unsupported(at.family):
        assert nv.verify(at.model, at.prompt, nv.Knockout("video", "text"), pixels=True).pixels > 0
    with pytest.raises(nv.InterventionError, match=r'write nv.Knockout\("video", "text"'):
        nv.verify(at.model, at.prompt, nv.Knockout("frame.2", "text"), pixels=True)


def test_attention_grounds_on_a_frame():
    at = case("internvl")
    grid = at.prompt.grid(video=0).frame(3)
    read = (
        nv.run(at.model, at.prompt, reads=nv.Attention("last", grid.positions, layers=2, reduce="mean"))
        .reads[0]
        .flatten()
    )
    heat = grid.heatmap(read)
    assert heat.shape == grid.size[::-1]
    peak = np.unravel_index(np.nanargmax(heat), heat.shape)
    strongest = grid.positions[int(read.argmax())]
    assert strongest in grid.tokens_in((int(peak[1]), int(peak[0]), int(peak[1]) + 1, int(peak[0]) + 1))


def test_recipes_measure_a_frame_where_one_is_named():
    at = case("internvl")
    hidden = nv.recipes.patch_knockout(at.model, at.prompt, answer=20, size=1, frame=3)
    assert tuple(hidden["token"]) == at.prompt["frame.3"]
    cut = nv.Knockout(int(hidden["token"][5]), "last")
    clean, without = (nv.run(at.model, at.prompt, each).logits.log_softmax(-1)[20] for each in (None, cut))
    assert hidden["logprob_change"][5] == pytest.approx(float(without - clean), abs=1e-9)
    width, height = at.prompt.grid(video=0).size
    mask = np.zeros((height, width), dtype=bool)
    mask[: height // 2, : width // 2] = True
    said = nv.generate(at.model, at.prompt, max_new_tokens=6).text.split()
    things = [nv.recipes.Thing(name=word, mask=mask) for word in dict.fromkeys(said) if word.isalpha()]
    quiet = nv.recipes.Work(progress=False)
    frame = nv.recipes.patch_grounding(
        at.model, [at.prompt], truths=[things], frame=2, max_new_tokens=6, per_image=True, work=quiet
    )
    assert len(frame) and {"0", "3", "middle half"} <= set(frame["layer"])
    for ask in (
        lambda: nv.recipes.patch_knockout(at.model, at.prompt, answer=20, frame=FRAMES),
        lambda: nv.recipes.patch_grounding(at.model, [at.prompt], frame=FRAMES),
    ):
        with pytest.raises(nv.SpecError, match="no frame 5: the prompt's videos have 5 frame"):
            ask()
