"""What makes two models, prompts or settings the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .families import ModelView, view_of
from .prompts.prompt import Prompt

NOT_OF_THE_MODEL = ("dtype", "torch_dtype", "_attn_implementation", "transformers_version", "_name_or_path")
"""Parts of a configuration that say how or from where a model was loaded, not what it computes."""


def same_model(one: Any, other: Any) -> bool:
    """Whether prompts of one model may be run by the other.

    It is so for one module, with or without edits; and for models of one name (where both have one) and configuration,
    whatever their dtype and attention implementation, with weights or without.
    """
    first, second = view_of(one), view_of(other)
    if first.module is second.module:
        return True
    names = {name for name in (_name(first), _name(second)) if name}
    return len(names) < 2 and _configuration(first) == _configuration(second)


def _name(view: ModelView) -> str:
    """The repository or folder that a model was loaded from; empty for one built in memory."""
    return str(getattr(view.config, "_name_or_path", "") or "")


def _configuration(view: ModelView) -> str:
    return json.dumps(_stripped(view.config.to_dict()), sort_keys=True, default=str)


def _stripped(part: Any) -> Any:
    if isinstance(part, dict):
        return {str(key): _stripped(value) for key, value in part.items() if key not in NOT_OF_THE_MODEL}
    return [_stripped(value) for value in part] if isinstance(part, (list, tuple)) else part


def journal_digest(version: int, name: str, model: Any, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> str:
    """A short name for a model, prompts and settings: equal only where the rows would be equal."""
    told = json.dumps([version, name, {key: spelled(value) for key, value in settings.items()}], sort_keys=True)
    found = hashlib.sha256(told.encode())
    found.update(model_digest(model).encode())
    for prompt in prompts:
        found.update(str(prompt.rows[0].tokens).encode())
        for key in sorted(prompt.inputs):
            if isinstance(prompt.inputs[key], torch.Tensor):
                found.update(prompt.inputs[key].detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def model_digest(model: Any) -> str:
    """A short name for a model's configuration and (from a few numbers of every matrix) its weights."""
    found = hashlib.sha256(view_of(model).config.to_json_string().encode())
    for name, parameter in view_of(model).module.named_parameters():
        found.update(name.encode())
        if parameter.device.type != "meta":
            found.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def spelled(value: Any) -> Any:
    """A setting as JSON can hold it; functions by name, pictures and masks by their bytes."""
    if isinstance(value, Mapping):
        return {str(key): spelled(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [spelled(part) for part in value]
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if hasattr(value, "__dataclass_fields__"):
        return {key: spelled(getattr(value, key)) for key in value.__dataclass_fields__}
    return getattr(
        value, "__qualname__", value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
    )


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's values."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def digest(*parts: Any) -> str:
    """A short name for what is asked: equal where everything in it is equal, in any process."""
    found = hashlib.sha256()
    slots: dict[int, int] = {}
    for piece in _pieces(parts, slots):
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()[:24]


def _pieces(value: Any, slots: dict[int, int]) -> Iterator[bytes]:
    """What a value is, piece by piece; slots, which are empty lists, by their order."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
    elif isinstance(value, list) and not value:
        yield f"slot {slots.setdefault(id(value), len(slots))}".encode()
    elif isinstance(value, Mapping):
        yield from _pieces([(name, value[name]) for name in sorted(value, key=str)], slots)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        listed = list(value)
        yield f"{len(listed)} of them".encode()
        for part in listed:
            yield from _pieces(part, slots)
    else:
        yield repr(getattr(value, "__qualname__", value)).encode()
