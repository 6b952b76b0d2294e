"""Position ids, where a model must be told them: padded rows, and several copies in one sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..families import view_of
from .prompt import Prompt


def _in_order(prompt: Prompt) -> torch.Tensor:
    """Padding does not count."""
    return torch.as_tensor(prompt.inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)


def _of_images(prompt: Prompt) -> torch.Tensor:
    """`[3, row, token]`: time, height and width, as the model itself lays images out."""
    module = prompt.model._module.model
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    given: dict[str, Any] = {name: prompt.inputs.get(name) for name in names}
    return torch.as_tensor(module.get_rope_index(**given)[0])


POSITIONS: dict[str, Callable[[Prompt], torch.Tensor]] = {"sequence": _in_order, "mrope": _of_images}


def position_ids(prompt: Prompt) -> torch.Tensor:
    """The position ids that the model would count itself, `[row, token]` or `[3, row, token]`."""
    if "position_ids" in prompt.inputs:
        return torch.as_tensor(prompt.inputs["position_ids"])
    return POSITIONS[view_of(prompt.model).family.positions](prompt)


def padded_positions(prompt: Prompt) -> dict[str, torch.Tensor]:
    """Position ids for a forward of padded rows, as `generate` counts them; nothing where the model does."""
    known = "position_ids" in prompt.inputs or view_of(prompt.model).family.positions == "own"
    if known or bool(prompt.inputs["attention_mask"].all()):
        return {}
    return {"position_ids": position_ids(prompt)}
