"""Steering: vectors that are added, factors, and one vector for every position, against a forward written by hand."""

from __future__ import annotations

import pytest
import reference
import tiny
import torch
from float64 import LIMIT, float64

import nnsight_vlm as nv

LAYERED = ("residual", "attention", "mlp")
SITES = (*LAYERED, "embedding", "features")
STEPS = 4


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places_at(prompt, where, site):
    return [prompt["image"].index(p) for p in prompt[where]] if site == "features" else list(prompt[where])


def layers_at(site, layers):
    return layers if site in LAYERED else [-1]


def change_at(places, function):
    """A write of the reference: `function` of the states `[place, width]`."""

    def write(state):
        rows = state if state.dim() == 2 else state[0]
        rows[places] = function(rows[places])
        return state

    return write


def logits(model, prompt, writes):
    return reference.forward(model._module, prompt.inputs, writes=writes).logits[0]


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("shape", ["width", "position", "layer", "direction"])
def test_an_added_tensor_equals_the_reference(model, prompt, site, shape):
    layers, places = layers_at(site, [0, 2]), places_at(prompt, "image", site)
    each, of_layers = len(places), len(layers)
    sizes = {"width": (), "position": (each,), "layer": (of_layers, each), "direction": (of_layers, 1)}
    values = drawn(*sizes[shape], tiny.WIDTH)
    spread = (values if values.dim() == 3 else values[None]).expand(len(layers), -1, -1) if shape != "width" else None
    writes = {
        (site, layer): change_at(places, lambda h, n=n: h + 1.5 * (values if spread is None else spread[n]))
        for n, layer in enumerate(layers)
    }
    added = nv.Add("image", values, layers=[0, 2], site=site, scale=1.5)
    assert tiny.gap(nv.run(model, prompt, added, positions="all").logits, logits(model, prompt, writes)) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
def test_scaled_states_and_patches_of_one_vector_equal_the_reference(model, prompt, site):
    layers, places = layers_at(site, [1, 3]), places_at(prompt, "image", site)
    vector = drawn(tiny.WIDTH)
    for change, function in (
        (nv.Scale("image", -0.5, layers=[1, 3], site=site), lambda h: h * -0.5),
        (nv.Patch("image", source=vector, layers=[1, 3], site=site), vector.expand_as),
        (nv.Patch("image", source=vector[None], layers=[1, 3], site=site), vector.expand_as),
    ):
        expected = logits(model, prompt, {(site, layer): change_at(places, function) for layer in layers})
        assert tiny.gap(nv.run(model, prompt, change, positions="all").logits, expected) < LIMIT


STEERED = {
    "residual": nv.Add("generated", drawn(tiny.WIDTH), layers=[1, 2], scale=0.7),
    "last too": nv.Add(["last", "generated"], drawn(1, 1, tiny.WIDTH), layers=1),
    "mlp": nv.Add("generated", drawn(2, 1, tiny.WIDTH), layers=[0, 3], site="mlp"),
    "embedding": nv.Add("generated", drawn(tiny.WIDTH), site="embedding"),
    "scaled": nv.Scale(["query", "generated"], 0.25, layers=2, site="attention"),
    "patched": nv.Patch("generated", source=drawn(tiny.WIDTH), layers=0),
    "both": nv.Scale("generated", 2.0, layers=1) | nv.Add("generated", drawn(tiny.WIDTH), layers=1),
    "and a cut": nv.Knockout("image", "generated", layers=2) | nv.Add("generated", drawn(tiny.WIDTH), layers=2),
}


@pytest.mark.float64
@pytest.mark.parametrize("name", STEERED)
def test_steering_decoded_tokens_equals_one_forward_over_all_of_them(model, prompt, name):
    case, rows = STEERED[name], tiny.several(model)
    out, clean = (nv.generate(model, prompt, each, max_new_tokens=STEPS) for each in (case, None))
    whole = nv.run(model, out.prompt, case, positions=list(range(prompt.width - 1, prompt.width - 1 + STEPS))).logits
    assert tuple(whole.argmax(-1).tolist()) == out.tokens
    assert nv.verify(model, prompt, case).tokens == 4  # their logits were compared
    static = nv.generate(model, prompt, case, max_new_tokens=STEPS, cache_implementation="static")
    assert static.tokens == out.tokens and (name != "last too" or out.tokens != clean.tokens)
    padded = nv.generate(model, rows, case, max_new_tokens=STEPS)
    for number in range(3):
        assert padded.tokens[number] == nv.generate(model, rows.row(number), case, max_new_tokens=STEPS).tokens


@pytest.mark.float64
def test_steering_decoded_tokens_equals_the_reference(model, prompt):
    vector, tokens = drawn(tiny.WIDTH), []
    for _ in range(STEPS):
        grown = prompt.grown(tokens) if tokens else prompt
        places = list(range(prompt.width - 1, grown.width))
        writes = {("residual", layer): change_at(places, lambda h: h + 2 * vector) for layer in (1, 2)}
        tokens.append(int(logits(model, grown, writes)[-1].argmax()))
    steered = nv.Add(["last", "generated"], vector, layers=[1, 2], scale=2)
    assert list(nv.generate(model, prompt, steered, max_new_tokens=STEPS).tokens) == tokens


# identities ---------------------------------------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
def test_what_is_added_and_taken_away_again_is_clean(model, prompt, site):
    vector, where = drawn(tiny.WIDTH), {"layers": 1, "site": site}
    both = nv.Add("image", vector, **where) | nv.Add("image", -vector, **where)
    once = nv.Add("image", vector, **where) | nv.Add("image", vector, scale=-1, **where)
    clean = nv.run(model, prompt, positions="all").logits
    assert tiny.gap(nv.run(model, prompt, both, positions="all").logits, clean) < LIMIT
    assert tiny.gap(nv.run(model, prompt, once, positions="all").logits, clean) < LIMIT
    assert torch.equal(nv.run(model, prompt, nv.Scale("image", 1.0, **where), positions="all").logits, clean)


@pytest.mark.float64
def test_the_left_one_acts_first(model, prompt):
    vector, at = drawn(tiny.WIDTH), {"layers": 1}
    add, double = nv.Add("query", vector, **at), nv.Scale("query", 2.0, **at)
    places = list(prompt["query"])
    for change, function in ((add | double, lambda h: (h + vector) * 2), (double | add, lambda h: h * 2 + vector)):
        expected = logits(model, prompt, {("residual", 1): change_at(places, function)})
        assert tiny.gap(nv.run(model, prompt, change, positions="all").logits, expected) < LIMIT
    zeroed = nv.run(model, prompt, nv.Scale("query", 0.0, **at)).logits
    assert torch.equal(zeroed, nv.run(model, prompt, nv.Ablate("query", **at)).logits)


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows", "single"])
def test_a_sweep_gives_what_single_runs_give(model, prompt, execution):
    vector = drawn(tiny.WIDTH)
    variants = [
        *(nv.Add("query", vector, layers=layer, scale=3) for layer in range(tiny.LAYERS)),
        nv.Scale("last", 0.1, layers=2, site="mlp"),
        nv.Patch("query", source=vector, layers=1, site="attention"),
        nv.Knockout("image", "query", layers=1) | nv.Add("last", vector, layers=1),
    ]
    frame = nv.sweep(model, prompt, variants, answer=20, execution=execution)
    alone = [float(nv.run(model, prompt, each).logits[20]) for each in variants]
    assert frame["logit"].sub(alone).abs().max() < LIMIT * 10
    assert [float(value) for value in frame["scale"][:4]] == [3.0] * 4 and float(frame["factor"][4]) == 0.1
    assert len({round(logit, 6) for logit in alone}) == len(variants)


# proofs, types, refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["add", "scale"])
def test_a_vector_that_does_not_arrive_is_seen_by_the_proof(model, prompt, monkeypatch, how):
    from nnsight_vlm.device import states

    right = states.write_rows
    change = {"add": nv.Add("query", torch.ones(tiny.WIDTH), layers=1), "scale": nv.Scale("query", 2.0, layers=1)}[how]
    assert nv.verify(model, prompt, change).writes == 1

    def elsewhere(hidden, writes, window):
        return right(hidden, [(*write[:3], write[3] * 0.99, *write[4:]) for write in writes], window)

    monkeypatch.setattr(states, "write_rows", elsewhere)
    with pytest.raises(nv.InterventionError, match=r"position \d+ does not hold what was to be written"):
        nv.verify(model, prompt, change)


def test_states_keep_their_dtype_and_the_vector_stays_as_it_was(prompt):
    model, vector = nv.load(tiny.build_module().to(torch.bfloat16), processor=tiny.build_processor()), torch.ones(32)
    added = nv.Add("query", vector, layers=2, scale=0.1)
    vector.zero_()
    clean, seen = (nv.run(model, prompt, case, reads=nv.Residual("query", layers=2)) for case in (None, added))
    assert seen.reads[0].dtype == torch.bfloat16 and not torch.equal(seen.logits, clean.logits)
    assert torch.equal(seen.reads[0], clean.reads[0] + torch.tensor(0.1, dtype=torch.bfloat16))
    assert nv.verify(model, prompt, added).writes == 1


def test_what_does_not_fit_is_refused(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    each = torch.zeros(2, tiny.WIDTH)
    for change, words in (
        (nv.Add(["last", "generated"], each, layers=1), "still to come.*one vector"),
        (nv.Add("last", each, layers=1), r"vector= gives values of shape \(1, 2, 32\) and 1 position"),
        (nv.Add("query", torch.zeros(3), layers=1), "vector= are 3 wide and the model's states 32"),
        (nv.Add("query", torch.zeros(3, 1, tiny.WIDTH), layers=[0, 1]), r"\(3, 1, 32\).* 2 layer"),
        (nv.Scale("generated", 2.0, layers=1), "no token is generated yet"),
        (nv.Add("query", each[0], layers=[]), "names no layer"),
        (nv.Add("image", each[0], site="cross"), "no site 'cross'"),
    ):
        with pytest.raises(nv.SpecError, match=words):
            nv.run(sdpa, prompt, change)
    with pytest.raises(nv.SpecError, match="ascend"):
        nv.Add("query", torch.zeros(2, 1, tiny.WIDTH), layers=[2, 1])
    still = nv.run(sdpa, prompt, nv.Add("generated", each[0]), empty="ignore")
    assert torch.equal(still.logits, nv.run(sdpa, prompt).logits)


@pytest.mark.parametrize("text", ["mistral", "qwen2"])
def test_other_decoders_are_steered_as_one_forward_is(text):
    with float64():
        other = tiny.load("sdpa", text, torch.float64)
        prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
        for name in ("residual", "scaled"):
            assert nv.verify(other, prompt, STEERED[name]).tokens == 4


@pytest.mark.float64
@pytest.mark.parametrize("site", ["head", "query", "key", "value"])
@pytest.mark.parametrize("where", ["query", ["last", "generated"]], ids=["query", "generated"])
def test_heads_are_steered_as_states_are(model, prompt, site, where):
    """Of some heads, in two layers; a written key is seen by every decoded token."""
    heads, vector = ([1], drawn(tiny.WIDTH // tiny.HEADS)) if site in ("key", "value") else ([1, 3], drawn(8))
    at = {"layers": [1, 2], "site": site, "heads": heads}
    read = nv.Residual("last", layers=1, site=site)
    clean = nv.run(model, prompt, reads=read).reads[0][0, :, 0]
    for change, function in (
        (nv.Add(where, vector, **at), lambda h: h + vector),
        (nv.Scale(where, 0.5, **at), lambda h: h / 2),
        (nv.Patch(where, source=vector, **at), vector.expand_as),
    ):
        proof = nv.verify(model, prompt, change)
        assert proof.writes == 2 and (proof.tokens > 0) == (where != "query" or site in ("key", "value"))
        expected = clean.clone()
        expected[heads] = function(clean[heads])
        assert tiny.gap(nv.run(model, prompt, change, reads=read).reads[0][0, :, 0], expected) < LIMIT
    mean = nv.mean_state(model, [prompt], "query", [1, 2], site=site)
    assert mean.shape == (2, tiny.KEY_VALUE_HEADS if site in ("key", "value") else tiny.HEADS, 1, 8)
    assert nv.verify(model, prompt, nv.Add("query", mean, layers=[1, 2], site=site)).writes == 2


# vectors from data ----------------------------------------------------------------------------------


@pytest.fixture
def prompts(model):
    texts = ("what is the red square ?", "see the dog", "describe the big red square left of the circle .")
    return [nv.encode(model, text, tiny.picture(seed)) for seed, text in enumerate(texts)]


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
def test_mean_states_and_directions_equal_the_reference(model, prompts, site):
    where = "image" if site == "features" else "query"
    means = []
    for prompt in prompts:
        states, places = reference.forward(model._module, prompt.inputs).states, places_at(prompt, where, site)
        held = [states[site, layer] for layer in layers_at(site, [1, 3])]
        means.append(torch.stack([(each if each.dim() == 2 else each[0])[places].mean(0) for each in held])[:, None])
    found = nv.mean_state(model, prompts, where, [1, 3], site=site)
    assert found.dtype == torch.float64 and tiny.gap(found, torch.stack(means).mean(0)) < LIMIT
    towards = nv.direction(model, prompts[:1], prompts[1:], where, layers=[1, 3], site=site)
    assert tiny.gap(towards, means[0] - (means[1] + means[2]) / 2) < LIMIT
    change = nv.Add(where, towards, layers=[1, 3], site=site, scale=2.0)
    writes = {
        (site, layer): change_at(places_at(prompts[0], where, site), lambda h, n=n: h + 2 * towards[n])
        for n, layer in enumerate(layers_at(site, [1, 3]))
    }
    found = nv.run(model, prompts[0], change, positions="all").logits
    assert tiny.gap(found, logits(model, prompts[0], writes)) < LIMIT


def test_means_are_given_in_float32_and_of_nothing_are_refused(prompts):
    model = nv.load(tiny.build_module().to(torch.bfloat16), processor=tiny.build_processor())
    plain = nv.encode(model, "what is red ?")
    given = [nv.encode(model, "see the dog", tiny.picture(seed)) for seed in range(2)]
    mean = nv.mean_state(model, given, "last", 1)
    states = [nv.run(model, each, reads=nv.Residual("last", layers=1)).reads[0].float() for each in given]
    assert mean.dtype == torch.float32 and torch.equal(mean, (states[0] + states[1]) / 2)
    with pytest.raises(nv.SpecError, match="no prompts to take a mean over"):
        nv.direction(model, given, [], "last", 1)
    ran = []
    hook = model._module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(nv.SpecError, match=r"prompts\[2\]: .*nothing to read.*'image' is empty"):
        nv.mean_state(model, [*given, plain], "image", 1)
    hook.remove()
    assert not ran


def test_a_request_is_another_where_the_vector_is_another():
    from nnsight_vlm.identity.values import setting_digest

    vector = torch.arange(4.0)
    same, scaled = nv.Add("query", vector, layers=1), nv.Add("query", vector, layers=1, scale=2.0)
    others = [scaled, nv.Add("query", vector + 1, layers=1), nv.Scale("query", 2.0, layers=1), nv.Scale("query", 3.0)]
    others += [nv.Limit("image", "last", top=1), nv.Limit("image", "last", top=2)]
    others += [nv.Knockout("image", "last"), nv.Knockout("image", "last", how="zero")]
    assert setting_digest(same) == setting_digest(nv.Add("query", vector.clone(), layers=1))
    assert len({setting_digest(each) for each in [same, *others]}) == 1 + len(others)
