"""What variants share is run once, and is never stale."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.families import unsupported, view_of
from nnsight_vlm.families.lookup import family_of
from nnsight_vlm.sweeping import arrangement

ANSWER = 20
LATE = [nv.Knockout("image", "last", layers=layer) for layer in range(4)]
EARLY = [nv.Knockout("image", "query", layers=layer) for layer in range(4)]


@pytest.fixture
def fresh(model):
    """A prompt that no test has swept before."""
    return nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(3))


@pytest.fixture
def twin(model):
    """The same words about another picture."""
    return nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(6))


def alone(model, prompt, variants):
    return nv.sweep(model, prompt, variants, answer=ANSWER, execution="single")["logit"].to_numpy()


def expect_equal(model, prompt, variants, frame):
    expected = torch.tensor(alone(model, prompt, variants))
    assert tiny.gap(torch.tensor(frame["logit"].to_numpy()), expected) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_a_sweep_is_its_prefix_and_one_forward_and_where_that_is_reused_the_forward_alone(
    model, fresh, forwards, execution
):
    with nv.reuse(model):
        frame = nv.sweep(model, fresh, EARLY, answer=ANSWER, execution=execution)
        assert len(forwards) == 2
        expect_equal(model, fresh, EARLY, frame)
        before = len(forwards)
        again = nv.sweep(model, fresh, list(reversed(EARLY)), answer=ANSWER, execution=execution)
        assert len(forwards) == before + 1
        assert again["logit"].tolist()[::-1] == pytest.approx(frame["logit"].tolist(), rel=LIMIT)


@pytest.mark.float64
def test_a_longer_prefix_is_cut_and_a_shorter_one_serves_where_that_is_cheaper(model, fresh, forwards):
    with nv.reuse(model):
        nv.sweep(model, fresh, LATE, answer=ANSWER)  # all but the last token are shared
        assert len(forwards) == 2
        frame = nv.sweep(model, fresh, EARLY, answer=ANSWER)
        assert len(forwards) == 3
        expect_equal(model, fresh, EARLY, frame)
        other = nv.encode(model, "what is red ?", tiny.picture(4))
        nv.sweep(model, other, EARLY[:3], answer=ANSWER)
        before = len(forwards)
        frame = nv.sweep(model, other, LATE[:3], answer=ANSWER)
        assert len(forwards) == before + 1
        expect_equal(model, other, LATE[:3], frame)


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_late_variants_are_not_made_to_run_the_layers_before(model, fresh, twin, monkeypatch, execution):
    monkeypatch.setattr(arrangement, "FORWARD", 0)
    ran, decoder = [], model._module.model.language_model.layers
    hooks = [layer.self_attn.register_forward_pre_hook(lambda *_: ran.append(1)) for layer in decoder]
    variants = [*EARLY, nv.Ablate("query", layers=2), nv.Patch("last", source=twin, layers=3)]
    variants += [nv.Knockout("image", "query", layers=nv.window(2, 4)), nv.Ablate("last", layers=2, site="mlp")]
    frame = nv.sweep(model, fresh, variants, answer=ANSWER, execution=execution)
    for hook in hooks:
        hook.remove()
    passes = frame.attrs["passes"][execution]
    assert passes > 2 and len(ran) < 4 * (2 + passes)  # of the prompt, of the patch's source, and of the passes
    expect_equal(model, fresh, variants, frame)


@pytest.mark.float64
def test_a_prompt_of_keys_outside_the_sequence_is_cut_as_well(dtype):
    model, prompt = zoo.load("mllama", "sdpa", dtype), zoo.prompt("mllama", "sdpa", dtype=dtype)
    late = [nv.Knockout("image", "last", layers=layer) for layer in view_of(model).stage().cross] * 3
    early = [nv.Knockout("image", prompt["query"][:2], layers=layer) for layer in view_of(model).stage().cross] * 3
    with nv.reuse(model):
        for variants in (late, early, late):
            frame = nv.sweep(model, prompt, variants, answer=60)
            single = nv.sweep(model, prompt, variants, answer=60, execution="single")
            assert abs(frame["logit"] - single["logit"]).max() < LIMIT * max(1, abs(single["logit"]).max())


@pytest.mark.float64
def test_a_prompt_that_is_kept_serves_everything_in_any_order(model, fresh, twin):
    """Passes write behind the kept keys, so what lies there must be had again afterwards."""
    patches = [nv.Patch("image", source=twin, layers=layer) for layer in range(3)]
    steps = {
        "early": (EARLY, "packed"), "late": (LATE, "packed"), "rows": (EARLY, "rows"), "last rows": (LATE, "rows"),
        "patches": (patches, "auto"),
    }  # fmt: skip
    wanted = {name: alone(model, fresh, variants) for name, (variants, _) in steps.items()}
    said = [nv.generate(model, fresh, case, max_new_tokens=4).tokens for case in LATE]
    with nv.reuse(model):
        for order in itertools.permutations(steps):
            for name in order[:3]:
                variants, execution = steps[name]
                found = nv.sweep(model, fresh, variants, answer=ANSWER, execution=execution)["logit"].to_numpy()
                assert abs(found - wanted[name]).max() < LIMIT * max(1, abs(wanted[name]).max())
        answers = nv.generations(model, [(fresh, case) for case in LATE], max_new_tokens=4)
        assert [answer.tokens for answer in answers] == said


@pytest.mark.float64
def test_a_sweep_of_one_variant_is_the_prompt_and_its_last_token(model, fresh, forwards):
    frame = nv.sweep(model, fresh, LATE[:1], answer=ANSWER)
    assert len(forwards) == 2
    expect_equal(model, fresh, LATE[:1], frame)


@pytest.mark.float64
def test_weights_that_were_written_to_make_the_prefix_anew(dtype):
    model = tiny.build(dtype=dtype)
    prompt = nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(3))
    with nv.reuse(model):
        before = nv.sweep(model, prompt, EARLY, answer=ANSWER)
        with torch.no_grad():
            model._module.model.language_model.layers[0].mlp.up_proj.weight.mul_(1.5)
        after = nv.sweep(model, prompt, EARLY, answer=ANSWER)
        expect_equal(model, prompt, EARLY, after)
    assert abs(after["logit"] - before["logit"]).max() > 1e-3


@pytest.mark.float64
def test_hooks_and_replaced_weights_are_noticed_and_others_are_announced_by_forget(dtype):
    model = tiny.build(dtype=dtype)
    prompt = nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(3))
    layer = model._module.model.language_model.layers[1]
    with nv.reuse(model):
        plain = nv.sweep(model, prompt, EARLY, answer=ANSWER)
        hook = layer.mlp.register_forward_hook(lambda *given: given[-1] * 1.5)
        steered = nv.sweep(model, prompt, EARLY, answer=ANSWER)
        expect_equal(model, prompt, EARLY, steered)
        hook.remove()
        assert nv.sweep(model, prompt, EARLY, answer=ANSWER)["logit"].equals(plain["logit"])
        layer.mlp.up_proj.weight.data = layer.mlp.up_proj.weight.data * 1.5
        expect_equal(model, prompt, EARLY, nv.sweep(model, prompt, EARLY, answer=ANSWER))
        layer.mlp.up_proj.weight.data.mul_(1.5)
        nv.forget()
        changed = nv.sweep(model, prompt, EARLY, answer=ANSWER)
        expect_equal(model, prompt, EARLY, changed)
    for other in (steered, changed):
        assert abs(other["logit"] - plain["logit"]).max() > 1e-3


@pytest.mark.float64
def test_a_model_with_edits_of_its_own_has_a_prefix_of_its_own(model, fresh):
    edited = nv.install(model, fresh, nv.Ablate("image", layers=1))
    plain = nv.sweep(model, fresh, EARLY, answer=ANSWER)
    expected = [nv.run(model, fresh, nv.Ablate("image", layers=1) | cut).logits[ANSWER] for cut in EARLY]
    frame = nv.sweep(edited, fresh, EARLY, answer=ANSWER)
    assert frame.attrs["execution"] == "single"
    assert tiny.gap(torch.tensor(frame["logit"].to_numpy()), torch.stack(expected).double()) < LIMIT
    assert abs(plain["logit"] - frame["logit"]).max() > 1e-3


@pytest.mark.float64
def test_a_model_with_edits_runs_variants_and_answers_one_by_one(model, fresh):
    """Edits name positions and rows of the runs that they were made for: packed copies would go uncut."""
    mine = nv.Knockout("image", "query", layers=0)
    edited = nv.install(model, fresh, mine)
    variants = [nv.Ablate("last", layers=2), nv.Ablate("last", layers=1), nv.Knockout("image", "last", layers=2)]
    expected = [nv.run(model, fresh, mine | case).logits[ANSWER] for case in variants]
    frame = nv.sweep(edited, fresh, variants, answer=ANSWER)
    assert tiny.gap(torch.tensor(frame["logit"].to_numpy()), torch.stack(expected).double()) < LIMIT
    for execution in ("packed", "rows"):
        with pytest.raises(nv.SpecError, match="edits of its own"):
            nv.sweep(edited, fresh, variants, answer=ANSWER, execution=execution)
    answers = nv.generations(edited, [(fresh, case) for case in variants], max_new_tokens=4)
    assert [out.tokens for out in answers] == [
        nv.generate(model, fresh, mine | case, max_new_tokens=4).tokens for case in variants
    ]


def test_a_prefix_keeps_no_prompt_alive(model):
    prompt = nv.encode(model, "what is red ?", tiny.picture(5))
    with nv.reuse(model):
        nv.sweep(model, prompt, EARLY, answer=ANSWER)
        known = weakref.ref(prompt)
        del prompt
        gc.collect()
        assert known() is None


def cases_of(model, prompt, twin):
    return [
        None,
        nv.Knockout("image", "generated"),
        nv.Knockout("image", ["query", "generated"], layers=[0, 2]),
        nv.Ablate("image", layers=1),  # changes the image, so it cannot share
        nv.Patch("query", source=twin, layers=1) | nv.Knockout("query", "generated", layers=3),
        nv.Knockout("image", "last", heads=[(1, 0), (2, 3)]),
    ]


@pytest.mark.float64
@pytest.mark.parametrize("rows", [2, 4, 32])
def test_answers_under_several_conditions_share_the_prompt_and_equal_one_by_one(model, fresh, twin, rows):
    cases = cases_of(model, fresh, twin)
    shared = [
        answer.tokens for answer in nv.generations(model, [(fresh, c) for c in cases], max_new_tokens=5, rows=rows)
    ]
    assert shared == [nv.generate(model, fresh, case, max_new_tokens=5).tokens for case in cases]


@pytest.mark.float64
def test_answers_to_several_prompts_stay_in_order(model, fresh, prompt, twin):
    cases = cases_of(model, fresh, twin)
    wanted = [(prompt, None), *((fresh, case) for case in cases), (twin, None), (prompt, nv.Knockout("image", "last"))]
    answers = list(nv.generations(model, wanted, max_new_tokens=4))
    assert [answer.tokens for answer in answers] == [
        nv.generate(model, which, case, max_new_tokens=4).tokens for which, case in wanted
    ]


@pytest.mark.float64
@pytest.mark.parametrize("name", [name for name, member in zoo.ZOO.items()])
def test_every_family_answers_from_a_shared_prefix_or_says_why_not(name, dtype):
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention, dtype), zoo.prompt(name, attention, dtype=dtype)
    family = family_of(model._module.config)
    last = nv.Knockout(
        "image", ("last", "generated"), layers="attention" if view_of(model).stage().recurrent else "all"
    )
    cases = [None, last, nv.Ablate(("last", "generated"), layers=1)]
    tokens = [answer.tokens for answer in nv.generations(model, [(prompt, case) for case in cases], max_new_tokens=4)]
    assert tokens == [nv.generate(model, prompt, case, max_new_tokens=4).tokens for case in cases]
    assert len(set(tokens)) > 1 or "prefix" in unsupported(family)


@pytest.mark.float64
@pytest.mark.parametrize("name", [name for name, member in zoo.ZOO.items()])
def test_variants_that_change_the_image_have_it_seen_once_and_equal_one_by_one(name, dtype):
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention, dtype), zoo.prompt(name, attention, dtype=dtype)
    if prompt["image"][0] < 0:
        pytest.skip("the image is not in the sequence")
    variants = [nv.Ablate("image", layers=layer, how=how) for layer in (0, 1) for how in ("zero", "mean")]
    seen = []
    tower = model._module.get_encoder(modality="image")
    hook = tower.register_forward_pre_hook(lambda *_: seen.append(1))
    rows = nv.sweep(model, prompt, variants, answer=60, execution="rows")
    hook.remove()
    if "embedded" not in unsupported(family_of(model._module.config)) and tower is not model._module:
        assert len(seen) == 1
    single = nv.sweep(model, prompt, variants, answer=60, execution="single")
    scale = abs(single["logit"]).max()
    assert abs(rows["logit"] - single["logit"]).max() < LIMIT * max(scale, 1)
