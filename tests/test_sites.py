"""What the sites of hidden states promise: `attention`, `cross` and `mlp` are what a layer adds to its stream."""

from __future__ import annotations

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from fuzz.paths import MEMBERS
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

ALSO_ADDED = {
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), "some layers are followed by features of the vision tower"),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "minicpmv4_6"), "recurrent layers add what no site names"),
    "lfm3_vl": "convolutions add what no site names",
    "lfm2_vl": "convolutions add what no site names",
    "gemma4-causal-shared": "each layer also adds an embedding of its own, and scales its output",
    "gemma3n": "there are several residual streams",
    "florence2": "norms come after the sum",
}
"""Members some of whose layers do not give their input and what the three sites add, and why."""
IN_TEXT_ONLY = ("granite4_vision",)
"""Members that add features of the vision tower to image tokens before some layers."""
NORMS_AFTER_THE_SUM = {"qformer"}
"""Stages in which a layer normalises the sum."""


def summed_stages(name, model):
    """The stages of a member whose residual stream is a plain sum."""
    there = view_of(model).family.stages
    plain = {stage for stage, spec in there.items() if spec.embedding is not None and not spec.lacks}
    plain -= NORMS_AFTER_THE_SUM
    return [] if name in ALSO_ADDED else sorted(plain)


def terms(model, prompt, stage):
    """What enters the first layer of a stage, what leaves each, and what the sites add: `{(site, layer): states}`."""
    spec = view_of(model).stage(stage)
    layers = {"attention": spec.attention, "cross": spec.cross}
    layers["mlp"] = tuple(range(spec.layer_count)) if spec.stage.mlp else ()
    sites = [site for site, numbers in layers.items() if numbers]
    reads = [nv.Residual("all", site="embedding", stage=stage), nv.Residual("all", stage=stage)]
    reads += [nv.Residual("all", layers=layers[site], site=site, stage=stage) for site in sites]
    entering, leaving, *added = nv.run(model, prompt, reads=reads).reads
    found = {
        (site, layer): states[number]
        for site, states in zip(sites, added, strict=True)
        for number, layer in enumerate(layers[site])
    }
    return entering, leaving, found


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_the_residual_stream_is_the_sum_of_what_the_sites_add(name):
    member = zoo.ZOO[name]
    with float64():
        model = nv.load(member.module(member.implementations[0]).double(), processor=member.processor())
        prompt = nv.encode(model, member.text, picture(1, (18, 12)))
        for stage in summed_stages(name, model):
            entering, leaving, added = terms(model, prompt, stage)
            if name in IN_TEXT_ONLY:
                text = list(prompt["text"])
                entering, leaving = entering[..., text, :], leaving[:, text]
                added = {spot: states[text] for spot, states in added.items()}
            for layer, left in enumerate(leaving):
                found = entering + sum(states for (_, at), states in added.items() if at == layer)
                assert float((found - left).abs().max()) <= LIMIT * float(left.abs().max()), (stage, layer)
                entering = left


def test_text_without_an_image_is_refused_where_the_model_cannot_read_it():
    for name in ("kosmos-2", "blip-2-opt", "blip-2-t5", "instructblip-llama", "instructblip-t5"):
        with pytest.raises(nv.SpecError, match="without an image"):
            nv.encode(zoo.load(name, "sdpa"), "what is red ?")


@pytest.mark.parametrize("name", ["mllama", "florence2", "blip-2-t5"])
@pytest.mark.parametrize("where", [(-1,), "image", -2])
def test_keys_outside_the_sequence_have_no_logits(name, where):
    member = zoo.ZOO[name]
    model = zoo.load(name, "sdpa")
    prompt = nv.encode(model, member.text, picture(1, (18, 12)))
    with pytest.raises(nv.SpecError, match="outside the sequence"):
        nv.run(model, prompt, positions=where)


@pytest.mark.parametrize("name", ["instructblip-llama", "instructblip-t5"])
def test_a_question_in_a_qformer_does_not_read_the_image(name):
    member = zoo.ZOO[name]
    model = zoo.load(name, "sdpa")
    prompt = nv.encode(model, member.text, picture(1, (18, 12)))
    for queries in ("text", "all"):
        with pytest.raises(nv.SpecError, match="only these read the image"):
            nv.run(model, prompt, reads=nv.Attention(queries, "image", stage="qformer"))


@pytest.mark.float64
@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_the_embedding_is_what_the_first_layer_is_handed_and_nothing_else(name):
    member = zoo.ZOO[name]
    module = member.module(member.implementations[-1]).double()
    first = module.get_submodule(MEMBERS[name].decoder.layers)[0]
    model = zoo.load(name, member.implementations[-1], torch.float64)
    prompt = nv.encode(model, member.text, picture(1, (18, 12)))
    handed = []

    def turned(_, args, kwargs):
        states = kwargs.get("hidden_states", args[0] if args else None)
        handed.append(states)
        other = states.flip(-1)
        return ((), {**kwargs, "hidden_states": other}) if "hidden_states" in kwargs else ((other, *args[1:]), kwargs)

    first.register_forward_pre_hook(turned, with_kwargs=True)
    with torch.no_grad():
        expected = module(**prompt.inputs, use_cache=False).logits[0, -1]
    rows = lambda states: states[0] if states.dim() == 3 else states[:, 0].transpose(0, 1).flatten(1)  # noqa: E731
    (read,) = nv.run(model, prompt, reads=[nv.Residual("all", site="embedding")]).reads
    assert float((read - rows(handed[0])).abs().max()) <= LIMIT
    found = nv.run(model, prompt, nv.Patch("all", source=rows(handed[0].flip(-1)), site="embedding"))
    assert float((found.logits - expected).abs().max()) <= LIMIT * float(expected.abs().max())


@pytest.mark.float64
def test_a_text_without_a_picture_is_swept_and_read_where_the_model_passes_layers_by():
    model = zoo.load("mllama", "sdpa", torch.float64)
    prompt = nv.encode(model, "<s>what is red and what is blue ?", chat=False)
    cases = [nv.Knockout("first", "last", layers=2), nv.Knockout(1, "last"), nv.Ablate("query", layers=[0, 2])]
    runs = [nv.run(model, prompt, case, reads=[nv.Attention("last", "all")]) for case in cases]
    for execution in ("auto", "packed", "rows", "single"):
        frame = nv.sweep(model, prompt, cases, answer="red", execution=execution)
        token = model.processor.tokenizer.convert_tokens_to_ids("red")
        assert [abs(frame["logit"].iloc[n] - float(run.logits[token])) <= LIMIT for n, run in enumerate(runs)] == [
            True
        ] * 3
    assert [run.reads[0].shape[0] for run in runs] == [2] * 3, "layers 0 and 2 attend"
    assert [float(run.reads[0][1, :, 0, 0].abs().max()) > 0 for run in runs] == [False, True, True]


@pytest.mark.float64
def test_terms_behind_two_gates_of_one_layer_are_written_together_as_alone():
    model, member = zoo.load("mllama", "sdpa", torch.float64), zoo.ZOO["mllama"]
    prompt = nv.encode(model, member.text, picture(1, (10, 16)))
    cases = [nv.Ablate("query", site="mlp", layers=1), nv.Ablate("query", site="cross", layers=1)]
    alone = [nv.run(model, prompt, case).logits for case in cases]
    rows = nv.run(model, nv.stack([prompt] * 3), [*cases, None]).logits
    for found, expected in zip(rows, [*alone, nv.run(model, prompt).logits], strict=True):
        assert float((found - expected).abs().max()) <= LIMIT
    reads = [nv.Residual("all", site=site, layers=1) for site in ("cross", "mlp")]
    for found, term in zip(
        nv.run(model, prompt, cases[0] | cases[1], reads=reads).reads, ("cross", "mlp"), strict=True
    ):
        clean = nv.run(model, prompt, cases[1] if term == "mlp" else None, reads=reads).reads[term == "mlp"]
        expected = clean.clone()
        expected[:, list(prompt["query"])] = 0
        assert float((found - expected).abs().max()) <= LIMIT, term
