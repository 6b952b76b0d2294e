"""Attribution patching, saliency and runs with a graph: against patches, finite differences and each other."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zoo
from float64 import LIMIT, float64

import nnsight_vlm as nv
from nnsight_vlm.device import gradients
from nnsight_vlm.errors import SpecError

QUESTION = "what is the red square ?"
EVERY = ("residual", "attention", "mlp", "head", "query", "key", "value", "embedding", "features")
ANSWER, AGAINST = 20, 31
CUT = nv.Knockout("image", "last", layers=[1]) | nv.Ablate("query", layers=0, site="mlp", how="mean")


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


@functools.cache
def pair() -> tuple[Any, nv.Prompt, nv.Prompt]:
    """A model, and a question about two pictures."""
    model = tiny.load(dtype=torch.float64)
    clean, corrupt = (nv.encode(model, QUESTION, tiny.picture(seed)) for seed in (0, 1))
    return model, clean, corrupt


def with_pixels(prompt: nv.Prompt, pixels: torch.Tensor) -> nv.Prompt:
    return nv.encode(prompt.model, inputs={**prompt.inputs, "pixel_values": pixels})


def margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, ANSWER] - logits[-1, AGAINST]


# attribution ------------------------------------------------------------------------------------------


def linear_module() -> Any:
    """A decoder without anything that is not linear: no norms, uniform attention, MLPs that are linear maps."""
    module = tiny.build_module()

    class Linear(torch.nn.Module):
        def __init__(self, mlp: Any) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.mlp.down_proj(self.mlp.up_proj(hidden))

    decoder = module.model.language_model
    decoder.norm = torch.nn.Identity()
    for layer in decoder.layers:
        layer.self_attn.q_proj.weight.zero_()
        layer.input_layernorm = layer.post_attention_layernorm = torch.nn.Identity()
        layer.mlp = Linear(layer.mlp)
    return module.double()


def test_attribution_of_a_linear_model_is_exact():
    with torch.no_grad():
        model = nv.load(linear_module(), processor=tiny.build_processor())
    clean, corrupt = (nv.encode(model, QUESTION, tiny.picture(seed)) for seed in (0, 1))
    sites = tuple(site for site in EVERY if site not in ("query", "key"))
    frame = nv.attribute(model, clean, corrupt, answer=ANSWER, against=AGAINST, at=sites, exact=10**6)
    assert frame["exact"].notna().all()
    away = (frame["estimate"] - frame["exact"]).abs().max()
    assert away < LIMIT * frame["exact"].abs().max()
    total = frame.attrs["clean"] - frame.attrs["corrupt"]
    image = frame.loc[(frame["site"] == "features") & (frame["group"] == "image"), "estimate"].item()
    assert abs(image - total) < LIMIT * abs(total)
    assert min(frame.attrs["correlation"].values()) > 1 - LIMIT


def test_estimates_converge_to_patches_as_the_runs_come_closer():
    model, clean, corrupt = pair()
    start, end = corrupt.inputs["pixel_values"], clean.inputs["pixel_values"]
    errors, relative = [], []
    for share in (2**-8, 2**-9):
        near = with_pixels(corrupt, torch.lerp(start, end, share))
        frame = nv.attribute(model, near, corrupt, answer=ANSWER, at=EVERY, exact=10**6, where="image")
        away = (frame["estimate"] - frame["exact"]).abs()
        errors.append(away.groupby(frame["site"]).max())
        relative.append(away.max() / frame["exact"].abs().max())
    assert ((errors[0] / errors[1])[errors[1] > 1e-9].between(3, 5)).all()  # of second order, at every site
    assert relative[1] < 0.6 * relative[0] < 0.06


def test_integrated_steps_add_up_to_the_difference_of_the_runs():
    model, clean, corrupt = pair()
    near = with_pixels(clean, torch.lerp(corrupt.inputs["pixel_values"], clean.inputs["pixel_values"], 0.2))
    ask = functools.partial(nv.attribute, model, near, corrupt, answer=ANSWER, where="image")
    away = []
    for steps in (1, 16, 64):
        frame = ask(at=("embedding", "head"), steps=steps)
        total = frame.attrs["clean"] - frame.attrs["corrupt"]
        away.append(abs(frame["estimate"].iloc[0] - total))
    assert away[2] < 0.3 * away[1] < 0.1 * away[0]
    with pytest.raises(SpecError, match="behind site"):
        ask(at="features", steps=2)


def test_the_largest_estimates_stand_beside_their_patches():
    model, clean, corrupt = pair()
    frame = nv.attribute(model, clean, corrupt, answer=ANSWER, against=AGAINST, exact=6)
    by_function = nv.attribute(model, clean, corrupt, metric=margin, exact=6)
    for found in (frame, by_function):
        patched = found.loc[found["exact"].notna()]
        assert set(patched.index) == set(frame["estimate"].abs().nlargest(6).index)
        begun = margin(nv.run(model, corrupt).logits[None])
        for row in patched.itertuples():
            heads = None if row.site == "residual" else [int(row.head)]
            patch = nv.Patch(row.group, source=clean, site=row.site, layers=int(row.layer), heads=heads)
            effect = margin(nv.run(model, corrupt, patch).logits[None]) - begun
            assert abs(float(effect) - row.exact) < LIMIT * abs(float(effect))
        expected = np.corrcoef(patched["estimate"], patched["exact"])[0, 1]
        assert found.attrs["correlation"]["all"] == pytest.approx(expected)
    assert (frame["estimate"] - by_function["estimate"]).abs().max() < LIMIT
    assert (frame.attrs["metric"], by_function.attrs["metric"]) == ("logit difference", "margin")


def test_positions_add_up_to_their_groups_and_where_chooses():
    model, clean, corrupt = pair()
    ask = functools.partial(nv.attribute, model, clean, corrupt, answer=ANSWER, layers=[1, 3])
    groups = ask(at=EVERY).set_index(["site", "layer", "head", "group"])["estimate"]
    positions = ask(at=EVERY, by="position")
    for (site, layer, head, group), estimate in groups.items():
        same = (positions["site"] == site) & positions["position"].isin(corrupt[group])
        for name, value in (("layer", layer), ("head", head)):
            same &= positions[name].fillna(-1) == (-1 if pd.isna(value) else value)
        assert abs(positions.loc[same, "estimate"].sum() - estimate) < LIMIT * groups.abs().max()
    some = ask(at="residual", by="position", where=(3, 30), layers=2, exact=2)
    assert some["position"].tolist() == [3, 30] and some["exact"].notna().all()
    assert set(ask(at="key", where=["question", "last"])["group"]) == {"question", "last"}


def test_parameters_are_left_alone_whether_they_require_a_gradient_or_not():
    frozen, clean, corrupt = pair()
    expected = nv.attribute(frozen, clean, corrupt, answer=ANSWER)
    module = tiny.build_module().double().requires_grad_(True)
    model = nv.load(module, processor=tiny.build_processor())
    prompts = [nv.encode(model, QUESTION, tiny.picture(seed)) for seed in (0, 1)]
    found = nv.attribute(model, *prompts, answer=ANSWER)
    nv.saliency(model, prompts[0], answer=ANSWER, at="pixels")
    assert (found["estimate"] - expected["estimate"]).abs().max() < LIMIT
    assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())
    assert not any(weight.requires_grad for weight in frozen._module.parameters())
    assert torch.is_grad_enabled() and nv.run(model, prompts[0]).logits.requires_grad is False


def test_what_cannot_be_estimated_is_refused_before_the_model_runs(monkeypatch):
    model, clean, corrupt = pair()
    longer = nv.encode(model, f"see {QUESTION}", tiny.picture(0))
    ask = functools.partial(nv.attribute, model, clean, corrupt, answer=ANSWER)
    moved = functools.partial(nv.attribute, model, longer, corrupt, answer=ANSWER)
    graph = functools.partial(nv.run, model, clean, grad=True)
    monkeypatch.setattr(gradients, "visit", None)  # nothing may run
    for match, call in (
        ("choose positions that correspond", moved),
        ("at another position was rotated", lambda: moved(at="key", where="last")),
        ("nothing to differentiate", lambda: nv.attribute(model, clean, corrupt)),
        ("takes the place of answer", lambda: ask(metric=margin)),
        ("not a number with a gradient", lambda: nv.attribute(model, clean, corrupt, metric=lambda rows: rows[0])),
        ("could not be computed", lambda: nv.attribute(model, clean, corrupt, metric=lambda rows: rows[0, 10**6])),
        ("on this machine only", lambda: nv.attribute(model, clean, corrupt, metric=margin, remote="local")),
        ("would take about", lambda: ask(memory=1000)),
        ("holds tokens of images", lambda: ask(at="features", where="query")),
        ("does not come home from a server", lambda: nv.run(model, clean, grad=True, remote="local")),
        ("of one layer each", lambda: graph(reads=nv.Residual("last"))),
        ("the decoder is read, and site", lambda: graph(reads=nv.Residual("image", site="projector"))),
        ("no site 'projector'", lambda: ask(at="projector")),
        ("Grad-CAM weighs by them", lambda: nv.saliency(model, clean, answer=1, at="gradcam", how="product")),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=match):
            call()


def test_a_server_gives_the_same_sums_and_a_sandbox_refuses(monkeypatch):
    model, clean, corrupt = pair()
    for call in (
        lambda **more: nv.attribute(model, clean, corrupt, answer=ANSWER, steps=2, **more)["estimate"].to_numpy(),
        lambda **more: nv.saliency(model, clean, CUT, answer=ANSWER, **more).values.numpy(),
        lambda **more: nv.saliency(model, clean, CUT, answer=ANSWER, at="pixels", **more).values.numpy(),
    ):
        assert np.abs(call(remote="local") - call()).max() < LIMIT
    monkeypatch.setattr(gradients, "is_sandboxed", lambda _: True)
    with pytest.raises(ValueError, match="no gradient crosses between processes"):
        nv.attribute(model, clean, corrupt, answer=ANSWER)


# gradients under an intervention ------------------------------------------------------------------------


def slope_by_steps(value: Any, at: torch.Tensor, direction: torch.Tensor) -> float:
    """The derivative along a direction, from four values of fourth order."""
    step = 1e-3
    near, far = (value(at + size * direction) - value(at - size * direction) for size in (step, 2 * step))
    return float(8 * near - far) / (12 * step)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama"])
def test_gradients_under_a_cut_equal_finite_differences(name):
    model, prompt = zoo.load(name, "sdpa", torch.float64), zoo.prompt(name, "sdpa", seed=1, dtype=torch.float64)
    cut = nv.Knockout("image", "last", layers=[view(model).cross[0]] if name == "mllama" else [1])
    seen = {at: nv.saliency(model, prompt, cut, answer=ANSWER, at=at) for at in ("features", "pixels")}
    features = nv.run(model, prompt, reads=nv.Residual("image", site="features")).reads[0]

    def of_features(states: torch.Tensor) -> torch.Tensor:
        return nv.run(model, prompt, nv.Patch("image", source=states, site="features") | cut).logits[ANSWER]

    def of_pixels(pixels: torch.Tensor) -> torch.Tensor:
        return nv.run(model, with_pixels(prompt, pixels), cut).logits[ANSWER]

    for at, value, state in (("features", of_features, features), ("pixels", of_pixels, prompt.inputs["pixel_values"])):
        gradient = seen[at].gradient
        assert gradient.shape == state.shape and float(gradient.norm()) > 1e-6
        noise = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        direction = noise / noise.norm()
        expected, found = slope_by_steps(value, state, direction), float((gradient * direction).sum())
        assert abs(found - expected) < 1e-6 * max(abs(expected), float(gradient.norm())), at
        assert seen[at].metric == pytest.approx(float(value(state)))


def view(model: Any) -> Any:
    from nnsight_vlm.families import view_of

    return view_of(model).stage()


def test_saliency_says_of_each_token_what_its_gradient_says():
    model, prompt, _ = pair()
    ask = functools.partial(nv.saliency, model, prompt, CUT, answer=ANSWER)
    plain, product, entering, cam = ask(), ask(how="product"), ask(at="embedding"), ask(at="gradcam")
    state = nv.run(model, prompt, CUT, reads=nv.Residual("image", site="features")).reads[0]
    assert torch.equal(plain.values, plain.gradient.norm(dim=-1)) and plain.positions == prompt["image"]
    assert tiny.gap(product.values, (plain.gradient * state).sum(-1)) < LIMIT
    assert tiny.gap(entering.gradient, plain.gradient) < LIMIT
    assert tiny.gap(cam.values, (state * plain.gradient.mean(0)).sum(-1).clamp(min=0)) < LIMIT
    pixels = ask(at="pixels")
    norms = pixels.gradient[0].norm(dim=0).unfold(0, tiny.PATCH, tiny.PATCH).unfold(1, tiny.PATCH, tiny.PATCH)
    assert tiny.gap(pixels.values, norms.mean((-1, -2)).flatten()) < LIMIT
    assert pixels.heatmap.shape == (tiny.SIDE, tiny.SIDE) and "25 image tokens" in repr(pixels)


def test_a_run_with_a_graph_goes_on_with_the_states_that_it_gives():
    model, prompt, _ = pair()
    sites = {"residual": 2, "attention": 1, "mlp": 1, "head": 2, "key": 3, "value": 1}
    reads = [nv.Residual("image", site=site, layers=layers) for site, layers in sites.items()]
    reads += [nv.Residual("image", site="embedding"), nv.Residual("image", site="features")]
    reads += [nv.Residual("last", site="head", layers=3, heads=[1, 2]), nv.Residual("last", layers=2)]
    reads += [nv.Attention("last", "image", layers=3)]
    run, plain = nv.run(model, prompt, CUT, reads=reads, grad=True), nv.run(model, prompt, CUT, reads=reads)
    assert tiny.gap(run.logits.detach(), plain.logits) < LIMIT and not plain.logits.requires_grad
    for found, expected in zip(run.reads, plain.reads, strict=True):
        assert tiny.gap(found.detach(), expected) < LIMIT
    states = run.reads[:-1]
    slopes = torch.autograd.grad(run.logits[ANSWER], states, retain_graph=True)
    for read, state, slope in zip(reads, plain.reads, slopes, strict=False):
        noise = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        heads = {"heads": read.heads} if read.heads else {}

        def value(states: torch.Tensor, read: nv.Residual = read, heads: Any = heads) -> torch.Tensor:
            patch = nv.Patch(read.where, source=states, site=read.site, layers=read.layers, **heads)
            return nv.run(model, prompt, CUT | patch).logits[ANSWER]

        expected = slope_by_steps(value, state, noise / noise.norm())
        found = float((slope * noise / noise.norm()).sum())
        assert abs(found - expected) < 1e-6 * float(slope.norm()) > 0, read
    assert float(torch.autograd.grad(run.reads[-1].sum(), states[0])[0].norm()) > 0
    edited = nv.install(model, prompt, CUT)
    with edited.trace(**prompt.inputs):
        args, kwargs = edited.model.language_model.inputs
        embedded = kwargs["inputs_embeds"].clone().requires_grad_()
        edited.model.language_model.inputs = args, {**kwargs, "inputs_embeds": embedded}
        logits = edited.output.logits.save()
    assert logits.requires_grad


@pytest.mark.parametrize("name", ["gemma3n", "gemma4-causal-shared"])
def test_layers_that_share_keys_are_places_of_their_own(name):
    with float64():
        attention = zoo.ZOO[name].implementations[0]
        model, prompt = zoo.load(name, attention, torch.float64), zoo.prompt(name, attention, dtype=torch.float64)
        pixels = prompt.inputs["pixel_values"].double()
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        near = nv.encode(model, inputs={**prompt.inputs, "pixel_values": pixels + 1e-6 * noise})
        frame = nv.attribute(
            model, near, prompt, answer=20, at=["residual", "key", "value"], where="image", exact=10**6
        )
    scale = frame["exact"].abs().max()
    assert scale > 0
    np.testing.assert_allclose(frame["estimate"] / scale, frame["exact"] / scale, rtol=0, atol=1e-3)


@pytest.mark.float64
def test_a_graph_through_what_a_changed_weight_is_computed_of_is_refused(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    for cut in (nv.Limit("image", "last", top=2, layers=1), nv.Knockout("image", "last", how="zero", layers=1)):
        for site in ("query", "key", "value"):
            with pytest.raises(nv.SpecError, match="changes weights behind the softmax"):
                nv.run(sdpa, prompt, cut, reads=nv.Residual("all", site=site, layers=1), grad=True)
        assert nv.run(
            sdpa, prompt, cut, reads=nv.Residual("all", site="value", layers=0), grad=True
        ).logits.requires_grad
    with pytest.raises(nv.SpecError, match="with grad=True the decoder is read"):
        nv.run(sdpa, prompt, reads=nv.Attention("cls", "image", stage="vision"), grad=True)


@pytest.mark.float64
def test_attention_that_is_read_depends_on_the_queries_and_keys_that_are_read_with_it(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    weights = nv.Attention("last", "image", layers=1, reduce="mass")
    for site in ("query", "key"):
        states = nv.Residual("all", site=site, layers=1)
        mass, held = nv.run(sdpa, prompt, reads=[weights, states], grad=True).reads
        slope = torch.autograd.grad(mass.sum(), held)[0]
        step = torch.randn(held.shape, generator=torch.Generator().manual_seed(0), dtype=held.dtype)
        moved = [
            nv.run(sdpa, prompt, nv.Patch("all", source=held.detach() + way * step, site=site, layers=1), reads=weights)
            for way in (1e-5, -1e-5)
        ]
        found = (moved[0].reads[0].sum() - moved[1].reads[0].sum()) / 2e-5
        assert abs(found - (slope * step).sum()) < 1e-7 and abs(found) > 1e-4
