"""Settings of processors that older checkpoints do not hold, and that follow from the model's config.

Before a processor wrote all of an image's tokens into a text, it had to know neither how many there are nor the size of
a patch, so files of that time do not say it. Without these numbers it fails when it is first called, or counts one
token too few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..families.columns import config_value
from .files import Checkpoint


def _patches(config: Any) -> int | None:
    """How many patches a picture of the vision tower's size has."""
    side, patch = (config_value(config, f"vision_config.{name}") for name in ("image_size", "patch_size"))
    return (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) else None


def _class_tokens(config: Any) -> int:
    """How many tokens the vision tower puts before the patches: CLIP puts one."""
    return int(config_value(config, "vision_config.model_type") == "clip_vision_model")


LLAVA: dict[str, Callable[[Any], Any]] = {
    "patch_size": lambda config: config_value(config, "vision_config.patch_size"),
    "vision_feature_select_strategy": lambda config: getattr(config, "vision_feature_select_strategy", "default"),
    "num_additional_image_tokens": _class_tokens,
}
QUERIES: dict[str, Callable[[Any], Any]] = {"num_query_tokens": lambda config: config.num_query_tokens}
UNWRITTEN: dict[str, Mapping[str, Callable[[Any], Any]]] = {
    "LlavaProcessor": LLAVA,
    "LlavaNextProcessor": LLAVA,
    "LlavaOnevisionProcessor": {
        "num_image_tokens": _patches,
        "vision_feature_select_strategy": lambda config: config.vision_feature_select_strategy,
    },
    "Blip2Processor": QUERIES,
    "InstructBlipProcessor": QUERIES,
}
"""For each class of processor its settings, and what they are by the model's config."""


def fill_unwritten(processor: Any, checkpoint: Checkpoint, config: Any) -> None:
    """Give a processor the settings that its checkpoint does not hold.

    Args:
        processor: as it was made of the checkpoint.
        checkpoint: where its files are; what they say stays.
        config: the config of the model.
    """
    written = checkpoint.read("processor_config.json")
    for name, value_in in UNWRITTEN.get(type(processor).__name__, {}).items():
        value = value_in(config)
        if name not in written and value is not None:
            setattr(processor, name, value)
