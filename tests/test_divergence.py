"""Patches that need not be made: those that change nothing, and those that another prompt's prefix stands for."""

from __future__ import annotations

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT
from hypothesis import given, settings
from hypothesis import strategies as st

import nnsight_vlm as nv
from nnsight_vlm.families import unsupported
from nnsight_vlm.families.lookup import family_of
from nnsight_vlm.specs.interventions import CLEAN
from nnsight_vlm.sweeping.divergence import divergence_of

ANSWER = 20
WORDS = "what is the big red square left of the dog ?"


@pytest.fixture
def fresh(model):
    return nv.encode(model, WORDS, tiny.picture(3))


@pytest.fixture
def twin(model):
    return nv.encode(model, WORDS, tiny.picture(6))


@pytest.fixture
def reworded(model):
    """The same picture, and as many words, of which the fourth is another one."""
    return nv.encode(model, WORDS.replace("big", "small"), tiny.picture(3))


def expect_one_by_one(model, prompt, variants, execution):
    found = nv.sweep(model, prompt, variants, answer=ANSWER, execution=execution)
    single = nv.sweep(model, prompt, variants, answer=ANSWER, execution="single")
    scale = max(1.0, abs(single["logit"]).max())
    assert abs(found["logit"] - single["logit"]).max() < LIMIT * scale
    assert abs(found["logprob"] - single["logprob"]).max() < 2 * LIMIT * scale
    return single


def test_a_patch_where_nothing_differs_yet_is_left_out(model, fresh, twin, reworded):
    assert divergence_of(model, fresh, nv.Patch("system", source=twin), donors=False).case is CLEAN
    assert (
        divergence_of(model, fresh, nv.Patch("image", source=reworded), donors=False).case is not CLEAN
    )  # another file
    kept = nv.Patch("system", source=twin) | nv.Knockout("image", "last")
    assert divergence_of(model, fresh, kept, donors=False).case.parts == kept.parts[1:]
    for case in (
        nv.Patch("query", source=reworded),
        nv.Patch("system", source=twin, under=nv.Ablate("system", layers=0)),
        nv.Patch("system", source=twin, source_where=[0]) if len(fresh["system"]) == 1 else nv.Ablate("system"),
        nv.Ablate(fresh["system"][0], layers=0) | nv.Patch("system", source=twin, layers=2),  # it restores
    ):
        assert divergence_of(model, fresh, case, donors=True).case is case


def test_a_patch_of_all_that_differs_is_the_other_prompts_prefix_behind_its_layer(model, fresh, twin):
    behind = fresh["image"][-1] + 1
    start = divergence_of(model, fresh, nv.Patch("image", source=twin, layers=[1, 3]), donors=True)
    assert (start.donor, start.donor_from_layer, start.layer, start.position, start.case) == (twin, 2, 2, behind, CLEAN)
    start = divergence_of(model, fresh, nv.Patch("image", source=twin, site="embedding"), donors=True)
    assert (start.donor, start.donor_from_layer, start.position) == (twin, 0, behind)
    cut = nv.Knockout("image", "last")
    start = divergence_of(model, fresh, nv.Patch("image", source=twin, layers=2) | cut, donors=True)
    assert (start.donor, start.donor_from_layer, start.layer, start.case) == (twin, 3, 0, cut)
    for case in (
        nv.Patch(fresh["image"][1:], source=twin, layers=1),
        nv.Patch("image", source=twin, layers=1, under=nv.Ablate("system", layers=0)),
        nv.Patch("image", source=twin, layers=1, site="mlp"),
        nv.Patch("image", source=twin, layers=1) | nv.Patch("image", source=fresh, layers=2),
        nv.Patch("image", source=twin, layers=1) | nv.Ablate(fresh["image"][3], layers=0),
        nv.Patch(("image", "last"), source=twin, layers=1),
        nv.Patch("all", source=twin, layers=1),
    ):
        assert divergence_of(model, fresh, case, donors=True).donor is None
    assert divergence_of(model, fresh, nv.Patch("image", source=twin), donors=False).donor is None


@pytest.mark.float64
def test_an_image_pair_is_two_prefixes_and_one_forward(model, fresh, twin, forwards):
    variants = [nv.Patch("image", source=twin, layers=layer) for layer in range(4)]
    nv.sweep(model, fresh, variants, answer=ANSWER, execution="rows")
    assert len(forwards) == 3
    single = expect_one_by_one(model, fresh, variants, "auto")
    assert single["logit"].nunique() == 4


def groups_of(prompt):
    image, query = prompt["image"], prompt["query"]
    return ["image", "system", "query", "last", image[2:], image[:4], query[:2], ("image", "query"), query[2:4]]


@pytest.mark.float64
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_compositions_of_patches_equal_one_by_one(data):
    model = tiny.load("sdpa", dtype=torch.float64)
    fresh = nv.encode(model, WORDS, tiny.picture(3))
    sources = [
        fresh,
        nv.encode(model, WORDS, tiny.picture(6)),
        nv.encode(model, WORDS.replace("big", "small"), tiny.picture(6)),
    ]
    layer, where = st.integers(0, 3), st.sampled_from(groups_of(fresh))

    def part():
        kind = data.draw(st.sampled_from(["patch", "patch", "patch", "ablate", "knockout"]))
        if kind == "knockout":
            return nv.Knockout("image", data.draw(st.sampled_from(["query", "last"])), layers=data.draw(layer))
        if kind == "ablate":
            return nv.Ablate(
                data.draw(where), layers=data.draw(layer), how=data.draw(st.sampled_from(["zero", "mean"]))
            )
        site = data.draw(st.sampled_from(["residual", "residual", "residual", "mlp", "attention", "embedding"]))
        return nv.Patch(
            data.draw(where), source=data.draw(st.sampled_from(sources)), layers=data.draw(layer), site=site
        )

    variants = []
    for _ in range(data.draw(st.integers(3, 6))):
        case = part()
        for _ in range(data.draw(st.integers(0, 2))):
            case = case | part()
        variants.append(case)
    expect_one_by_one(model, fresh, variants, data.draw(st.sampled_from(["auto", "rows"])))


@pytest.mark.float64
def test_answers_begin_in_the_other_prompts_prefix_too(model, fresh, twin, forwards):
    cases = [None, *(nv.Patch("image", source=twin, layers=layer) for layer in range(3))]
    answers = [answer.tokens for answer in nv.generations(model, [(fresh, case) for case in cases], max_new_tokens=4)]
    assert len(forwards) == 2 + 4  # the two prefixes, and a forward a token
    assert answers == [nv.generate(model, fresh, case, max_new_tokens=4).tokens for case in cases]


@pytest.mark.float64
@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_every_family_patches_between_a_pair_as_one_by_one(name, dtype):
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention, dtype), zoo.prompt(name, attention, dtype=dtype)
    theirs = (*prompt["image"], *prompt.rows[0].borders.positions(prompt.width))
    first, last = min(theirs), max(theirs)
    if first < 0:
        pytest.skip("the image is not in the sequence")
    twin, inside = zoo.prompt(name, attention, seed=7, dtype=dtype), tuple(range(first, last + 1))
    variants = [nv.Patch(inside, source=twin, layers=layer) for layer in (0, 1)]
    variants += [variants[0] | nv.Ablate("last", layers=1), nv.Patch("query", source=twin, layers=1)]
    variants += [nv.Patch("system", source=twin, layers=1)] if first else []
    late = [nv.Ablate("last", layers=1), nv.Ablate("last", layers=1, how="mean"), variants[1]]
    donor_from_layer = [divergence_of(model, prompt, case, donors=True).donor is twin for case in variants]
    family = family_of(model._module.config)
    assert any(donor_from_layer) == ("embedded" not in unsupported(family) and family.blocks != "prompt")
    single = expect_one_by_one(model, prompt, variants, "auto")
    told_apart = tiny.gap(nv.run(model, prompt).logits, nv.run(model, twin).logits) > 1e-3
    assert not told_apart or abs(single["logit"] - single["clean_logit"])[:2].max() > 1e-3
    expect_one_by_one(model, prompt, variants, "rows")
    expect_one_by_one(model, prompt, late, "auto")  # layer 0 is skipped
