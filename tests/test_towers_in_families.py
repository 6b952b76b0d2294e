"""Every family's vision tower as a stage: a cut, a patch and what is read equal plain hooks, in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from tiny import gap
from transformers import LlavaConfig, SiglipVisionConfig
from zoo import plain, towers

import nnsight_vlm as nv
from nnsight_vlm.families import FAMILIES, family_of, view_of

WITH_TOWER = [name for name in zoo.ZOO if zoo.row(name).tower is not None]
EAGER_TOO = ("llava", "blip-2-opt", "llama4", "idefics2-split", "gemma4", "mllama", "qwen2_5_vl", "mistral3")
"""Members of which each stands for a way in which a mask comes to attention."""
CASES = [(name, zoo.ZOO[name].implementations[0]) for name in WITH_TOWER]
CASES += [(name, "eager") for name in EAGER_TOO if name in zoo.ZOO]


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    with float64():
        yield request.param


def test_a_cut_a_patch_and_what_is_read_equal_plain_hooks(case):
    name, attention = case
    last = len(zoo.ZOO[name].sizes) - 1
    model = zoo.load(name, attention, torch.float64)
    prompt, other = (zoo.prompt(name, attention, seed, last, torch.float64) for seed in (1, 2))
    view = view_of(model)
    spec, module = view.stage("vision"), view.module
    clean = towers.forward(module, view.family, prompt.inputs)
    image = prompt.positions("image", stage="vision")
    sources, targets = image[: len(image) // 2 : 2], image[1::3]
    targets = tuple(sorted(set(targets) - set(sources)))
    layer = spec.taken[0]
    if spec.attention:
        layer = spec.attention[0]
        cut = nv.Knockout(sources, targets, layers=[layer], stage="vision")
        read = nv.Attention(targets, "all", layers=[layer], stage="vision")
        run = nv.run(model, prompt, cut, positions="all", reads=[read])
        expected = towers.forward(module, view.family, prompt.inputs, cuts={layer: [(targets, sources)]})
        every = list(prompt.positions("all", stage="vision"))
        assert gap(run.logits, expected.logits[0]) < LIMIT
        assert gap(expected.logits, clean.logits) > 1e-4
        assert gap(run.reads[0][0], expected.weights(layer)[:, list(targets)][..., every]) < LIMIT
    layer = spec.taken[0]
    donor = towers.forward(module, view.family, other.inputs)
    some = list(image[::2])

    def write(states: torch.Tensor) -> torch.Tensor:
        states[some] = donor.states[layer][some]
        return states

    patch = nv.Patch(some, source=other, layers=[layer], stage="vision")
    states = nv.Residual("all", layers=[layer], stage="vision")
    run = nv.run(model, prompt, patch, positions="all", reads=[states])
    expected = towers.forward(module, view.family, prompt.inputs, writes={layer: write})
    every = list(prompt.positions("all", stage="vision"))
    assert gap(run.logits, expected.logits[0]) < LIMIT
    assert gap(expected.logits, clean.logits) > 1e-4
    assert gap(run.reads[0][0], expected.states[layer][every]) < LIMIT


@pytest.mark.parametrize("name", WITH_TOWER)
@float64()
def test_the_layers_that_are_taken_are_those_that_change_something_by_themselves(name):
    """A layer's output is another, and those of all layers behind it are what they were."""
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention, torch.float64), zoo.prompt(name, attention, dtype=torch.float64)
    view = view_of(model)
    clean, taken = towers.forward(view.module, view.family, prompt.inputs), set[int]()
    kept = {layer: (lambda _, states=states: states) for layer, states in clean.states.items()}
    for layer in kept:
        behind = {other: write for other, write in kept.items() if other > layer}
        changed = {layer: lambda states: states.flip(-1)}
        logits = towers.forward(view.module, view.family, prompt.inputs, writes=behind | changed).logits
        taken |= {layer} if gap(logits, clean.logits) > 1e-4 else set()
    found = nv.describe(model).set_index("stage").loc["vision", "taken"]
    assert set(found) == taken


def test_every_model_has_a_line_for_its_tower_and_sizes_are_those_of_its_modules():
    for name, member in zoo.ZOO.items():
        model = zoo.load(name, member.implementations[0], torch.float64)
        view, table = view_of(model), nv.describe(model).set_index("stage")
        assert list(table.index) == list(dict.fromkeys(("vision", *view.family.stages)))
        assert list(table.columns)[:3] == ["layers", "heads", "key_heads"]
        for stage, part in view.family.stages.items():
            if part.layer_count:
                assert table.loc[stage, "layers"] == len(view.module.get_submodule(part.layers))
        assert ("vision" in table.loc["vision", "missing"]) == (FAMILIES[view.family.name].tower is None)


PROJECTED = [
    name for name in zoo.ZOO if zoo.row(name).projector is not None and "projector" not in zoo.row(name).limitations
]


@pytest.mark.parametrize("name", PROJECTED)
def test_what_the_projector_is_handed_is_read_and_written_row_by_row(name):
    attention, last = zoo.ZOO[name].implementations[0], len(zoo.ZOO[name].sizes) - 1
    with float64():
        model = zoo.load(name, attention, torch.float64)
        prompt, other = (zoo.prompt(name, attention, seed, last, torch.float64) for seed in (1, 2))
        view = view_of(model)
        stage = "decoder" if view.family.handed == "features" else "vision"
        (clean, rows), (_, theirs) = (
            towers.projecting(view.module, view.family, each.inputs) for each in (prompt, other)
        )
        read = nv.Residual("image", site="projector", stage=stage)
        run = nv.run(model, prompt, reads=[read])
        numbers = {tuple(row): number for number, row in enumerate(rows.tolist())}
        found = [numbers[tuple(row)] for row in run.reads[0].tolist()]
        assert len(set(found)) == len(found) == len(prompt.positions("image", stage=stage))
        some = prompt.positions("image", stage=stage)[::2]
        if stage == "vision":  # what the last layer that is taken gives at a place is handed over in that row
            last, place = view.stage("vision").taken[-1], some[-1]

            def flip(states: torch.Tensor) -> torch.Tensor:
                states[place] = states[place].flip(0)
                return states

            changed = towers.forward(view.module, view.family, prompt.inputs, writes={last: flip}).handed
            moved = ((changed - rows).abs().amax(-1) > 1e-6).nonzero().flatten().tolist()
            assert moved == [found[::2][-1]]

        def write(states: torch.Tensor) -> torch.Tensor:
            states[found[::2]] = theirs[found[::2]]
            return states

        patch = nv.Patch(some, source=other, site="projector", stage=stage)
        expected, _ = towers.projecting(view.module, view.family, prompt.inputs, write)
        assert gap(nv.run(model, prompt, patch, positions="all").logits, expected[0]) < LIMIT
        assert gap(expected, clean) > 1e-4


def test_a_family_that_takes_any_tower_is_looked_up_by_the_tower_that_it_has(monkeypatch):
    """LLaVA with SigLIP, which has no class token and of which nothing is left out."""
    monkeypatch.setattr(plain, "CLIPVisionConfig", SiglipVisionConfig)
    monkeypatch.setattr(plain, "LlavaConfig", partial(LlavaConfig, vision_feature_select_strategy="full"))
    module, processor = plain.llava("sdpa"), plain.llava_processor()
    processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    model = nv.load(module, processor=processor)
    prompt, other = (nv.encode(model, zoo.ZOO["llava"].text, zoo.picture(seed, (24, 20))) for seed in (1, 2))
    assert nv.describe(model).loc[0, "groups"] == ("image", "last", "first", "all")
    last = nv.describe(model).loc[0, "taken"][-1]
    patches = (
        nv.Patch("image", source=other, layers=last, stage="vision"),
        nv.Patch("image", source=other, site="projector", stage="vision"),
        nv.Patch("image", source=other, site="features"),
    )
    first, *others = (nv.run(model, prompt, patch).logits for patch in patches)
    assert all(torch.equal(first, logits) for logits in others)
    monkeypatch.setattr(module.config.vision_config, "model_type", "some_other")
    assert "'some_other'" in family_of(module.config).limitations["vision"]
    assert family_of(module.config).tower is None
