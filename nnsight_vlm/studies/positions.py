"""What single tokens are called in a table, so that the same token of several prompts is one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..prompts.prompt import Prompt
from .token_sets import spell_token


class NamedPosition(NamedTuple):
    """A token, and what a table calls it."""

    label: str
    position: int


def named_positions(prompt: Prompt, groups: Sequence[str]) -> Iterator[NamedPosition]:
    """The tokens of some groups, each once, in the order of the prompt.

    A text token is called by its place from the end of the prompt and its text, `"-2 cross"` (-1 is the last token):
    prompts of equal text agree in both, and where texts differ, different tokens are different rows. An image token is
    called by its image and its cell in the grid, `"image.0 3,4"` with the row first, and with the tile before it where
    there are several, `"image.0 1:3,4"`; a token without a cell by its number in the image, `"image.0 #7"`.

    Args:
        prompt: of one row.
        groups: names of groups.
    """
    tokens = prompt.rows[0]
    cells = dict(_image_tokens(prompt))
    for position in sorted({position for group in groups for position in prompt[group]}):
        place = str(position - tokens.stop) if position >= 0 else f"outside {position}"
        yield NamedPosition(cells.get(position, f"{place} {spell_token(prompt, position)}"), position)


def _image_tokens(prompt: Prompt) -> Iterator[tuple[int, str]]:
    """The position and the name of every image token."""
    tokens = prompt.rows[0]
    for image, (positions, cells) in enumerate(zip(tokens.images, tokens.cells, strict=True)):
        several = len(cells.shapes) > 1
        for number, position in enumerate(positions):
            tile, row, column = map(int, cells.places[number]) if cells.shapes else (-1, -1, -1)
            cell = f"{tile}:{row},{column}" if several else f"{row},{column}"
            yield position, f"image.{image} {cell if tile >= 0 else f'#{number}'}"
