"""The models of background jobs: described on disk, loaded again by name, compared with one that is handed over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..families import view_of
from ..identity import configuration_digest, differences, resolved
from ..loading import load
from .value_table import TORCH_DTYPES, refuse_code

LOADED_ELSEWHERE = {
    *("attn_implementation", "dtype", "torch_dtype", "revision"),
    *("device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage", "quantization_config"),
    *("token", "cache_dir", "local_files_only", "use_safetensors"),
}
"""Options of `nv.load` that are kept by other means, or only say where and how weights lie on this computer."""
ATTENTION = re.compile(r"\w+")
"""An attention implementation of transformers itself; others are repositories, whose code transformers would run."""
KEYS = {"name", "path", "revision", "dtype", "attention", "configuration"}
"""What a file says of a model: the name is loaded, as the server knows it; the others are compared."""
ALWAYS_COMPARED = ("revision", "dtype", "attention")


def describe_model(model: Any) -> dict[str, Any]:
    """What is needed to load a model again, and to know it: name, path, revision, dtype, attention, configuration.

    Raises:
        SpecError: more would be needed, or what a file may not ask for.
    """
    view = view_of(model)
    if view.edits:
        raise SpecError(
            "a job on disk cannot hold a model with edits of its own; give the model that it was made from, and "
            "compose what the edits do with |"
        )
    if not isinstance(model.repo_id, str) or not model.repo_id:
        raise SpecError(
            "a job on disk cannot hold a model that was made in memory, because nothing could load it again; load it "
            "by its name on the hub or by its folder, nv.load(name), or wait for the result (blocking=True)"
        )
    refuse_code(name for name, value in model.kwargs.items() if value)
    others = {name for name, value in model.kwargs.items() if value} - LOADED_ELSEWHERE - {"trust_remote_code"}
    if others or getattr(model, "peft", None) is not None:
        raise SpecError(
            f"a job on disk cannot hold a model that was loaded with {', '.join(sorted(others)) or 'peft'}=; wait for "
            "the result (blocking=True)"
        )
    attention = model.kwargs.get("attn_implementation") or view.attention_implementation
    _refuse_changed_configuration(model)
    description = {
        "name": model.repo_id,
        "path": resolved(model.repo_id),
        "revision": model.revision,
        "dtype": str(view.dtype).removeprefix("torch."),
        "attention": attention,
        "configuration": configuration_digest(view.config, view.generation_config),
    }
    check_description(description)
    return description


def check_description(description: Mapping[str, Any]) -> None:
    """Refuse a description that asks for more than a plain model.

    Raises:
        SpecError: saying what.
    """
    refuse_code(description)
    attention = description.get("attention")
    parts = attention.values() if isinstance(attention, dict) else [attention]
    plain = all(isinstance(part, str) and ATTENTION.fullmatch(part) for part in parts)
    named = all(isinstance(description.get(key), str) for key in ("name", "path", "dtype", "configuration"))
    named = named and isinstance(description.get("revision"), (str, type(None)))
    if set(description) != KEYS or not named or not plain:
        raise SpecError(
            f"a job on disk cannot hold a model described as {dict(description)!r}; it is loaded by name, revision, "
            "dtype and one of transformers' own attention implementations"
        )
    if description["dtype"] not in TORCH_DTYPES:
        raise SpecError(f"a job on disk names the dtype {description['dtype']!r}, which torch has not got")


def load_described(description: Mapping[str, Any]) -> Any:
    """A model by its description, without weights and without any code of its repository.

    Raises:
        SpecError: it cannot be loaded in this way.
    """
    options = {"revision": description["revision"]} if description["revision"] else {}
    try:
        return load(
            description["name"],
            dispatch=False,
            dtype=TORCH_DTYPES[description["dtype"]],
            attn_implementation=description["attention"],
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # of transformers, the hub or the file system
        raise SpecError(
            f"the job's model {description['name']!r} cannot be loaded by its name alone ({error}); load it yourself, "
            "and write nv.remote.resume(path, model=model)"
        ) from error


def require_described(model: Any, description: Mapping[str, Any]) -> None:
    """Refuse a model that is not the one of a job: name (or path), revision, dtype and attention must be equal.

    Where the job's model was a folder that is gone, a model from another path is taken if its configuration is equal.

    Raises:
        SpecError: naming what differs.
    """
    given = describe_model(model)
    expected = {**description, "revision": description["revision"] or "main"}
    given["revision"] = given["revision"] or "main"
    moved = Path(description["path"]).is_absolute() and not Path(description["path"]).is_dir()
    compared = ("configuration" if moved and given["path"] != description["path"] else "path", *ALWAYS_COMPARED)
    for key in compared:
        if given[key] != expected[key]:
            raise SpecError(
                f"the job is about {description['name']!r}, with the {key} {expected[key]!r}, and the given model "
                f"{given['name']!r} has {given[key]!r}; give the job's own model, or leave model= out"
            )


def _refuse_changed_configuration(model: Any) -> None:
    """Refuse a model whose configuration was changed after it was loaded: loading it by its name would lose that.

    What cannot be read on this computer is not compared.

    Raises:
        SpecError: naming what was changed.
    """
    from transformers import AutoConfig, GenerationConfig

    view = view_of(model)
    options = {"revision": model.revision, "cache_dir": model.kwargs.get("cache_dir"), "local_files_only": True}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        config = AutoConfig.from_pretrained(model.repo_id, trust_remote_code=False, **options)
    except (OSError, ValueError):
        return
    try:
        generation = GenerationConfig.from_pretrained(model.repo_id, **options)
    except OSError:  # the checkpoint has no defaults of its own
        generation = GenerationConfig.from_model_config(config)
    changed = [
        name
        for own, stored in ((view.config, config), (view.generation_config, generation))
        for name in differences(own, stored)
    ]
    if changed:
        raise SpecError(
            f"a job on disk cannot hold a model whose configuration was changed after it was loaded "
            f"({', '.join(changed)}), because loading it by its name would lose that; give these settings to the call "
            "itself, save the model under another name, or wait for the result (blocking=True)"
        )
