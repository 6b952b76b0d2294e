"""A cache that tokens are taken out of is smaller, and gives what a mask over the whole sequence gives.

The reference is one plain forward of transformers over the whole sequence, in which hooks close the edges from later
tokens to those that are gone in the mask that every layer's attention is handed.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import reduce
from operator import or_

import numpy as np
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.execution import cut_caches
from nnsight_vlm.execution.cut_caches import (
    CARRIES_STATE,
    IN_ENCODER,
    OUTSIDE,
    WINDOWS,
    bytes_held,
    bytes_of,
    cut_cache,
    filled_cache,
    logits_behind,
    tokens_per_second,
    why_not_cut,
)
from nnsight_vlm.families import view_of
from nnsight_vlm.families.support import COMPUTES_POSITIONS
from nnsight_vlm.families.table import FORWARD_NEEDS_PIXELS
from nnsight_vlm.studies.kept_tokens import Variant, as_masks

FURTHER = 3
"""How many tokens run behind the first pass."""
REFUSED = {
    **dict.fromkeys(("llava-mistral", "idefics2", "idefics2-split", "gemma3", "gemma3-crops", "gemma3n"), WINDOWS),
    **dict.fromkeys(
        ("gemma4", "gemma4-causal-shared", "paligemma2", "aya_vision", "cohere2_vision", "llama4", "exaone4_5"), WINDOWS
    ),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "lfm2_vl", "lfm3_vl", "minicpmv4_6"), CARRIES_STATE),
    **dict.fromkeys(("blip-2-opt", "instructblip-llama"), FORWARD_NEEDS_PIXELS),
    **dict.fromkeys(("blip-2-t5", "instructblip-t5", "florence2"), IN_ENCODER),
    "mllama": OUTSIDE,
    "kosmos-2": COMPUTES_POSITIONS,
}
"""Members of the zoo whose cache cannot be cut, and why; all others are cut."""


def grown(prompt):
    """A prompt with further tokens, words of its own in another order."""
    of_pixels = view_of(prompt.model).pixel_tokens
    words = [token for token in (prompt.rows[0].tokens[at] for at in prompt["query"]) if token not in of_pixels]
    return prompt.grown([*words[:1], *words[-2:]])


def eager_or_sdpa(name):
    return "eager" if "sdpa" in zoo.row(name).limitations else "sdpa"


def chosen(image, layers, count, seed=0, first=0):
    """For each layer other image tokens, and all of them before layer `first`."""
    rng = np.random.default_rng(seed)
    some = [tuple(sorted(rng.choice(len(image), count, replace=False).tolist())) for _ in range(layers)]
    return tuple(tuple(range(len(image))) if layer < first else some[layer] for layer in range(layers))


def by_cache(model, prompt, whole, kept):
    """Logits of the further tokens behind a cut cache, and what the cache held before they ran."""
    stop, image = prompt.rows[0].stop, prompt["image"]
    text = set(range(stop)).difference(image)
    cache, _ = filled_cache(model, prompt, [])
    shorter = cut_cache(cache, [sorted(text.union(image[token] for token in tokens)) for tokens in kept])
    held = [layer.keys.shape[2] for layer in shorter.layers]
    assert held == [len(text) + len(tokens) for tokens in kept]
    assert bytes_held(shorter) <= bytes_held(cache) and bytes_of(model, held) in (bytes_held(shorter), None)
    return logits_behind(model, whole, stop, shorter)


@torch.no_grad()
def by_hooks(model, prompt, whole, kept):
    """The same by plain hooks in one forward of the whole sequence."""
    view, stop, image = view_of(model), prompt.rows[0].stop, prompt["image"]
    decoder, length = view.family.decoder, whole.rows[0].stop

    def closing(tokens):
        gone = [position for token, position in enumerate(image) if token not in tokens]

        def close(_module, args, kwargs):
            mask = kwargs.get(decoder.attention.mask)
            if mask is None:
                mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
            mask = mask[..., :length].clone()
            least = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            for query in range(stop, length):
                mask[:, :, query, gone] = least
            return args, {**kwargs, decoder.attention.mask: mask}

        return close

    with ExitStack() as hooks:
        for layer, tokens in enumerate(kept):
            path = f"{decoder.layers}.{layer}.{decoder.attention.module}"
            handle = view.module.get_submodule(path).register_forward_pre_hook(closing(tokens), with_kwargs=True)
            hooks.callback(handle.remove)
        return view.module(**whole.inputs, use_cache=False).logits[0, stop:]


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_in_every_family_a_cut_cache_gives_what_a_mask_gives_or_it_is_said_why_not(name):
    model, prompt = (make(name, eager_or_sdpa(name), dtype=torch.float64) for make in (zoo.load, zoo.prompt))
    assert why_not_cut(model) == REFUSED.get(name, "")
    if name in REFUSED:
        return
    whole, image, layers = grown(prompt), prompt["image"], view_of(model).stage().layer_count
    clean = by_cache(model, prompt, whole, chosen(image, layers, len(image)))
    for kept in (chosen(image, layers, len(image) // 2), chosen(image, layers, 1, first=1), chosen(image, layers, 0)):
        found, expected = by_cache(model, prompt, whole, kept), by_hooks(model, prompt, whole, kept)
        said = expected > -1e30  # words that are never said have the least number
        assert tiny.gap(found[said], expected[said]) < LIMIT
        assert tiny.gap(found[said], clean[said]) > 1e-3
    masks = [
        nv.Knockout([at for token, at in enumerate(image) if token not in tokens], "generated", layers=layer)
        for layer, tokens in enumerate(kept)
    ]
    by_package = nv.run(
        model, whole, reduce(or_, masks), positions=range(prompt.rows[0].stop, whole.rows[0].stop)
    ).logits
    assert tiny.gap(found[said], by_package[said]) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("first", [0, 2])
def test_layers_may_keep_different_tokens_and_numbers_of_them(attention, first):
    model = tiny.load(attention, dtype=torch.float64)
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    whole = grown(prompt)
    kept = chosen(prompt["image"], tiny.LAYERS, 3, first=first)
    assert tiny.gap(by_cache(model, prompt, whole, kept), by_hooks(model, prompt, whole, kept)) < LIMIT


@pytest.mark.float64
def test_tokens_that_are_decoded_behind_a_cut_cache_are_those_of_masked_generation(sdpa, monkeypatch):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    whole, image = grown(prompt), prompt["image"]
    kept = chosen(image, tiny.LAYERS, 2, first=1)
    stop, said, forward = prompt.rows[0].stop, [], cut_caches._forward
    monkeypatch.setattr(cut_caches, "_forward", lambda *given: said.append(forward(*given)) or said[-1])
    text = set(range(stop)).difference(image)
    cache, _ = filled_cache(sdpa, prompt, [])
    shorter = cut_cache(cache, [sorted(text.union(image[token] for token in tokens)) for tokens in kept])
    assert tokens_per_second(sdpa, whole, stop, shorter, 4) > 0
    masks = as_masks(Variant("attention", "none", 50, (kept,)), image, range(stop, whole.rows[0].stop))
    expected = nv.generate(sdpa, whole, masks, max_new_tokens=5).tokens
    assert [int(logits[-1].argmax()) for logits in said] == list(expected)


def test_the_cache_that_is_cut_stays_as_it_was(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    cache, [weights] = filled_cache(sdpa, prompt, [nv.Attention("last", "image")])
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    shorter = cut_cache(cache, [[0, 3]] * tiny.LAYERS)
    logits_behind(sdpa, grown(prompt), prompt.rows[0].stop, shorter)
    assert [layer.keys.shape[2] for layer in shorter.layers] == [2 + FURTHER] * tiny.LAYERS
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
    assert torch.equal(weights, nv.run(sdpa, prompt, reads=nv.Attention("last", "image")).reads[0])


def test_a_model_with_edits_of_its_own_is_refused(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    assert why_not_cut(nv.install(sdpa, prompt, nv.Knockout("image", "last"))) == cut_caches.HAS_EDITS
