"""What the modules of a model compute beside their weights: their classes, their attributes, and replaced methods.

`self_attn.scaling = 1` and `lm_head.forward = ...` change a model's numbers and none of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

from .functions import is_installed, module_of, name_of

NOT_COUNTED = ("rope_deltas", "_output_capturing_hooks_installed", "name_or_path", "_persistent_id")
"""Attributes on which no number depends: two that a forward sets (the offset of the position ids that generation
continues with, and whether transformers registered its own hooks; no other moved in the tests' model of any family),
the name as the user spelled it, and what nnsight calls a module in work that it sends to a server."""
GROWING = ("max_seq_len_cached",)
"""Ends of names of attributes that grow with the longest prompt so far; what follows from them is in the buffers."""
_BASE = frozenset(vars(torch.nn.Module())) - {"training"}
"""Attributes of every module. Whether a module trains is counted, because dropout then changes its numbers."""
_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_NNSIGHT = "nnsight.intervention.source"
"""The module of the `forward` that nnsight puts on every module; it calls the one that was there."""
_DISPATCH = "accelerate.big_modeling"
"""The module of the `to` and `cuda` that accelerate puts on a model that it spreads over devices."""
_ACCELERATE = "accelerate.hooks"
"""The module of the `forward` that accelerate puts on a module whose weights it moves; it calls the one before."""


def walked(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """What `module.named_modules()` gives, in its order, without a generator inside a generator for every level.

    >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Tanh()))
    >>> [name for name, _ in walked(net)]
    ['', '0', '1', '1.0']
    """
    found: list[tuple[str, torch.nn.Module]] = []
    seen: set[int] = set()
    ahead: list[tuple[str, torch.nn.Module | None]] = [("", module)]
    while ahead:
        name, part = ahead.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        found.append((name, part))
        if part._modules:
            before = f"{name}." if name else ""
            ahead.extend([(before + key, inner) for key, inner in part._modules.items()][::-1])
    return found


def module_states(module: torch.nn.Module) -> Iterator[Any]:
    """The name, class and plain attributes of a module and of all modules inside it.

    Attributes count where they are numbers, texts, None, dtypes, functions of a library, or lists and tuples of these.
    """
    for name, part in module.named_modules():
        attributes = [(key, vars(part)[key]) for key in sorted(vars(part)) if _counts(key)]
        state = [(key, _spelled(value)) for key, value in attributes if _is_plain(value)]
        users = not is_installed(module_of(type(part)))
        yield name, type(part) if users else name_of(type(part)), state


def _counts(key: str) -> bool:
    return key not in _BASE and key not in NOT_COUNTED and not key.endswith(GROWING)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, partial):
        return _is_plain(value.func) and _is_plain(value.args) and _is_plain(list(value.keywords.values()))
    return isinstance(value, (*_PLAIN, FunctionType, BuiltinFunctionType))


def _spelled(value: Any) -> Any:
    """An attribute with functions by their names."""
    if isinstance(value, (list, tuple)):
        return [_spelled(part) for part in value]
    if isinstance(value, partial):
        return [_spelled(value.func), _spelled(value.args), sorted((k, _spelled(v)) for k, v in value.keywords.items())]
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return name_of(value) if is_installed(module_of(value)) else value
    return value


def replaced_methods(module: torch.nn.Module) -> Iterator[str]:
    """The path of every method that was replaced on one module and not in its class: `"lm_head.forward"`."""
    return replaced_in(walked(module))


def replaced_in(parts: Sequence[tuple[str, torch.nn.Module]]) -> Iterator[str]:
    """The same of modules with their paths."""
    for name, part in parts:
        own = vars(part)
        for key, value in compress(own.items(), map(callable, own.values())):  # before the class is asked: few are
            stock = getattr(type(part), key, None)
            if callable(stock) and not isinstance(stock, type):
                if (key == "forward" and _is_stock_forward(part, value)) or _guards_moving(part, key, value):
                    continue
                yield f"{name}.{key}".lstrip(".")


def _is_stock_forward(part: torch.nn.Module, forward: Any) -> bool:
    """Whether a `forward` in a module's own attributes is its class's in the end."""
    state = vars(part).get("__nnsight__")
    if isinstance(forward, partial) and getattr(forward.func, "__module__", None) == _ACCELERATE:
        return _is_stock_forward(part, vars(part).get("_old_forward"))
    if type(forward).__module__ == _NNSIGHT:
        return forward.module_ref() is part and state is forward.state and state.original is type(part).forward
    return getattr(forward, "__self__", None) is part and forward.__func__ is type(part).forward


def _guards_moving(part: torch.nn.Module, key: str, value: Any) -> bool:
    """Whether a method is what accelerate puts before `to` and `cuda` of a model that is spread over devices or disk.

    It warns, or refuses, and then does what the class's method does; no number depends on it.
    """
    is_guard = getattr(value, "__globals__", {}).get("__name__") == _DISPATCH
    before: Any = getattr(value, "__wrapped__", None)
    return is_guard and getattr(before, "__self__", None) is part and before.__func__ is getattr(type(part), key)


def forward_function(part: torch.nn.Module) -> Any:
    """The function that computes a module: its class's `forward`, or what was put in its place, below any wrapper."""
    forward = vars(part).get("forward", type(part).forward)
    if isinstance(forward, partial) and getattr(forward.func, "__module__", None) == _ACCELERATE:
        forward = vars(part).get("_old_forward", forward)
    if type(forward).__module__ == _NNSIGHT:
        forward = forward.state.original
    return getattr(forward, "__func__", forward)


def foreign_hook(part: torch.nn.Module) -> Iterator[Any]:
    """Hooks in the form of accelerate's that are not accelerate's own."""
    hook = vars(part).get("_hf_hook")
    for one in getattr(hook, "hooks", (hook,)):
        if one is not None and type(one).__module__ != _ACCELERATE:
            yield one
