"""What the sites of hidden states promise: `attention`, `cross` and `mlp` are what a layer adds to its stream."""

from __future__ import annotations

import pytest
import zoo
from float64 import LIMIT, float64
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

ALSO_ADDED = {
    "qwen3_vl": "some layers are followed by features of the vision tower",
    "qwen3_5": "recurrent layers add what no site names",
    "lfm2_vl": "convolutions add what no site names",
    "gemma4-shared": "each layer also adds an embedding of its own, and scales its output",
    "gemma3n": "there are several residual streams",
    "florence2": "norms come after the sum",
}
"""Members some of whose layers do not give their input and what the three sites add, and why."""
NORMS_AFTER_THE_SUM = {"qformer"}
"""Stages in which a layer normalises the sum."""


def summed_stages(name, model):
    """The stages of a member whose residual stream is a plain sum."""
    there = view_of(model).family.stages
    plain = {stage for stage, spec in there.items() if spec.embedding is not None} - NORMS_AFTER_THE_SUM
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
