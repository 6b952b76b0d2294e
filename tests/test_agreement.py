"""Where a case's numbers depend on what else is in the pass, sweeps and answers run one by one, and say so."""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
from torch import nn

import nnsight_vlm as nv
from nnsight_vlm.errors import PassesDifferWarning
from nnsight_vlm.families import view_of
from nnsight_vlm.sweeping import kept_runs
from nnsight_vlm.sweeping.agreement import must_run_alone
from nnsight_vlm.sweeping.unusual import unusual_parts

float64 = pytest.mark.float64
QUIET = nv.recipes.Work(progress=False)
CUTS = [nv.Knockout("image", "last", layers=layer) for layer in range(4)] + [nv.Ablate("query", layers=2)]
IN_IMAGE = [nv.Ablate("image", layers=layer) for layer in range(1, 4)]


def layer(model, number=2):
    return model._module.model.language_model.layers[number]


class WholeTensor(nn.Linear):
    """Rounds its input to 7 bits of the greatest number in it, as dynamic quantisation of a tensor does."""

    def forward(self, states):
        step = states.abs().max() / 63
        return super().forward((states / step).round() * step)


class BatchStatistics(nn.Module):
    """A norm by the mean of all that is in the pass."""

    def forward(self, states):
        return states - 0.5 * states.mean((0, 1), keepdim=True)


class Rounded(torch.Tensor):
    """Weights of a kind of their own, whose product depends on the whole input."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if function is nn.functional.linear:
                states, *rest = args
                step = states.norm() / 400
                return function((states / step).round() * step, *rest, **(kwargs or {}))
            result = function(*args, **(kwargs or {}))
            return result.as_subclass(cls) if function is torch.Tensor.detach else result


def whole_tensor(model):
    old = layer(model).mlp.down_proj
    layer(model).mlp.down_proj = WholeTensor(old.in_features, old.out_features, bias=False, dtype=old.weight.dtype)


def batch_statistics(model):
    layer(model).mlp.act_fn = nn.Sequential(nn.SiLU(), BatchStatistics())


def batch_norm_without_a_memory(model):
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1, track_running_stats=False, affine=False)

        def forward(self, states):
            return states + self.norm(states.reshape(-1, 1)).reshape(states.shape)

    layer(model).mlp.act_fn = Norm()


def strange_weights(model):
    projection = layer(model).mlp.up_proj
    projection.weight = nn.Parameter(projection.weight.detach().as_subclass(Rounded), requires_grad=False)


def hook_at_a_position(model):
    def write(module, given, states):
        states = states.clone()
        states[:, min(3, states.shape[1] - 1)] += 1.0
        return states

    layer(model).mlp.register_forward_hook(write)


def hook_at_a_row(model):
    def write(module, given, states):
        states = states.clone()
        states[0] *= 1.2
        return states

    layer(model).mlp.register_forward_hook(write)


def hook_in_place(model):
    def write(module, given, states):
        states[:, -1] *= 1.3

    layer(model).mlp.register_forward_hook(write)


def hook_before(model):
    layer(model).mlp.register_forward_pre_hook(lambda _, given: (given[0] - given[0].mean((0, 1)),))


def replaced_forward(model):
    mlp = layer(model).mlp
    usual = type(mlp).forward
    mlp.forward = lambda states: usual(mlp, states * (20 / states.norm()))


def recurrent(model):
    class Remembering(nn.Module):
        def __init__(self, width, dtype):
            super().__init__()
            self.memory = nn.GRU(width, width, batch_first=True, dtype=dtype)

        def forward(self, states):
            return self.memory(states)[0]

    width = view_of(model).stage().width
    layer(model).post_attention_layernorm = Remembering(width, view_of(model).dtype)


PLANTS = {
    plant.__name__.replace("_", " "): plant
    for plant in (
        whole_tensor,
        batch_statistics,
        batch_norm_without_a_memory,
        strange_weights,
        hook_at_a_position,
        hook_at_a_row,
        hook_in_place,
        hook_before,
        replaced_forward,
        recurrent,
    )
}


@pytest.fixture
def owned(dtype):
    """A model of its own, which the test may change."""
    torch.manual_seed(0)
    return tiny.build("sdpa", dtype=dtype)


def encoded(model, text="what is the red square ?", seed=0):
    return nv.encode(model, text, tiny.picture(seed))


def one_by_one(model, prompt, cases, answer=20):
    return [float(nv.run(model, prompt, case).logits[answer]) for case in cases]


def expect(frame, values):
    assert (frame.logit - torch.tensor(values).numpy()).abs().max() < 1e-6 * frame.logit.abs().max()


EQUAL = {("hook at a row", "auto"), ("hook at a row", "packed"), ("hook in place", "rows")}
"""What gives the numbers of single runs: a packed pass has one row, and rows of one prompt all end at one place."""


@float64
@pytest.mark.parametrize("execution", ["auto", "packed", "rows"])
@pytest.mark.parametrize("plant", PLANTS)
def test_a_sweep_gives_the_numbers_of_single_runs_and_says_why_it_is_slow(owned, plant, execution):
    PLANTS[plant](owned)
    owned.eval()
    prompt = encoded(owned)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PassesDifferWarning)
        frame = nv.sweep(owned, prompt, CUTS, answer=20, execution=execution)
    if (plant, execution) not in EQUAL:
        assert frame.attrs["execution"] == "single" and len(said) == 1
        assert "run one by one instead" in str(said[0].message)
    expect(frame, one_by_one(owned, prompt, CUTS))


@float64
@pytest.mark.parametrize("plant", ["whole tensor", "hook at a row", "batch statistics"])
def test_so_does_a_sweep_that_shares_no_prefix(owned, plant):
    PLANTS[plant](owned)
    owned.eval()
    prompt = encoded(owned)
    with pytest.warns(PassesDifferWarning, match="As a row of a batch, a logit"):
        frame = nv.sweep(owned, prompt, IN_IMAGE, answer=20)
    expect(frame, one_by_one(owned, prompt, IN_IMAGE))


@float64
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("shared", [True, False], ids=["one prompt", "several prompts"])
def test_answers_are_those_of_single_generations(owned, plant, shared):
    PLANTS[plant](owned)
    owned.eval()
    prompts = [encoded(owned), *([] if shared else [encoded(owned, "where is it ?", 1), encoded(owned, "red ?", 2)])]
    cases = [(prompt, case) for prompt in prompts for case in (CUTS if shared else CUTS[1:2])]
    alone = [nv.generate(owned, prompt, case, max_new_tokens=4).tokens for prompt, case in cases]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PassesDifferWarning)
        answers = list(nv.generations(owned, cases, max_new_tokens=4))
    assert [answer.tokens for answer in answers] == alone
    assert len(said) == (plant != "hook in place")  # that one finds the last token of every row


def test_dynamic_quantisation_is_seen():
    model = tiny.build("sdpa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model._module, {nn.Linear}, dtype=torch.qint8)
    small = nv.load(quantised, processor=model.processor)
    prompt = encoded(small)
    for execution in ("auto", "packed", "rows"):
        with pytest.warns(PassesDifferWarning, match=r"torch\.ao\.nn\.quantized\.dynamic"):
            frame = nv.sweep(small, prompt, CUTS, answer=20, execution=execution)
        expect(frame, one_by_one(small, prompt, CUTS))


@float64
def test_a_model_that_draws_numbers_is_told_from_one_that_depends_on_its_pass(owned):
    layer(owned).mlp.register_forward_hook(lambda *given: given[-1] * (1 + torch.rand(())))
    with pytest.warns(PassesDifferWarning, match="Two single runs of one case differ by .* depends on chance"):
        nv.sweep(owned, encoded(owned), CUTS, answer=20)


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(layer(model).mlp.up_proj)


def scaling_hook(model):
    layer(model).mlp.register_forward_hook(lambda *given: given[-1] * 1.5)


def own_linear(model):
    class Mine(nn.Linear):
        pass

    old = layer(model).mlp.up_proj
    layer(model).mlp.up_proj = Mine(old.in_features, old.out_features, bias=False, dtype=old.weight.dtype)


@float64
@pytest.mark.parametrize("plant", [weight_norm, scaling_hook, own_linear])
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_unusual_parts_that_change_nothing_of_this_kind_keep_the_fast_way(owned, plant, execution):
    plant(owned)
    owned.eval()
    prompt = encoded(owned)
    assert unusual_parts(owned, False)
    frame = nv.sweep(owned, prompt, CUTS, answer=20, execution=execution)
    assert frame.attrs["execution"] == execution
    expect(frame, one_by_one(owned, prompt, CUTS))
    assert len(list(nv.generations(owned, [(prompt, case) for case in CUTS], max_new_tokens=2))) == len(CUTS)


@float64
@pytest.mark.parametrize("plant, verdicts", [("whole tensor", [False]), (None, [])], ids=["unusual", "plain"])
def test_a_recipe_compares_once_and_a_plain_model_never(owned, plant, verdicts, monkeypatch):
    if plant:
        PLANTS[plant](owned)
        owned.eval()
    seen = []
    monkeypatch.setattr(kept_runs.KeptRuns, "clear", lambda runs: seen.append(list(runs.agreements.values())))
    prompts = [encoded(owned, seed=seed) for seed in range(3)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PassesDifferWarning)
        nv.recipes.knockout_windows(owned, prompts, answers=[20, 21, 22], windows=2, routes=["image->last"], work=QUIET)
    assert seen == [verdicts] and len(said) == len(verdicts)


@float64
def test_a_plain_model_pays_no_forward(owned, forwards_of):
    prompt, ran = encoded(owned), forwards_of(owned)
    frame = nv.sweep(owned, prompt, CUTS, answer=20, execution="packed")
    assert len(ran) == 1 + frame.attrs["passes"]["packed"]
    assert not unusual_parts(owned, False)


@pytest.fixture
def forwards_of():
    def watch(model):
        ran = []
        model._module.register_forward_pre_hook(lambda *_: ran.append(1))
        return ran

    return watch


@float64
def test_a_hook_that_only_watches_is_plain_and_one_that_could_write_is_not(owned):
    seen = []

    def notes(*_):
        seen.append(1)

    def returns_its_own(*_):
        return seen

    def writes(module, given, states):
        states.add_(1)

    for hook, plain in ((notes, True), (lambda *_: seen.append(1), True), (lambda *_: None, True), (writes, False)):
        handle = layer(owned).register_forward_hook(hook)
        assert bool(unusual_parts(owned, False)) is not plain, hook
        handle.remove()
    handle = layer(owned).register_forward_hook(returns_its_own)
    assert unusual_parts(owned, False)


@float64
def test_what_a_server_runs_is_known_by_its_configuration_alone(owned):
    whole_tensor(owned)
    assert unusual_parts(owned, "local") and not unusual_parts(owned, True)
    owned._module.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert unusual_parts(owned, True) == unusual_parts(owned, "http://somewhere")[:1]


@float64
def test_words_that_a_model_bars_do_not_set_the_scale(owned):
    def barring(module, given, logits):
        return torch.cat([logits[..., :50], torch.full_like(logits[..., 50:], torch.finfo(logits.dtype).min)], -1)

    owned._module.lm_head.register_forward_hook(barring)
    PLANTS["whole tensor"](owned)
    owned.eval()
    with pytest.warns(PassesDifferWarning):
        nv.sweep(owned, encoded(owned), CUTS, answer=20)


@float64
def test_nothing_is_compared_where_all_is_plain(owned):
    runs = kept_runs.KeptRuns(owned)
    assert must_run_alone(owned, runs, False, lambda: pytest.fail("compared")) is False
