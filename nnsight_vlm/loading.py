"""Loading a model as a plain nnsight model, ready for images."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from nnsight import TransformersModel
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from .arguments import flag, refuse
from .errors import SpecError
from .families import Model, check_attention, family_of, view_of
from .families.model_view import name_local_folder
from .families.weights import matching_weights
from .opening.adapters import Adapter, adapter_of
from .opening.files import Checkpoint, inside
from .opening.hub import refuse_unreachable
from .opening.on_arrays import take_tensors
from .opening.options import HUB_OPTIONS, part_options, placed
from .opening.processors import processor_of, with_settings
from .opening.refusals import cause, config_of, refuse_folder, refuse_name
from .opening.unwritten import fill_unwritten
from .opening.wrapped import run_uncompiled, unwrapped
from .shapes.embedded import EMBEDDED, checkpoint
from .versions import complaint

TASK = "image-text-to-text"
NOT_LOADED = (ValueError, OSError, ImportError, AttributeError, AssertionError, UnpicklingError, SafetensorError)
"""What transformers raises where files are broken, an option has no such value, or a device is not there."""


def load(model: str | Path | torch.nn.Module, *, processor: Any = None, dispatch: bool = True, **options: Any) -> Model:
    """Load a vision-language model as a plain `nnsight.TransformersModel`.

    Args:
        model: a name on the Hugging Face hub, a local folder (of a model, or of an adapter that names its base), a
            transformers model in memory (plain, or wrapped by PEFT or `torch.compile`; it runs uncompiled), or
            `"shapes"`, `"shapes-gist"` or `"shapes-smol"`, the small trained models of this package (the last one
            needs a language model that is installed apart).
        processor: the model's processor; where a name or folder is given, it is loaded from there by default. With a
            model in memory it may be left out if prompts come from ready encodings only.
        dispatch: load the weights now. `False` builds the model without weights, for remote runs; the first run on this
            machine loads them.
        options: for a model that is loaded from files: those of transformers (`device_map`, `dtype`,
            `attn_implementation`, ...; which files are read, `revision`, `subfolder`, `cache_dir`, `local_files_only`,
            `token`, holds for the processor too), and the settings that its processor has for pictures (`min_pixels`,
            ...).

    Raises:
        SpecError: the model's family is not in the table, or its attention implementation takes no mask; files that are
            missing, or that transformers cannot open here, each with what to write or install; weights in the files
            that are not those of the model; an option that nobody knows, and any beside a model in memory; a version of
            transformers, torch, nnsight, pandas or numpy that was not tested.

    >>> load("shapes").config.model_type
    'llava'
    """
    if wrong := complaint():
        raise SpecError(wrong)
    _check_given(model, processor)
    dispatch = flag("dispatch", dispatch)
    attention = options.get("attn_implementation") or "sdpa"
    parts = attention if isinstance(attention, dict) else {"": attention}  # one for each part of the model
    for part in ("", "text_config"):
        if isinstance(parts.get(part), str):
            check_attention(parts[part])
    with warnings.catch_warnings():
        # nnsight renames a Q-Former's modules called `output` to `E_output`, and the family table uses that name
        warnings.filterwarnings("ignore", message=".*has a submodule named 'output'.*")
        if isinstance(model, torch.nn.Module):
            _refuse_for_memory({**options, **({} if dispatch else {"dispatch": dispatch})})
            loaded = _in_memory(model, processor)
        else:
            loaded = _from_name(str(model), processor, dispatch, options)
    view_of(loaded)
    return loaded


def _check_given(model: Any, processor: Any) -> None:
    """Refuse what is neither a name, a folder nor a transformers model, and a processor that is none."""
    if not isinstance(model, (str, Path, torch.nn.Module)):
        refuse("model", model, "model", 'a name, a folder, or a transformers model in memory: nv.load("shapes")')
    if processor is not None and (not callable(processor) or isinstance(processor, type)):
        refuse("processor", processor, "processor", "processor=AutoProcessor.from_pretrained(...)")


def _refuse_for_memory(options: dict[str, Any]) -> None:
    """Refuse options beside a model in memory, which would have no effect."""
    if options:
        name, value = next(iter(options.items()))
        raise SpecError(
            f"{name}={value!r} says how a model is loaded, and this one is in memory already; leave it out, and make "
            "the model so, AutoModelForImageTextToText.from_pretrained(...)"
        )


def _in_memory(given: Any, processor: Any) -> Model:
    module = unwrapped(given)
    if not hasattr(module, "config"):
        refuse("model", module, "transformers model", "nv.load(AutoModelForImageTextToText.from_pretrained(...))")
    run_uncompiled(module)
    family_of(module.config, module)
    # nnsight looks for a processor on the hub if there is none, so it is given an empty object while it loads
    loaded = TransformersModel(module, task=TASK, processor=processor or SimpleNamespace())
    loaded.processor = processor
    return loaded


def _from_name(name: str, processor: Any, dispatch: bool, options: dict[str, Any]) -> Model:
    if name in EMBEDDED:
        if "revision" in options:
            raise SpecError(f"the model {name!r} is part of this package and has no revisions; leave revision= out")
        name, options = str(checkpoint(name)), {"dtype": torch.float32, **options}  # the files hold float16
    refuse_name(name)
    name, options = inside(name, options)
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    source = Checkpoint(name=name, hub=hub)
    refuse_unreachable(source)
    adapter = adapter_of(source)
    if adapter is not None:
        return _with_adapter(adapter, processor, dispatch, options)
    refuse_folder(source, weights=dispatch, processor=processor is None)
    config = config_of(source)
    family_of(config)
    made = processor is None
    if made:
        processor = processor_of(source, config)
        fill_unwritten(processor, source, config)
        take_tensors(processor)
    settings, options = part_options(name, config, processor, options)
    if settings and not made:
        raise SpecError(f"{next(iter(settings))}= is not used beside processor=; make the processor so")
    processor = with_settings(processor, source, settings)
    options = placed(config, hub, options)
    if source.folder is not None:
        name_local_folder(name)
    if dispatch:
        with matching_weights(name):
            try:
                return TransformersModel(name, task=TASK, processor=processor, dispatch=True, **options)
            except SpecError:
                raise
            except NOT_LOADED as error:
                raise SpecError(f"{name!r} cannot be loaded: {cause(error)}") from error
    with _RealLinspace():
        loaded = TransformersModel(name, task=TASK, processor=processor, dispatch=False, **options)
    _set_generation_defaults(loaded, name, hub)
    return loaded


def _with_adapter(adapter: Adapter, processor: Any, dispatch: bool, options: dict[str, Any]) -> Model:
    """The model that an adapter was trained on, with the adapter."""
    if not dispatch:
        raise SpecError(
            f"{adapter.name!r} holds an adapter, which is put into weights that are there; leave dispatch=False out"
        )
    of_base = {name: value for name, value in options.items() if name not in ("revision", "subfolder")}  # the adapter's
    loaded = _from_name(adapter.base, processor, dispatch, of_base)
    module = view_of(loaded).module
    adapter.add_to(module)
    return _in_memory(module, loaded.processor)


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
