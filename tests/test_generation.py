"""Cached generation under an intervention is one forward over the whole sequence under the same intervention."""

from __future__ import annotations

import pytest
import tiny
import torch
from float64 import FACTOR, LIMIT, float64

import nnsight_vlm as nv
from nnsight_vlm.execution import decoding

STEPS = 6
CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}}


def interventions(prompt, twin):
    return {
        "nothing": None,
        "cut": nv.Knockout("image", "text", layers=[1, 2]),
        "to come": nv.Knockout("image", "generated"),
        "last and to come": nv.Knockout("image", ["last", "generated"], layers=nv.window(1, 4)),
        "heads": nv.Knockout("system", "generated", heads=[(0, 1), (2, 3)]),
        "between generated": nv.Knockout("query", "generated", layers=0, heads=[2]),
        "allow": nv.Allow("image", "text", layers=nv.depth(0.5, 1)),
        "patch": nv.Patch("query", source=twin, layers=[0, 2]),
        "attention patch": nv.Patch("image", source=twin, layers=1, site="attention"),
        "zero": nv.Ablate("generated", layers=1, site="mlp"),
        "zero text": nv.Ablate("text", layers=0, site="attention"),
        "mean": nv.Ablate("image", how="mean", layers=2),
        "resample": nv.Ablate("query", how="resample", source=twin, layers=1),
        "embedding": nv.Ablate("image", how="mean", site="embedding"),
        "features": nv.Patch("image", source=twin, site="features"),
        "all": nv.Knockout("image", "generated", layers=2)
        | nv.Ablate("generated", layers=3, site="mlp")
        | nv.Patch("image", source=twin, site="features")
        | nv.Patch("last", source=twin, layers=1),
    }


NAMES = (
    "nothing", "cut", "to come", "last and to come", "heads", "between generated", "allow", "patch", "attention patch",
    "zero", "zero text", "mean", "resample", "embedding", "features", "all",
)  # fmt: skip


def step_logits(model, prompt, case, **options):
    """Logits `[step, row, vocabulary]` of every decoded token, from the cached generation of an installed model."""
    edited = nv.install(model, prompt, case)
    options = {
        "max_new_tokens": STEPS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        **options,
    }
    with torch.no_grad(), edited.generate(**prompt.inputs, **options) as tracer:
        result = tracer.result.save()
    return torch.stack(result.logits), result.sequences[:, prompt.width :]


@pytest.mark.float64
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", NAMES)
def test_every_decoded_token_equals_one_forward_over_the_whole_sequence(model, prompt, twin, name, cache):
    case = interventions(prompt, twin)[name]
    out = nv.generate(model, prompt, case, max_new_tokens=STEPS, **CACHES[cache])
    logits, tokens = step_logits(model, prompt, case, **CACHES[cache])
    assert tuple(tokens[0].tolist()) == out.tokens
    places = range(prompt.width - 1, prompt.width - 1 + STEPS)
    whole = nv.run(model, out.prompt, case, positions=list(places)).logits
    assert tiny.gap(logits[:, 0], whole) < LIMIT
    assert tuple(whole.argmax(-1).tolist()) == out.tokens


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["cut", "heads", "patch", "all"])
def test_in_float32_decoded_logits_are_as_far_from_float64_as_without_an_intervention(name, cache):
    def decoded(model):
        prompt, twin = (
            nv.encode(model, "what is the red square ?", tiny.picture(0)),
            nv.encode(model, "where is a blue circle ?", tiny.picture(1)),
        )
        return [step_logits(model, prompt, interventions(prompt, twin)[n], **CACHES[cache]) for n in ("nothing", name)]

    found = decoded(tiny.load())
    with float64():
        expected = decoded(tiny.load(dtype=torch.float64))
    for (_, tokens), (_, same) in zip(found, expected, strict=True):
        assert torch.equal(tokens, same)
    clean, changed = (tiny.gap(one, two) for (one, _), (two, _) in zip(found, expected, strict=True))
    assert changed < FACTOR * clean


@pytest.mark.float64
@pytest.mark.parametrize("name", ["cut", "to come", "allow", "patch", "zero", "all"])
def test_other_decoders_equal_one_forward_over_the_whole_sequence(other, name):
    prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
    case = interventions(prompt, nv.encode(other, "where is a blue circle ?", tiny.picture(1)))[name]
    out = nv.generate(other, prompt, case, max_new_tokens=STEPS)
    logits, _ = step_logits(other, prompt, case)
    places = range(prompt.width - 1, prompt.width - 1 + STEPS)
    assert tiny.gap(logits[:, 0], nv.run(other, out.prompt, case, positions=list(places)).logits) < LIMIT


ROWED = {
    "to come": nv.Knockout("image", "generated"),
    "cut": nv.Knockout("image", "text", layers=[0, 3]),
    "heads": nv.Knockout("image.0", "query", heads=[(1, 1)]),
    "zero": nv.Ablate("generated", layers=1, site="mlp"),
    "mean": nv.Ablate("image", how="mean", layers=1),
    "features": nv.Ablate("image", how="mean", site="features"),
    "both": nv.Knockout("image", "generated", layers=2) | nv.Ablate("generated", layers=1),
}


@pytest.mark.float64
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ROWED)
def test_padded_rows_generate_what_each_row_generates_alone(model, name, cache):
    prompt = tiny.several(model)
    out = nv.generate(model, prompt, ROWED[name], max_new_tokens=STEPS, **CACHES[cache])
    logits, _ = step_logits(model, prompt, ROWED[name], **CACHES[cache])
    for number in range(3):
        alone = nv.generate(model, prompt.row(number), ROWED[name], max_new_tokens=STEPS)
        assert (out.text[number], out.tokens[number]) == (alone.text, alone.tokens)
        steps, _ = step_logits(model, prompt.row(number), ROWED[name])
        assert tiny.gap(logits[:, number], steps[:, 0]) < LIMIT
        assert out.prompt[number]["generated"] == alone.prompt["generated"]


@pytest.mark.float64
def test_each_row_may_have_an_intervention_of_its_own(model):
    prompt = tiny.several(model)
    cases = [None, ROWED["cut"], ROWED["both"]]
    out = nv.generate(model, prompt, cases, max_new_tokens=STEPS)
    for number, case in enumerate(cases):
        assert out.tokens[number] == nv.generate(model, prompt.row(number), case, max_new_tokens=STEPS).tokens


@pytest.mark.float64
@pytest.mark.parametrize("rows", [1, 2, 32])
def test_generations_equal_one_by_one(model, prompt, twin, rows):
    longer = nv.encode(model, "describe the big red square left of the circle .", [tiny.picture(5), tiny.picture(6)])
    cases = [
        (twin, None),
        *((prompt, case) for case in interventions(prompt, twin).values()),
        *((longer, case) for case in ROWED.values()),
    ]
    for (given, case), found in zip(cases, nv.generations(model, cases, max_new_tokens=4, rows=rows), strict=True):
        alone = nv.generate(model, given, case, max_new_tokens=4)
        assert (found.tokens, found.text) == (alone.tokens, alone.text)
        assert found.prompt["generated"] == alone.prompt["generated"] and found.prompt.images == given.images


@pytest.mark.float64
def test_a_prompt_without_a_picture_joins_prompts_with_pictures(model, prompt):
    plain = nv.encode(model, "what is red ?")
    found = list(nv.generations(model, [(prompt, None), (plain, None), (prompt, ROWED["cut"])], max_new_tokens=4))
    alone = [
        nv.generate(model, given, case, max_new_tokens=4)
        for given, case in ((prompt, None), (plain, None), (prompt, ROWED["cut"]))
    ]
    assert [out.tokens for out in found] == [out.tokens for out in alone]


@pytest.mark.parametrize("case", [nv.Knockout("image", "generated"), nv.Ablate("generated", layers=[0, 1, 2, 3])])
def test_what_is_done_to_generated_tokens_never_touches_the_first_of_them(model, prompt, case):
    clean, cut = (step_logits(model, prompt, one)[0][:, 0] for one in (None, case))
    assert torch.equal(cut[0], clean[0])
    assert tiny.gap(cut[1], clean[1]) > 1e-2
    both = step_logits(model, prompt, nv.Knockout("image", ["last", "generated"]))[0][:, 0]
    assert tiny.gap(both[0], clean[0]) > 1e-2


@pytest.mark.parametrize("text, attention", [("mistral", "sdpa"), ("mistral", "eager"), ("llama", "sdpa")])
def test_a_token_that_a_window_leaves_without_a_key_is_foreseen_for_the_length_that_is_asked(text, attention):
    """By hand: a decoded token sees itself and those before it in its window, and is left with the image's tokens."""
    model = tiny.load(attention, text)
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    cut, last = nv.Knockout(("query", "generated"), "generated"), max(prompt["image"])
    long = (
        next((n for n in range(1, 60) if prompt.width + n - 1 - tiny.WINDOW >= last), 60) if text == "mistral" else 60
    )
    assert nv.run(model, prompt, cut, empty="ignore").logits.isfinite().all()
    for length in (1, long - 1):
        out = nv.generate(model, prompt, cut, max_new_tokens=length, empty="ignore")
        assert nv.run(model, out.prompt, cut, positions="all").logits.isfinite().all()
        assert len(list(nv.generations(model, [(prompt, cut)], max_new_tokens=length, empty="ignore"))) == 1
    if text == "llama":
        assert nv.install(model, prompt, cut)
        return
    assert long > 2
    grown = prompt.grown([20] * long)
    for call in (
        lambda: nv.generate(model, prompt, cut, max_new_tokens=long),
        lambda: nv.generate(model, prompt, cut, max_new_tokens=1000),
        lambda: nv.generations(model, [(prompt, None), (prompt, cut)], max_new_tokens=long),
        lambda: nv.install(model, prompt, cut),
        lambda: nv.run(model, grown, cut),
    ):
        with pytest.raises(nv.SpecError, match=f"position {prompt.width + long - 1}.*no key"):
            call()
    with pytest.raises(nv.SpecError, match=rf"generated token {long}\).*at most {long - 1} tokens"):
        nv.generate(model, prompt, cut, max_new_tokens=long)
    assert nv.verify(model, prompt, cut).tokens == 4  # so many are decoded for a proof


@pytest.mark.float64
@pytest.mark.parametrize("rows", ["one", "alike", "apart"])
def test_keys_that_no_row_may_look_at_are_left_out_of_decoding(model, prompt, monkeypatch, rows):
    cut = nv.Knockout("image", "generated", layers=[1, 2])
    cases = {"one": [cut], "alike": [cut, cut, cut], "apart": [cut, None, cut]}[rows]
    given, right = [], torch.nn.functional.scaled_dot_product_attention

    def seen(query, key, *rest, **options):
        given.append((query.shape[2], key.shape[2]))
        return right(query, key, *rest, **options)

    def answers():
        return [out.tokens for out in nv.generations(model, [(prompt, case) for case in cases], max_new_tokens=STEPS)]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    fewer_keys = answers()
    if model._module.config.get_text_config()._attn_implementation == "sdpa":
        fewer = [keys for queries, keys in given if queries < 3 and keys < prompt.width]
        assert len(fewer) == (0 if rows == "apart" else 2 * (STEPS - 1))
    monkeypatch.setattr(decoding, "for_decoding", lambda _, plan: plan)
    assert fewer_keys == answers() == [nv.generate(model, prompt, case, max_new_tokens=STEPS).tokens for case in cases]


def test_the_answer_is_found_in_the_grown_prompt(model, prompt):
    out = nv.generate(model, prompt, max_new_tokens=STEPS)
    assert out.prompt["generated"] == tuple(range(prompt.width, prompt.width + STEPS))
    assert out.prompt["query"] == prompt["query"] and out.prompt["last"] == prompt["last"] == (prompt.width - 1,)
    assert out.prompt["text"] == prompt["text"] + out.prompt["generated"]
    assert out.text == model.tokenizer.decode(list(out.tokens))
    assert out.prompt.find(out.text, within="generated") == out.prompt["generated"]
    assert torch.equal(out.prompt.inputs["input_ids"][0, prompt.width :], torch.tensor(out.tokens))
    assert out.prompt.inputs["attention_mask"].shape == out.prompt.inputs["input_ids"].shape


@pytest.mark.float64
def test_an_answer_ends_with_its_end_of_sequence_token(dtype):
    module = tiny.build_module().to(dtype)
    model = nv.load(module, processor=tiny.build_processor())
    prompt, rows = nv.encode(model, "what is the red square ?", tiny.picture(0)), tiny.several(model)
    words = nv.generate(model, prompt, max_new_tokens=STEPS).tokens
    module.generation_config.eos_token_id = words[2]
    ended = nv.generate(model, prompt, max_new_tokens=STEPS)
    assert ended.tokens == words[: words.index(words[2]) + 1] == ended.prompt.rows[0].tokens[prompt.width :]
    module.generation_config.eos_token_id = [words[1], words[2]]
    assert nv.generate(model, prompt, max_new_tokens=STEPS).tokens == words[:2]
    together = nv.generate(model, rows, max_new_tokens=STEPS).tokens
    assert together == tuple(nv.generate(model, rows.row(number), max_new_tokens=STEPS).tokens for number in range(3))


def test_options_reach_transformers(model, prompt):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = {nv.generate(model, prompt, max_new_tokens=3, do_sample=True, temperature=3.0).tokens for _ in range(4)}
    assert len(drawn) > 1
    assert len(nv.generate(model, prompt, max_new_tokens=2).tokens) == 2


@pytest.mark.parametrize("ends", [[20], 20, (20,), torch.tensor([20]), torch.tensor(20)], ids=repr)
def test_tokens_that_end_an_answer_may_be_given_as_generate_takes_them(ends):
    model = tiny.load("sdpa")
    prompt = tiny.several(model)
    free = nv.generate(model, prompt, max_new_tokens=6).tokens
    said = [tokens[: tokens.index(20) + 1] if 20 in tokens else tokens for tokens in free]
    assert list(nv.generate(model, prompt, max_new_tokens=6, eos_token_id=ends).tokens) == said
    second = free[0][1]
    cut = nv.generate(model, prompt, max_new_tokens=6, eos_token_id=torch.tensor([second])).tokens
    assert cut[0] == free[0][:2] and all(second not in tokens[:-1] for tokens in cut)
