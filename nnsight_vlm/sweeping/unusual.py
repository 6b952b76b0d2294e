"""Parts of a model of which nobody knows whether their output depends on what else is in the pass.

A plain module computes each row and each position from nothing but its own states, so packed variants and rows of a
batch get the numbers that they get alone. Dynamic quantisation takes one scale from a whole tensor, an observer counts,
and a hook may write at a position that is another one in a packed pass.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from ..families import Model, view_of
from ..identity import global_hooks
from ..identity.models import CAPTURING
from ..identity.modules import foreign_hook, replaced_in, walked
from ..remote.model_call import Remote

PLAIN_LIBRARIES = ("torch.nn.modules.", "transformers.", "timm.", "torchvision.", __name__.partition(".")[0] + ".")
"""Where modules of a known plain kind come from."""
NOT_PLAIN = ("transformers.integrations.", "transformers.quantizers.", "torch.nn.modules.rnn")
"""Quantised layers inside them, and layers that hand a state from position to position."""
NOT_PLAIN_CLASSES = ("RReLU", "FractionalMaxPool2d", "FractionalMaxPool3d", "Softmax2d")
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings that turn by the longest row of the batch."""
PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


def unusual_parts(model: Model, remote: Remote) -> tuple[tuple[str, int], ...]:
    """What of a model is not of a known plain kind: descriptions, each with the identity of what it describes.

    Of a model on a server only its configuration is known here.
    """
    view = view_of(model)
    settings = vars(view.config).get("quantization_config")
    named = (("quantization_config", id(settings)),) if settings else ()
    return named if remote not in (False, "local") else (*named, *_parts(view.module))


def _parts(module: torch.nn.Module) -> Iterator[tuple[str, int]]:
    parts, plain_kinds = walked(module), dict[type, bool]()
    for name, part in parts:
        path, kind = name or type(part).__name__, type(part)
        if kind not in plain_kinds:
            plain_kinds[kind] = _is_plain_kind(kind)
        if not plain_kinds[kind] or not _is_plain(part):
            yield f"{path} ({kind.__module__}.{kind.__name__})", id(part)
        for key, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None and not _is_plain_tensor(tensor, parameter=key in part._parameters):
                yield f"{path}.{key} ({type(tensor).__name__}, {tensor.dtype})", id(tensor)
        hooks = (*part._forward_pre_hooks.values(), *part._forward_hooks.values(), *foreign_hook(part))
        yield from ((f"{path} (a hook)", id(hook)) for hook in hooks if not _is_harmless(hook))
    yield from ((f"{path} (replaced)", id(module)) for path in replaced_in(parts))
    yield from (("a global hook", id(hook)) for hook in global_hooks() if not _is_harmless(hook))


def _is_plain_kind(kind: type) -> bool:
    """Whether modules of a class compute each row, and each position where they are no attention, by themselves."""
    place = f"{kind.__module__}."
    known = place.startswith(PLAIN_LIBRARIES) and not place.startswith(NOT_PLAIN)
    return known and kind.__name__ not in NOT_PLAIN_CLASSES


def _is_plain(part: torch.nn.Module) -> bool:
    """Whether a module of such a class has no settings by which it does otherwise."""
    if isinstance(part, _NormBase) and hasattr(part, "running_mean"):
        per_batch = isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None
        return not per_batch
    own = vars(part)
    counts_batch = own.get("expert_capacity") is not None  # experts that drop what comes after they are full
    return not counts_batch and own.get("rope_type") not in LENGTH_DEPENDENT


def _is_plain_tensor(tensor: torch.Tensor, *, parameter: bool) -> bool:
    wide = not parameter or (tensor.is_floating_point() and tensor.element_size() > 1)
    return type(tensor) in PLAIN_TENSORS and wide and not tensor.is_quantized


# hooks that only watch ---------------------------------------------------------------------------

_HARMLESS_CALLS = frozenset({"append", "add", "update", "extend"})
_CALLS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_STEPS = frozenset(
    (
        *("RESUME", "COPY_FREE_VARS", "MAKE_CELL", "NOP", "CACHE", "PRECALL", "PUSH_NULL", "POP_TOP", "CALL"),
        *("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_METHOD", "LOAD_ATTR"),
        *("RETURN_VALUE", "RETURN_CONST", "BUILD_TUPLE", "BUILD_LIST"),
    )
)
"""Instructions of a function that does nothing but call methods of what lies around it."""


def _is_harmless(hook: Any) -> bool:
    """Whether a hook is one of transformers' own, or watches without a change: `lambda *_: calls.append(1)`.

    Only what its bytecode shows to be so: it calls methods that collect things, and what is passed on is what it was
    given.
    """
    if getattr(hook, "__module__", None) == CAPTURING:
        return True
    function = hook.__func__ if isinstance(hook, MethodType) else hook
    if not isinstance(function, FunctionType):
        return False
    steps = [step for step in dis.get_instructions(function) if step.opname != "CACHE"]
    if any(step.opname not in _STEPS and not step.opname.startswith("LOAD_FAST") for step in steps):
        return False
    loads = [step.argval for step in steps if step.opname in ("LOAD_METHOD", "LOAD_ATTR")]
    calls = sum(step.opname in _CALLS for step in steps)
    ends = [_gives_nothing(steps, at) for at, step in enumerate(steps) if step.opname.startswith("RETURN")]
    return _HARMLESS_CALLS.issuperset(loads) and calls <= len(loads) and all(ends)


def _gives_nothing(steps: list[dis.Instruction], at: int) -> bool:
    """Whether what is returned is None: the constant, or what a method that collects things returns."""
    if steps[at].opname == "RETURN_CONST":
        return steps[at].argval is None
    before = steps[at - 1]
    return before.opname == "CALL" or (before.opname == "LOAD_CONST" and before.argval is None)
