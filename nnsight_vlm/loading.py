"""Loading a model as a plain nnsight model, ready for images."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from nnsight import TransformersModel
from nnsight.modeling.huggingface import _ID_CACHE as KNOWN_NAMES
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoProcessor, GenerationConfig

from .families import check_attention, family_of, view_of
from .shapes.model import CHECKPOINTS, checkpoint

TASK = "image-text-to-text"


def load(
    model: str | torch.nn.Module, *, processor: Any = None, dispatch: bool = True, **options: Any
) -> TransformersModel:
    """A vision-language model as a plain `nnsight.TransformersModel`.

    Args:
        model: a hub name, a local folder, a transformers model in memory, or `"shapes"` /
            `"shapes-gist"`, the small trained models inside the package.
        processor: the model's processor; loaded with the model when a name is given. With a model
            in memory it may be left out where only ready encodings are used.
        dispatch: load the weights now. `False` builds the model without weights, for remote runs.
        options: handed to transformers (`device_map`, `dtype`, `attn_implementation`, ...).

    Raises:
        SpecError: the family has no row, or its attention hides the mask.

    >>> load("shapes").config.model_type
    'llava'
    """
    attention = options.get("attn_implementation") or "sdpa"
    if isinstance(attention, str):  # else one for each part of the model: `family` sees what the decoder got
        check_attention(attention)
    with warnings.catch_warnings():
        # a Q-Former's modules called `output` are `E_output` in nnsight, and in our table
        warnings.filterwarnings("ignore", message=".*has a submodule named 'output'.*")
        if isinstance(model, torch.nn.Module):
            loaded = _in_memory(model, processor, options)
        else:
            loaded = _from_name(model, processor, dispatch, options)
    view_of(loaded)
    return loaded


def _in_memory(module: Any, processor: Any, options: dict[str, Any]) -> TransformersModel:
    family_of(module.config)
    # without a processor nnsight would look for one on the hub: a blank stands in while it loads
    loaded = TransformersModel(module, task=TASK, processor=processor or SimpleNamespace(), **options)
    loaded.processor = processor
    return loaded


def _from_name(name: str, processor: Any, dispatch: bool, options: dict[str, Any]) -> TransformersModel:
    if name in CHECKPOINTS:
        name, options = str(checkpoint(name)), {"dtype": torch.float32, **options}  # the files hold float16
    where = {key: options[key] for key in ("revision", "token", "trust_remote_code") if key in options}
    family_of(AutoConfig.from_pretrained(name, **where))
    processor = processor or AutoProcessor.from_pretrained(name, **where)
    if Path(name).is_dir():
        KNOWN_NAMES[name] = name  # a server that sees the folder knows the model by it; the hub is not asked
    if dispatch:
        return TransformersModel(name, task=TASK, processor=processor, dispatch=True, **options)
    with _RealNumbers():
        loaded = TransformersModel(name, task=TASK, processor=processor, dispatch=False, **options)
    with suppress(OSError):  # a model without weights is made from its config alone, which may name other last words
        place = {key: value for key, value in where.items() if key != "trust_remote_code"}
        loaded._module.generation_config = GenerationConfig.from_pretrained(name, **place)
    return loaded


class _RealNumbers(TorchFunctionMode):
    """Without weights nnsight makes every tensor one without values, also those that constructors read numbers from.

    Vision towers take their rates of dropped paths from `torch.linspace(..., device="cpu")` (Florence-2's).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **(kwargs | {"device": "cpu"} if func is torch.linspace else kwargs))
