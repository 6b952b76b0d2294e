"""A prompt without the answer by which it was grown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..families import view_of
from .carried import counts_tokens
from .prompt import Prompt


def without_answer(prompt: Prompt) -> Prompt:
    """The prompt of one row that `grown` was called on; the same prompt where it holds no answer.

    >>> import torch, nnsight_vlm as nv
    >>> prompt = nv.encode(nv.load("shapes"), "what is red ?", nv.shapes.scene(3).image)
    >>> again = without_answer(prompt.grown([20, 21]))
    >>> all(torch.equal(again.inputs[name], prompt.inputs[name]) for name in prompt.inputs)
    True
    """
    tokens = prompt.rows[0]
    said = tokens.stop - tokens.answer
    if not said:
        return prompt
    family = view_of(prompt.model).family

    def grew(name: str) -> bool:
        of_tokens = family.tokens == "input_ids" and counts_tokens(prompt, name)
        return name in (family.tokens, "position_ids") or of_tokens

    inputs: dict[str, Any] = {
        name: value[..., :-said] if name == "position_ids" else value[:, :-said] if grew(name) else value
        for name, value in prompt.inputs.items()
    }
    own = replace(tokens, tokens=tokens.tokens[:-said], stop=tokens.answer)
    return replace(prompt, inputs=inputs, rows=(own,))
