"""Folders that hold an adapter only, and name the model that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from .files import Checkpoint, can_import


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained changes of a model's weights (LoRA and the like), in a folder or repository of their own.

    Attributes:
        source: the folder or repository, and which files of it are read.
        base: the model that they change.
    """

    source: Checkpoint
    base: str

    @property
    def name(self) -> str:
        """The folder or repository."""
        return self.source.name

    def add_to(self, module: Any) -> None:
        """Put the adapter into a transformers model, switched on.

        Raises:
            SpecError: its weights are not for this model.
        """
        from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict

        where = {key: value for key, value in self.source.hub.items() if key != "trust_remote_code"}
        config = PeftConfig.from_pretrained(self.name, **where)
        if config.is_prompt_learning:
            raise SpecError(
                f"the adapter {self.name!r} puts tuned prompts in front of the text, which no token map knows of; only "
                "adapters that change weights (LoRA and the like) can be loaded"
            )
        module.add_adapter(config)
        weights = load_peft_weights(self.name, device="cpu", **where)
        result: Any = set_peft_model_state_dict(module, weights)
        own = [name for name in result.missing_keys if ".lora_" in name or ".modules_to_save." in name]
        strange = [*result.unexpected_keys, *own]
        if strange:
            raise SpecError(
                f"the adapter {self.name!r} does not fit the model {self.base!r}: {len(strange)} of its weights have "
                f"other names ({strange[0]!r}); load it with the model that it was trained on"
            )
        module.eval()


def adapter_of(checkpoint: Checkpoint) -> Adapter | None:
    """The adapter in a folder or repository without a config.json of its own; None where it holds a model.

    Raises:
        SpecError: the package peft is missing, or the adapter does not say what it changes.
    """
    if checkpoint.read("config.json"):
        return None
    config = checkpoint.read("adapter_config.json")
    if not config:
        return None
    base = config.get("base_model_name_or_path")
    if not base:
        raise SpecError(f"the adapter {checkpoint.name!r} names no base_model_name_or_path in adapter_config.json")
    if checkpoint.folder is not None and not checkpoint.has("adapter_model.*"):
        raise SpecError(
            f"the folder {checkpoint.name!r} has an adapter's config and no weights, adapter_model.safetensors"
        )
    if not can_import("peft"):
        raise SpecError(
            f"{checkpoint.name!r} holds an adapter of the model {base!r}, which needs the package 'peft'; pip install "
            "peft"
        )
    return Adapter(source=checkpoint, base=str(base))
