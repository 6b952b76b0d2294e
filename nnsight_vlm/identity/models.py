"""What makes two models the same, two prompts the same, and so two journals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SpecError
from ..families import ModelView, view_of
from .modules import foreign_hook, module_states, replaced_methods
from .values import setting_digest
from .weights import files_digest, weights_digest

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt

NOT_OF_THE_MODEL = ("dtype", "torch_dtype", "_attn_implementation", "transformers_version", "_name_or_path")
"""Parts of a configuration that say how or from where a model was loaded, not what it computes."""
NOT_OF_ANY_RUN = ("transformers_version", "_name_or_path", "_from_model_config")
"""Parts of configurations on which no number depends; the name of a model is compared by itself."""
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth")
CAPTURING = "transformers.utils.output_capturing"
"""The module of hooks that transformers itself registers in a model's first run; they change no number."""
_GLOBAL_HOOKS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


def same_model(one: Any, other: Any) -> bool:
    """Whether prompts of one model may be run by the other.

    So it is for two views of one module, with or without edits; and for models of one name (where both have one) and
    one configuration, whatever their dtype and attention implementation, loaded or not.
    """
    first, second = view_of(one), view_of(other)
    if first.module is second.module:
        return True
    names = {name for name in (config_name(first), config_name(second)) if name}
    return len(names) < 2 and _architecture(first) == _architecture(second)


def config_name(view: ModelView) -> str:
    """The repository or absolute path that a model was loaded from; empty for one built in memory."""
    return resolved(str(getattr(view.config, "_name_or_path", "") or ""))


def resolved(name: str) -> str:
    """The name of a model, with the absolute path of a folder in its place."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def architecture_digest(view: ModelView) -> str:
    """A short name for a model's configuration, whatever its dtype and attention and wherever it was loaded from."""
    return setting_digest(_architecture(view))


def _architecture(view: ModelView) -> str:
    return json.dumps(_without(view.config.to_dict(), NOT_OF_THE_MODEL), sort_keys=True, default=str)


def _without(part: Any, names: Sequence[str]) -> Any:
    """A configuration without some of its entries, at any depth."""
    if isinstance(part, dict):
        return {key: _without(value, names) for key, value in part.items() if key not in names}
    return [_without(value, names) for value in part] if isinstance(part, (list, tuple)) else part


def configuration_digest(config: Any, generation: Any) -> str:
    """A short name for the configurations of a model and of its generation, whatever its dtype and attention."""
    return setting_digest([_ordered(_comparable(config)), _ordered(_comparable(generation))])


def differences(one: Any, other: Any) -> list[str]:
    """The names of the entries in which two configurations differ, those of dtype and attention left out."""
    first, second = _comparable(one), _comparable(other)
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]


def _comparable(config: Any) -> dict[str, Any]:
    names = (*NOT_OF_THE_MODEL, *NOT_OF_ANY_RUN, "quantization_config")
    comparable: dict[str, Any] = _without(config.to_dict(), names) if config else {}
    return comparable


# models ---------------------------------------------------------------------------------------


def model_digest(model: Any) -> str:
    """A short name for a model: equal only where its numbers are equal, in any process.

    It holds the repository or path, the revision, the configurations of the model and of its generation, the attention
    implementation, the active adapters, the class and plain attributes of every module, and a digest of all weights and
    buffers with their names (see `weights`). Of a model whose weights were never loaded, repository and revision stand
    for them, and for one in a local folder also the content of its files. Hooks, edits and methods that were
    replaced on a module are not in it (journals refuse them), nor are the processor and tokenizer, whose work is in the
    prompts.

    Raises:
        SpecError: weights that were never loaded, of a model without a name; or weights that cannot be read.
    """
    view = view_of(model)
    weights, loaded = weights_digest(view.module)
    name, revision = _source(view)
    if not loaded and not name:
        raise SpecError(
            "this model has neither weights nor a name, so nothing tells it from another one of its architecture; "
            'load it by its name, nv.load("llava-hf/llava-1.5-7b-hf", dispatch=False), or with its weights'
        )
    configs = [view.config.to_dict(), view.generation_config.to_dict() if view.generation_config else {}]
    return setting_digest(
        {
            "name": name,
            "revision": revision,
            "configs": [_ordered(_without(config, NOT_OF_ANY_RUN)) for config in configs],
            "attention": view.attention_implementation,
            "adapters": [getattr(model, "peft", None), *_active_adapters(view.module)],
            "modules": list(module_states(view.module)),
            "weights": weights,
            "files": () if loaded else _files(name),
        }
    )


def _source(view: ModelView) -> tuple[str, list[str]]:
    """The repository or absolute path of a model, and its revision: as asked for, and the commit that this was."""
    repository = getattr(view.model, "repo_id", None)
    name = repository if isinstance(repository, str) and repository else config_name(view)
    revisions = [getattr(view.model, "revision", None), getattr(view.config, "_commit_hash", None)]
    return resolved(name), [revision if isinstance(revision, str) else "" for revision in revisions]


def _files(name: str) -> list[tuple[str, str]]:
    """Name and digest of the weights' files, of a model in a local folder."""
    folder = Path(name)
    paths = sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)) if folder.is_dir() else []
    return files_digest(paths)


def _ordered(part: Any) -> Any:
    """A configuration with its entries in one order."""
    if isinstance(part, dict):
        return {key: _ordered(part[key]) for key in sorted(part, key=str)}
    return [_ordered(value) for value in part] if isinstance(part, (list, tuple)) else part


def _active_adapters(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """For each layer that peft made: which adapters are active, merged and switched off, and how they are scaled."""
    for name, part in module.named_modules():
        if hasattr(part, "_active_adapter"):
            state = [getattr(part, each, None) for each in ("_active_adapter", "_disable_adapters", "merged_adapters")]
            yield name, [*state, _ordered(getattr(part, "scaling", None))]


# prompts --------------------------------------------------------------------------------------


def prompt_digest(prompt: Prompt) -> str:
    """A short name for a prompt: its family, what every token is, all inputs, and its pictures.

    Raises:
        SpecError: an input that is no plain value or tensor.
    """
    family = view_of(prompt.model).family.name
    inputs = {name: prompt.inputs[name] for name in sorted(prompt.inputs)}
    return setting_digest([family, prompt.rows, inputs, prompt.images, prompt.videos])


# journals -------------------------------------------------------------------------------------


def journal_digest(
    version: int, name: str, model: Any, prompts: Sequence[Prompt | str], settings: Mapping[str, Any]
) -> str:
    """A short name for a recipe's model, prompts (or their digests) and settings: equal only where its rows are equal.

    Raises:
        SpecError: something has no identity outside this process: hooks, edits, a lambda or closure in the settings, a
            model without weights and name.
    """
    _require_plain(view_of(model))
    parts = [str(version), name, model_digest(model), *_precision(view_of(model))]
    parts += [prompt if isinstance(prompt, str) else prompt_digest(prompt) for prompt in prompts]
    for setting, value in settings.items():
        try:
            parts += [setting, setting_digest(value)]
        except SpecError as error:
            raise SpecError(
                f"{setting}= cannot be kept in a journal: {error}; or keep no journal, Work(journal=None)"
            ) from error
    return setting_digest(parts)[:16]


def _precision(view: ModelView) -> list[str]:
    """What autocast makes of the model's numbers here and now; nothing where it is off."""
    device = view.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return []
    return [f"autocast {torch.get_autocast_dtype(device)}"]


def _require_plain(view: ModelView) -> None:
    """Refuse a model with hooks, edits, or methods that were replaced on one of its modules.

    Raises:
        SpecError: naming what, and what to write.
    """
    hooks = [*view.hooks, *_other_hooks(view.module)]
    users = [hook for hook in hooks if getattr(hook, "__module__", None) != CAPTURING]
    if users:
        raise SpecError(
            f"the model has {len(users)} hook(s), and a journal cannot tell what they do to its rows; take them off, "
            "handle.remove(), or keep no journal, Work(journal=None)"
        )
    if view.edits:
        raise SpecError(
            f"the model has {len(view.edits)} edit(s), and a journal cannot tell what they do to its rows; give the "
            "model that nv.install or model.edit() was called on, or keep no journal, Work(journal=None)"
        )
    replaced = list(replaced_methods(view.module))
    if replaced:
        raise SpecError(
            f"the model has {len(replaced)} replaced method(s), such as {replaced[0]}, and a journal cannot tell what "
            "they do to its rows; load the model anew, or keep no journal, Work(journal=None)"
        )


def _other_hooks(module: torch.nn.Module) -> Iterator[Any]:
    """Hooks on gradients, and hooks on all modules of this process."""
    for part in module.modules():
        yield from part._backward_pre_hooks.values()
        yield from part._backward_hooks.values()
        yield from foreign_hook(part)
    yield from global_hooks()


def global_hooks() -> Iterator[Any]:
    """Hooks that act on every module of this process."""
    for name in _GLOBAL_HOOKS:
        yield from getattr(torch.nn.modules.module, f"_global_{name}").values()
