"""Position ids, where a model must be given them: for padded rows, and for several variants in one sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..families import view_of
from ..families.options import PositionCounting
from .prompt import Prompt

SECONDS = "second_per_grid_ts"
"""The input that says how much time lies between two temporal patches of a video (Qwen2.5-VL)."""


def _in_order(prompt: Prompt) -> torch.Tensor:
    return torch.as_tensor(prompt.inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)


def _in_order_from_one(prompt: Prompt) -> torch.Tensor:
    """Counted from 1; logits are the same as from 0, and keys and queries are rotated by another angle (PaliGemma)."""
    return _in_order(prompt) + 1


def _of_images(prompt: Prompt) -> torch.Tensor:
    """Position ids of texts with pictures; a ready encoding of a text alone need not say of which type tokens are."""
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    given: dict[str, Any] = {name: prompt.inputs.get(name) for name in names}
    if given["mm_token_type_ids"] is None:
        given["mm_token_type_ids"] = torch.zeros_like(given["input_ids"])
    seconds = {SECONDS: prompt.inputs[SECONDS]} if SECONDS in prompt.inputs else {}
    return view_of(prompt.model).rope_index(given | seconds)


def _of_images_by_row(prompt: Prompt) -> torch.Tensor:
    """Each row's as if it were alone: the model goes on counting images from row to row (HunYuan-VL)."""
    if len(prompt) == 1:
        return _of_images(prompt)
    each = [_of_images(prompt.row(number))[:, 0] for number in range(len(prompt))]
    mask = prompt.inputs["attention_mask"]
    found = each[0].new_zeros((len(each[0]), *mask.shape))
    for number, (ids, tokens) in enumerate(zip(each, prompt.rows, strict=True)):
        found[:, number, tokens.start : tokens.stop] = ids
    return found


COUNTING: dict[PositionCounting, Callable[[Prompt], torch.Tensor]] = {
    "sequence": _in_order,
    "sequence from one": _in_order_from_one,
    "mrope": _of_images,
    "mrope by row": _of_images_by_row,
}
"""The functions that compute position ids; there is none for `"own"`."""


def position_ids(prompt: Prompt) -> torch.Tensor:
    """The position ids that the model would compute itself, `[row, token]` or `[3, row, token]`."""
    if "position_ids" in prompt.inputs:
        return torch.as_tensor(prompt.inputs["position_ids"])
    return COUNTING[view_of(prompt.model).family.positions](prompt)


def passed_whole(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What `generate` is given beside position ids `[3, row, token]`; nothing beside `[row, token]`, or none.

    nnsight takes the first dimension of position ids for rows and splits all inputs by it, unless there is an input
    that has no rows. This one asks for the logits that generation takes anyway.
    """
    ids = inputs.get("position_ids")
    return {"logits_to_keep": torch.tensor([-1])} if ids is not None and ids.dim() > 2 else {}


def padded_positions(prompt: Prompt) -> dict[str, torch.Tensor]:
    """The input `position_ids` for a forward of padded rows, as `generate` would make it; none where the model does."""
    given = "position_ids" in prompt.inputs or view_of(prompt.model).family.positions == "own"
    if given or bool(prompt.inputs["attention_mask"].all()):
        return positions_by_row(prompt)
    return {"position_ids": position_ids(prompt)}


def positions_by_row(prompt: Prompt) -> dict[str, torch.Tensor]:
    """The input `position_ids` for several rows of a model whose own would be others than those of each row alone."""
    counting = view_of(prompt.model).family.positions
    if counting != "mrope by row" or len(prompt) == 1 or "position_ids" in prompt.inputs:
        return {}
    return {"position_ids": position_ids(prompt)}
