"""A model in train mode whose output depends on chance, or on its batch, is refused before it runs."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional

import nnsight_vlm as nv

CUT = nv.Knockout("image", "last", layers=1)


class DropPath(nn.Module):
    """Stochastic depth as vision libraries write it."""

    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate

    def forward(self, states):
        if self.training and self.drop_prob:
            states = states * torch.empty(len(states), 1, 1).bernoulli_(1 - self.drop_prob)
        return states


class StochasticDepth(DropPath):
    """The same with the attribute that torchvision uses."""

    def __init__(self, rate):
        super().__init__(rate)
        self.p, _ = rate, vars(self).pop("drop_prob")

    def forward(self, states):
        return functional.dropout(states, self.p, self.training)


class Literal(nn.Module):
    """A dropout whose rate is written in its code."""

    def forward(self, states):
        return functional.dropout(states, 0.5, self.training)


def layer(model, number=1):
    return model._module.model.language_model.layers[number]


def as_activation(make):
    """A part that stands behind the activation of one MLP."""

    def plant(model, rate):
        layer(model).mlp.act_fn = nn.Sequential(nn.SiLU(), make(rate))

    return plant


def attention_rate(model, rate):
    layer(model).self_attn.attention_dropout = rate


def vision_rate(model, rate):
    model._module.model.vision_tower.encoder.layers[0].self_attn.dropout = rate


def layer_drop(model, rate):
    layer(model).layerdrop = rate


def replaced_forward(model, rate):
    mlp = layer(model).mlp
    usual = type(mlp).forward
    mlp.rate = rate
    mlp.forward = lambda states: functional.dropout(usual(mlp, states), mlp.rate, mlp.training)


RATED = {
    "dropout": as_activation(nn.Dropout),
    "dropout of channels": as_activation(nn.Dropout1d),
    "alpha dropout": as_activation(nn.AlphaDropout),
    "stochastic depth": as_activation(DropPath),
    "stochastic depth called p": as_activation(StochasticDepth),
    "attention dropout": attention_rate,
    "dropout of the vision tower's attention": vision_rate,
    "layer drop": layer_drop,
    "a replaced forward": replaced_forward,
}
UNRATED = {
    "random slopes": lambda model: as_activation(lambda _: nn.RReLU())(model, 0),
    "a rate in the code": lambda model: as_activation(lambda _: Literal())(model, 0),
    "batch norm": lambda model: model._module.model.vision_tower.add_module("norm", nn.BatchNorm1d(4)),
}
PLANTS = {**{name: (lambda model, plant=plant: plant(model, 0.4)) for name, plant in RATED.items()}, **UNRATED}


@pytest.fixture
def trained():
    """A model of its own, which the test may change, in train mode."""
    model = tiny.build("sdpa")
    model.train()
    return model


@pytest.fixture
def asked(trained):
    return nv.encode(trained, "what is the red square ?", tiny.picture(0))


CALLS = {
    "run": lambda model, prompt: nv.run(model, prompt, CUT),
    "clean run": nv.run,
    "generate": lambda model, prompt: nv.generate(model, prompt, CUT, max_new_tokens=2),
    "generations": lambda model, prompt: nv.generations(model, [(prompt, CUT)], max_new_tokens=2),
    "sweep": lambda model, prompt: nv.sweep(model, prompt, [CUT, CUT], answer=20),
    "sweep one by one": lambda model, prompt: nv.sweep(model, prompt, [CUT], answer=20, execution="single"),
    "verify": lambda model, prompt: nv.verify(model, prompt, CUT),
    "install": lambda model, prompt: nv.install(model, prompt, CUT),
    "simulated": lambda model, prompt: nv.run(model, prompt, CUT, remote="local"),
    "recipe": lambda model, prompt: nv.recipes.knockout_windows(
        model, [prompt], answers=[20], windows=2, work=nv.recipes.Work(progress=False)
    ),
}


def forwards(model):
    calls = []
    model._module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("call", CALLS)
def test_every_function_refuses_active_dropout_before_the_model_runs(trained, asked, call):
    RATED["attention dropout"](trained, 0.1)
    ran = forwards(trained)
    with pytest.raises(nv.SpecError, match=r"train mode.*self_attn \(attention_dropout=0.1\).*write model\.eval\(\)"):
        CALLS[call](trained, asked)
    assert not ran


@pytest.mark.parametrize("plant", PLANTS)
def test_every_kind_of_chance_is_refused_in_train_mode_alone(trained, asked, plant):
    PLANTS[plant](trained)
    with pytest.raises(nv.SpecError, match=r"write model\.eval\(\)"):
        nv.run(trained, asked)
    trained.eval()
    nv.run(trained, asked)


@pytest.mark.parametrize("plant", RATED)
def test_train_mode_without_an_active_dropout_gives_the_numbers_of_eval_mode(trained, asked, plant):
    RATED[plant](trained, 0.0)
    in_train_mode = nv.run(trained, asked, CUT).logits
    trained.eval()
    assert torch.equal(in_train_mode, nv.run(trained, asked, CUT).logits)


def test_one_module_in_train_mode_suffices(trained, asked):
    trained.eval()
    RATED["dropout"](trained, 0.5)  # a new module is in train mode
    with pytest.raises(nv.SpecError, match=r"act_fn\.1 \(p=0\.5\)"):
        nv.run(trained, asked)
