"""Loading a model as a plain nnsight model, ready for images."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from nnsight import TransformersModel
from torch.overrides import TorchFunctionMode

from .checkpoints import matching_weights
from .errors import SpecError
from .families import Model, check_attention, family_of, view_of
from .families.model_view import name_local_folder
from .shapes.model import CHECKPOINTS, checkpoint
from .versions import complaint

TASK = "image-text-to-text"
HUB_OPTIONS = ("revision", "token", "trust_remote_code")
"""The options that say which files of a repository are read, and how."""


def load(model: str | torch.nn.Module, *, processor: Any = None, dispatch: bool = True, **options: Any) -> Model:
    """Load a vision-language model as a plain `nnsight.TransformersModel`.

    Args:
        model: a name on the Hugging Face hub, a local folder, a transformers model in memory, or `"shapes"` or
            `"shapes-gist"`, the small trained models inside the package.
        processor: the model's processor; where a name or folder is given, it is loaded from there by default. With a
            model in memory it may be left out if prompts come from ready encodings only.
        dispatch: load the weights now. `False` builds the model without weights, for remote runs; the first run on this
            machine loads them.
        options: passed to transformers (`device_map`, `dtype`, `attn_implementation`, ...), for a model that is loaded
            from files.

    Raises:
        SpecError: the model's family is not in the table, or its attention implementation takes no mask; weights in the
            files are not those of the model; options that say how files are loaded, beside a model in memory; a version
            of transformers, torch, nnsight, pandas or numpy that was not tested.

    >>> load("shapes").config.model_type
    'llava'
    """
    if wrong := complaint():
        raise SpecError(wrong)
    attention = options.get("attn_implementation") or "sdpa"
    if isinstance(attention, str):  # otherwise one for each part of the model; `view_of` checks the decoder's
        check_attention(attention)
    with warnings.catch_warnings():
        # nnsight renames a Q-Former's modules called `output` to `E_output`, and the family table uses that name
        warnings.filterwarnings("ignore", message=".*has a submodule named 'output'.*")
        if isinstance(model, torch.nn.Module):
            _refuse_for_memory({**options, **({} if dispatch else {"dispatch": dispatch})})
            loaded = _in_memory(model, processor)
        else:
            loaded = _from_name(model, processor, dispatch, options)
    view_of(loaded)
    return loaded


def _refuse_for_memory(options: dict[str, Any]) -> None:
    """Refuse options beside a model in memory, which would have no effect."""
    if options:
        name, value = next(iter(options.items()))
        raise SpecError(
            f"{name}={value!r} says how a model is loaded, and this one is in memory already; leave it out, and make "
            "the model so, AutoModelForImageTextToText.from_pretrained(...)"
        )


def _in_memory(module: Any, processor: Any) -> Model:
    family_of(module.config)
    # nnsight looks for a processor on the hub if there is none, so it is given an empty object while it loads
    loaded = TransformersModel(module, task=TASK, processor=processor or SimpleNamespace())
    loaded.processor = processor
    return loaded


def _from_name(name: str, processor: Any, dispatch: bool, options: dict[str, Any]) -> Model:
    from transformers import AutoConfig, AutoProcessor

    if name in CHECKPOINTS:
        if "revision" in options:
            raise SpecError(f"the model {name!r} is part of this package and has no revisions; leave revision= out")
        name, options = str(checkpoint(name)), {"dtype": torch.float32, **options}  # the files hold float16
    hub_options = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    family_of(AutoConfig.from_pretrained(name, **hub_options))
    processor = processor or AutoProcessor.from_pretrained(name, **hub_options)
    if Path(name).is_dir():
        name_local_folder(name)
    if dispatch:
        with matching_weights(name):
            return TransformersModel(name, task=TASK, processor=processor, dispatch=True, **options)
    with _RealLinspace():
        loaded = TransformersModel(name, task=TASK, processor=processor, dispatch=False, **options)
    _set_generation_defaults(loaded, name, hub_options)
    return loaded


def _set_generation_defaults(model: Model, name: str, hub_options: dict[str, Any]) -> None:
    """Give a model without weights the generation defaults of its checkpoint.

    Such a model is built from config.json alone, which may define other end-of-sequence tokens than
    generation_config.json.
    """
    from transformers import GenerationConfig

    place = {key: value for key, value in hub_options.items() if key != "trust_remote_code"}
    with suppress(OSError):  # the checkpoint has no generation_config.json
        view_of(model).generation_config = GenerationConfig.from_pretrained(name, **place)


class _RealLinspace(TorchFunctionMode):
    """Lets `torch.linspace` return values while a model is built without weights.

    nnsight then makes all tensors without values (on the meta device), but constructors of some vision towers
    (Florence-2's) read rates of stochastic depth from `torch.linspace(..., device="cpu")`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **(kwargs | {"device": "cpu"} if func is torch.linspace else kwargs))
