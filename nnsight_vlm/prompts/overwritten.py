"""Token ids and masks that were written to after a prompt was made.

Which token is what was read from them once, so that groups would name the tokens that were there before.
"""

from __future__ import annotations

import torch

from ..errors import SpecError
from ..families import view_of
from .prompt import Prompt
from .token_map import TokenMap


def refuse_overwritten(prompt: Prompt) -> None:
    """Refuse a prompt whose token ids or attention mask are no longer those that its groups were read from.

    Pixels may be written to: no group follows from them, and every call reads them anew.

    Raises:
        SpecError: naming the input, and what to write.
    """
    family = view_of(prompt.model).family
    ids, mask = prompt.inputs[family.tokens], prompt.inputs.get("attention_mask")
    if ids.tolist() != [list(tokens.tokens) for tokens in prompt.rows]:
        _refuse(family.tokens)
    if family.tokens == "input_ids" and isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
        rows = zip(mask, prompt.rows, strict=True)
        if any(_differs(row, tokens) for row, tokens in rows):
            _refuse("attention_mask")


def _differs(mask: torch.Tensor, tokens: TokenMap) -> bool:
    """Whether a row of the mask has ones elsewhere than from the first real token to the last."""
    length = tokens.stop - tokens.start
    return int(mask.count_nonzero()) != length or int(mask[tokens.start : tokens.stop].count_nonzero()) != length


def _refuse(name: str) -> None:
    raise SpecError(
        f"{name} was written to after the prompt was made, so its groups name the tokens that were there before; "
        "encode again, nv.encode(model, inputs={**prompt.inputs, ...})"
    )
