"""Models whose numbers are drawn by chance: those in train mode with a dropout that is active.

Under dropout no two runs of one input are equal, so no difference between a clean run and one under an intervention
means anything. A model in train mode without any active dropout gives the numbers that it gives in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, TypeGuard

import torch

from ..errors import SpecError
from ..families import Model, view_of
from ..identity.functions import is_installed, module_of
from ..identity.modules import forward_function
from ..remote.model_call import Remote

NAMED = 3
"""How many active parts an error names."""
_RATE = re.compile(r"drop|jitter|stochastic_depth|mask_(time|feature)_prob", re.IGNORECASE)
"""Names of attributes and settings that hold a probability of chance in train mode: `attention_dropout`, `layerdrop`,
`drop_path`, `router_jitter_noise`."""
_RATE_OF_DROPS = re.compile(r"^(p|prob|rate|ratio)$|drop|noise", re.IGNORECASE)
"""Such names in a class that is named for what it drops."""
_DROPPING_CLASS = re.compile(r"drop|stochastic|noise", re.IGNORECASE)
_DRAWING = re.compile(
    r"^(\w*dropout\w*|rrelu_?|gumbel_softmax|bernoulli_?|multinomial|rand\w*|normal_?|uniform_|exponential_)$"
)
"""Functions that draw numbers, or call one that does."""


def refuse_chance(model: Model, remote: Remote) -> None:
    """Refuse a model on this machine whose forward depends on chance, or on its batch, because it is in train mode.

    A server runs its own copy, in eval mode; so does a model whose weights are loaded when it first runs.

    Raises:
        SpecError: naming the active parts, and what to write.
    """
    module = view_of(model).module
    if remote not in (False, "local") or not _any_in_training(module):
        return
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    active = list(active_in_training(module))
    if active:
        more = f" and {len(active) - NAMED} more" if len(active) > NAMED else ""
        raise SpecError(
            f"the model is in train mode, where its output is not a function of its input ({', '.join(active[:NAMED])}"
            f"{more}), so that no two runs of it can be compared; write model.eval() first"
        )


def _any_in_training(module: torch.nn.Module) -> bool:
    """Whether a module or a part of it is in train mode. `Module.modules` takes six times as long, on every run."""
    parts: list[torch.nn.Module | None] = [module]
    for part in parts:  # which grow meanwhile
        if part is not None:
            if part.training:
                return True
            if part._modules:
                parts.extend(part._modules.values())
    return False


def active_in_training(module: torch.nn.Module) -> Iterator[str]:
    """Every part in train mode that draws numbers or computes from its whole batch: `"lm_head.drop (p=0.1)"`."""
    for name, part in module.named_modules():
        if part.training:
            for cause in _causes(part):
                yield f"{name or type(part).__name__} ({cause})"


def _causes(part: torch.nn.Module) -> Iterator[str]:
    """Why one module in train mode gives other numbers than its input alone says."""
    if isinstance(part, torch.nn.RReLU):
        if part.lower != part.upper:
            yield "random slopes"
    elif isinstance(part, torch.nn.modules.batchnorm._NormBase):
        if part.track_running_stats or isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            yield "statistics of the batch"
    else:
        rates = dict(_rates(part))
        yield from (f"{key}={rate:g}" for key, rate in rates.items() if rate > 0)
        if not rates and _draws(part):
            yield "draws random numbers"


def _rates(part: torch.nn.Module) -> Iterator[tuple[str, float]]:
    """The probabilities with which a module drops something, by name: its own attributes, and the settings it reads."""
    dropping = _DROPPING_CLASS.search(type(part).__name__)
    wanted = _RATE_OF_DROPS if dropping or _draws(part) else _RATE
    for key, value in vars(part).items():
        if wanted.search(key) and _is_number(value):
            yield key, float(value)
    config = vars(part).get("config")
    if config is not None:
        for key in sorted(key for key in _names_read(type(part)) if _RATE.search(key)):
            value = getattr(config, key, None)
            if not hasattr(part, key) and _is_number(value):
                yield f"config.{key}", float(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _draws(part: torch.nn.Module) -> bool:
    """Whether the user's own class draws numbers in its forward, or a `forward` that was put in place of a module's."""
    forward = forward_function(part)
    if not isinstance(forward, FunctionType) or is_installed(module_of(forward)):
        return False
    return any(_DRAWING.match(name) for name in _names_in(forward.__code__))


def _names_read(cls: type) -> set[str]:
    """The names that the methods of a class read."""
    methods = (value for each in cls.__mro__ for value in vars(each).values() if each is not torch.nn.Module)
    plain = [getattr(value, "__wrapped__", value) for value in methods]
    return {name for value in plain if isinstance(value, FunctionType) for name in _names_in(value.__code__)}


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)
