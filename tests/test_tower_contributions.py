"""What keys add in a vision tower equals weights, values and output projection multiplied by hand, in every family."""

from __future__ import annotations

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from test_attention_parts import gap

import nnsight_vlm as nv
from nnsight_vlm.families import VISION, view_of
from nnsight_vlm.lowering.sites import locate

FORMS = (None, "keys", "heads", ["heads", "keys"])


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_what_keys_add_equals_weights_values_and_projection_multiplied(name):
    attention = zoo.ZOO[name].implementations[0]
    with float64():
        model = zoo.load(name, attention, torch.float64)
        prompt, view = zoo.prompt(name, attention, 1, dtype=torch.float64), view_of(model)
        if VISION not in dict(prompt.rows[0].stages) or not view.stage(VISION).attention:
            pytest.skip("no tower with attention")
        image, layer = prompt.positions("image", stage=VISION), view.stage(VISION).attention[0]
        queries, where = image[1::5], {"layers": layer, "stage": VISION}
        reads = [nv.Attention(queries, "all", **where), nv.Residual("all", site="value", **where)]
        reads += [nv.Attention(queries, "all", reduce="contribution", over=over, **where) for over in FORMS]
        cut = nv.Knockout(image[::2], queries, how="zero", heads=[0], **where)
        for edited in (None, cut):
            weights, values, *found = nv.run(model, prompt, edited, reads=reads).reads
            expect(model.get(locate(view.family, VISION, "head", layer)[0])._module, weights[0], values[0], found)


def expect(projection, weights, values, found):
    """The norms of all forms are those of what each head and key adds."""
    by_head = next(projection.parameters()).unflatten(1, (len(weights), -1))  # its weight comes first
    values = values.repeat_interleave(len(weights) // len(values), 0)
    added = torch.einsum("hqk,hkd,whd->hqkw", weights, values, by_head)
    for over, form in zip(FORMS, found, strict=True):
        summed = added.sum(0) if over is not None and "heads" in over else added
        summed = summed.sum(-2) if over is not None and "keys" in over else summed
        assert gap(form[0], summed.norm(dim=-1)) < LIMIT, over


def test_a_tower_whose_projection_clips_is_refused():
    member = zoo.ZOO["gemma4"]
    module = member.module("sdpa")
    module.config.vision_config.use_clipped_linears = True
    model = nv.load(module, processor=member.processor())
    prompt = nv.encode(model, member.text, zoo.picture(1, member.sizes[0]))
    with pytest.raises(nv.SpecError, match="the output projection clips, so what a key adds depends on all others"):
        nv.run(model, prompt, reads=nv.Attention("image", "image", stage=VISION, layers=0, reduce="contribution"))
