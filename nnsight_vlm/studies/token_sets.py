"""Sets of tokens that the recipes cut, patch and read, and the stage in which they have hidden states.

Positions are absolute. Tokens outside the decoder's sequence, which it reads through cross-attention (the image in
Mllama, image and question in encoder-decoders), have negative positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import SpecError
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap
from ..prompts.token_text import spell
from ..prompts.where import Where


class StagePositions(NamedTuple):
    """Tokens in the stage that has hidden states for them.

    Attributes:
        stage: `"decoder"` or `"encoder"`.
        positions: their positions in this stage's own sequence.
    """

    stage: str
    positions: tuple[int, ...]


def require(prompt: Prompt, where: Where) -> None:
    """Refuse to measure tokens that the prompt has not got; the answer's come with the run.

    Raises:
        SpecError: saying why there are none.
    """
    if where != "generated":
        prompt.rows[0].required(where)


def lies_outside(prompt: Prompt, where: Where) -> bool:
    """Whether any of the positions lies outside the decoder's sequence."""
    return any(start < 0 for start, _ in prompt.rows[0].ranges(where))


def owning_stage(prompt: Prompt, where: Where) -> StagePositions:
    """The stage that has hidden states for these positions.

    Raises:
        SpecError: no stage has any: the decoder reads these tokens as keys and values only; or there are no tokens.
    """
    require(prompt, where)
    tokens = prompt.rows[0]
    if not lies_outside(prompt, where):
        return StagePositions("decoder", prompt[where])
    if "encoder" not in dict(tokens.stages):
        raise SpecError(
            f"{where!r} lies outside the decoder's sequence, which only reads it through cross-attention, so it has no "
            "residual stream to patch; leave it out"
        )
    return StagePositions("encoder", tuple(position + tokens.outside for position in prompt[where]))


def same_axis_positions(prompt: Prompt, where: Sequence[int]) -> tuple[int, ...]:
    """All positions of the sequence that the given ones are in: the decoder's, the one outside it, or both."""
    outside = range(-prompt.rows[0].outside, 0) if any(position < 0 for position in where) else ()
    inside = prompt["all"] if any(position >= 0 for position in where) else ()
    return (*outside, *inside)


def non_image_tokens(tokens: TokenMap) -> tuple[int, ...]:
    """All positions of a sequence that are not tokens of images or videos."""
    everywhere = tokens.ranges("all").positions(tokens.stop)
    return tuple(position for position in everywhere if position not in tokens.visual_tokens)


def spell_token(prompt: Prompt, position: int) -> str:
    """The token at a position as a table shows it, without spaces around it."""
    tokens = prompt.rows[0]
    return spell(prompt.model, tokens.tokens[position] if position >= 0 else tokens.outside_tokens[position]).strip()
