"""Answers that hold a token which stands for pixels.

Where an answer is generated with a cache, such a token is a word like others: the forward that reads it is given no
pixels, and takes its own embedding. A forward of the whole sequence is given them, and would put an image feature in
its place: other states than the answer was made with, or one feature too many, where transformers fails. So such a
prompt is refused before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..errors import SpecError
from ..families import Model, view_of
from .token_text import spell

if TYPE_CHECKING:
    from .prompt import Prompt


class SaidToken(NamedTuple):
    """A token of an answer: its row, its position, and its id."""

    row: int
    position: int
    token: int


def said_pixel_tokens(prompt: Prompt) -> Iterator[SaidToken]:
    """The tokens of a prompt's answers in whose place its model puts image features."""
    pixel_tokens = view_of(prompt.model).pixel_tokens
    for number, row in enumerate(prompt.rows):
        for position in range(row.answer, row.stop):
            if row.tokens[position] in pixel_tokens:
                yield SaidToken(number, position, row.tokens[position])


def has_pixels(prompt: Prompt) -> bool:
    """Whether a prompt has a picture or a video, in any of its rows."""
    return any(name in prompt.inputs for name in view_of(prompt.model).family.inputs)


def _replaced_in(*prompts: Prompt) -> frozenset[int]:
    """The tokens in whose place a forward of these prompts puts features: of images, of videos, where it has any."""
    view, given = view_of(prompts[0].model), {name for prompt in prompts for name in prompt.inputs}
    video, of_videos = view.video_token, set(view.family.inputs_of_videos)
    replaced = set(view.pixel_tokens)
    if not given.intersection(view.family.inputs).difference(of_videos):
        replaced &= {video}
    return frozenset(replaced if given & of_videos else replaced - {video})


def refuse_said_pixel_tokens(*prompts: Prompt) -> None:
    """Refuse prompts that run together, if one has a picture and one has grown by such a token.

    Raises:
        SpecError: naming the token, and how it is kept from being said.
    """
    replaced = _replaced_in(*prompts)
    for said, grown in ((said, prompt) for prompt in prompts for said in said_pixel_tokens(prompt)):
        if said.token not in replaced:
            continue
        answered = said.position - grown.rows[said.row].answer
        raise SpecError(
            f"the answer in this prompt holds {_named(grown.model, said.token)} at position {said.position}, and a "
            "forward of the whole sequence would put an image feature in its place, where cached generation read a "
            f"word. Cut the answer before it, prompt.grown(answer[:{answered}]), or {_unsaid(grown.model)}"
        )


class PixelTokenWatch:
    """Ends a generation that runs the whole sequence for every token, and has said such a token.

    Args:
        prompt: what is generated from.
        length: how long the sequence is once no forward follows.
    """

    def __init__(self, prompt: Prompt, length: int) -> None:
        self._model, self._length, self._replaced = prompt.model, length, _replaced_in(prompt)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """For each row, whether it shall stop: never."""
        for token in input_ids[:, -1].tolist() if input_ids.shape[1] < self._length else ():
            if token in self._replaced:
                raise SpecError(
                    f"the model has said {_named(self._model, token)}, and without a cache every token runs the whole "
                    "sequence, in which an image feature would be put in its place. Generate with the cache, leave "
                    f"use_cache out, or {_unsaid(self._model)}"
                )
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _named(model: Model, token: int) -> str:
    return f"the token {spell(model, token)!r} ({token}), which stands for pixels,"


def _unsaid(model: Model) -> str:
    return f"keep it from being said, nv.generate(..., suppress_tokens={list(view_of(model).pixel_tokens)})"
