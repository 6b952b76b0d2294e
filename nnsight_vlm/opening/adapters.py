"""Folders that hold an adapter only, and name the model that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from .files import Checkpoint, is_installed


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained changes of a model's weights (LoRA and the like), in a folder or repository of their own.

    Attributes:
        name: the folder or repository.
        base: the model that they change.
    """

    name: str
    base: str

    def add_to(self, module: Any) -> None:
        """Put the adapter into a transformers model, switched on.

        Raises:
            SpecError: its weights are not for this model.
        """
        from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict

        config = PeftConfig.from_pretrained(self.name)
        if config.is_prompt_learning:
            raise SpecError(
                f"the adapter {self.name!r} puts tuned prompts in front of the text, which no token map knows of; only "
                "adapters that change weights (LoRA and the like) can be loaded"
            )
        module.add_adapter(config)
        weights = load_peft_weights(self.name, device="cpu")
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
    if checkpoint.folder is not None and checkpoint.has("config.json"):
        return None
    config = checkpoint.read("adapter_config.json")
    if not config or checkpoint.read("config.json"):
        return None
    base = config.get("base_model_name_or_path")
    if not base:
        raise SpecError(f"the adapter {checkpoint.name!r} names no base_model_name_or_path in adapter_config.json")
    if not is_installed("peft"):
        raise SpecError(
            f"{checkpoint.name!r} holds an adapter of the model {base!r}, which needs the package 'peft'; pip install "
            "peft"
        )
    return Adapter(name=checkpoint.name, base=str(base))
