"""Prompts: an encoding, and which token is what.

A `Prompt` has one or several rows (the batch of one encoding). Groups of tokens are named by what they are:
`prompt["image"]`, `prompt["query"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from PIL import Image

from ..errors import SpecError
from ..families import Model, view_of
from ..families.options import Counted
from ..grids import Box, Grid, grid_of
from .stage_maps import with_query_stages
from .token_map import TokenMap, Where
from .token_roles import token_maps
from .token_text import prompt_text

ENTRIES: dict[Counted, Callable[[TokenMap], int]] = {
    "row": lambda _tokens: 1,
    "image": lambda tokens: len(tokens.images),
    "piece": lambda tokens: sum(cells.pieces for cells in tokens.cells),
}
"""How many entries of such an input belong to a row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """An encoding, and which token is what. It has one row; a `PromptBatch`, which is a `Prompt` too, has several.

    Attributes:
        inputs: keyword arguments for `model.trace(**prompt.inputs)` and `model.generate(...)`.
        rows: a `TokenMap` for each row of the encoding.
        images: the pictures of each row as the user gave them; empty for an encoding without pictures.
        model: the nnsight model that the encoding was made for.
    """

    inputs: Mapping[str, Any]
    rows: tuple[TokenMap, ...]
    images: tuple[tuple[Image.Image, ...], ...] = ()
    model: Model = field(repr=False)

    def __len__(self) -> int:
        """How many rows the encoding has."""
        return len(self.rows)

    def __getitem__(self, group: Where) -> tuple[int, ...]:
        """Absolute positions of a token group, sorted.

        Raises:
            SpecError: there is no such group, or its positions differ between rows (then ask `prompt.row(i)`).
        """
        positions = {tokens.ranges(group).positions(tokens.stop) for tokens in self.rows}
        if len(positions) > 1:
            raise SpecError(
                f"{group!r} is at different positions in the {len(self)} rows; write prompt.row(0)[{group!r}]"
            )
        return positions.pop()

    def row(self, number: int) -> Prompt:
        """One row of the encoding as a prompt of its own, without padding.

        Raises:
            SpecError: there is no such row.
        """
        if not 0 <= number < len(self):
            raise SpecError(f"no row {number}: the prompt has {len(self)} row(s), counted from 0")
        tokens = self.rows[number]
        is_unpadded = tokens.start == 0 and tokens.stop == self.width
        return self if len(self) == 1 and is_unpadded else _single_row(self, number)

    @property
    def width(self) -> int:
        """Length of the sequence, padding included."""
        return len(self.rows[0].tokens)

    @property
    def text(self) -> str:
        """The prompt's text, every image a line break (one row only)."""
        return prompt_text(self.model, self._only_row("text")).text

    def _only_row(self, asked: str) -> TokenMap:
        """The token map of a prompt of one row; `asked` names what the user asked for."""
        if len(self) > 1:
            raise SpecError(f"{asked} is for one row, and the prompt has {len(self)}; write prompt.row(0).{asked}")
        return self.rows[0]

    def find(self, words: str, *, within: Where = "all", occurrence: int | None = None) -> tuple[int, ...]:
        """Positions of the tokens that spell `words`, wherever they occur (one row only).

        Args:
            words: text as the prompt has it; not the middle of a longer word.
            within: the group or positions in which they must be.
            occurrence: take only this occurrence, counted from 0.

        Raises:
            SpecError: the words are not in the prompt, or not that often.
        """
        tokens = self._only_row("find(...)")
        written = prompt_text(self.model, tokens)
        if within == "all":  # also what is outside the sequence
            allowed = {position for positions in written.positions for position in positions}
        else:
            allowed = set(tokens.ranges(within).positions(self.width))
        matches = [positions for positions in written.occurrences(words) if allowed.issuperset(positions)]
        if not words.strip() or not matches:
            raise SpecError(f"{words!r} is not in the prompt ({within!r}), which reads {written.text.strip()!r}")
        if occurrence is not None and not 0 <= occurrence < len(matches):
            raise SpecError(f"{words!r} occurs {len(matches)} time(s); occurrence={occurrence} counts from 0")
        chosen = matches if occurrence is None else [matches[occurrence]]
        return tuple(sorted(set().union(*chosen)))

    def image(self, number: int = 0) -> Image.Image:
        """A picture as the user gave it (one row only).

        Raises:
            SpecError: there is no such picture, or the encoding was given without pictures.
        """
        self._only_row("image(...)")
        pictures = self.images[0] if self.images else ()
        if not 0 <= number < len(pictures):
            raise SpecError(
                f"no picture {number}: the prompt holds {len(pictures)}; "
                "for a ready encoding write nv.encode(model, inputs=..., images=[...])"
            )
        return pictures[number]

    def grid(self, number: int = 0, stage: str = "decoder") -> Grid:
        """The image tokens of a picture and the pixels that each of them saw (one row only).

        In a stage that reads patches through cross-attention (a Q-Former), the grid of these patches.

        Raises:
            SpecError: there is no such picture or stage, or each of the tokens read the whole picture.
        """
        picture, tokens = self.image(number), self._only_row("grid(...)").stage(stage)
        view = view_of(self.model)
        if not tokens.cells[number].shapes:
            raise SpecError(
                f"image tokens of {view.family.name!r} models have no box in the picture: "
                f"{view.family.limitations['grid']}"
            )
        layout = view.family.stages[stage].keys or view.family.grid
        return grid_of(view, layout, tokens.cells[number], tokens.images[number], picture.size)

    def region(self, box: Box, image: int = 0, stage: str = "decoder") -> tuple[int, ...]:
        """Image tokens whose patch touches the pixel box `(x0, y0, x1, y1)` of a picture (one row only).

        Raises:
            SpecError: no patch does; parts of a picture may have been cropped away.
        """
        positions = self.grid(image, stage).tokens_in(box)
        if not positions:
            raise SpecError(
                f"the box {tuple(box)} touches no patch of the picture, whose size is {self.image(image).size}"
            )
        return positions

    def grown(self, tokens: Sequence[int]) -> Self:
        """The prompt followed by an answer, which is then its group `"generated"` (one row only)."""
        self._only_row("grown(...)")
        return self.grown_rows([list(tokens)])

    def grown_rows(self, answers: Sequence[Sequence[int]]) -> Self:
        """The prompt with an answer after each row, `[row, token]`; all answers are equally long."""
        family, inputs = view_of(self.model).family, dict(self.inputs)
        ids = inputs[family.tokens]
        added = torch.tensor([list(answer) for answer in answers], dtype=torch.long, device=ids.device)
        added = added.reshape(len(self), -1)
        length = added.shape[1]
        for name, value in inputs.items():
            if name == family.tokens:
                inputs[name] = torch.cat([value, added], dim=1)
            elif name == "position_ids":
                following = 1 + torch.arange(length, device=value.device)
                inputs[name] = torch.cat([value, value[..., -1:] + following], dim=-1)
            elif family.tokens == "input_ids" and counts_tokens(self, name):
                extension = _at_generated_tokens(value, name, family.new_token_values, length)
                inputs[name] = torch.cat([value, extension], dim=1)
        rows = tuple(
            replace(tokens, tokens=tokens.tokens + tuple(answer), stop=tokens.stop + len(answer))
            for tokens, answer in zip(self.rows, answers, strict=True)
        )
        return replace(self, inputs=inputs, rows=rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBatch(Prompt):
    """A prompt of several rows: what `encode` gives for several texts, and `stack` for several prompts.

    It is a type of its own so that a type checker knows what `nv.run` and `nv.generate` give for it.
    """


def make_prompt(
    model: Model,
    inputs: Mapping[str, Any],
    rows: tuple[TokenMap, ...],
    images: tuple[tuple[Image.Image, ...], ...] = (),
) -> Prompt | PromptBatch:
    """A `Prompt`, or a `PromptBatch` where there are several rows."""
    kind = Prompt if len(rows) == 1 else PromptBatch
    return kind(inputs=inputs, rows=rows, images=images, model=model)


def counts_tokens(prompt: Prompt, name: str) -> bool:
    """Whether an input has an entry for every token, `[row, token, ...]`."""
    value, ids = prompt.inputs[name], prompt.inputs["input_ids"]
    may_count = name not in view_of(prompt.model).family.inputs and isinstance(value, torch.Tensor)
    return may_count and value.shape[:2] == ids.shape


def _at_generated_tokens(
    value: torch.Tensor, name: str, new_token_values: Mapping[str, int], length: int
) -> torch.Tensor:
    """The entries of an input at generated tokens: those of the last token, or the value that the family has."""
    last = value[:, -1:].expand(-1, length, *value.shape[2:])
    if name == "attention_mask" or value.dim() > 2:
        return last
    return torch.full_like(last, new_token_values.get(name, 0))


def _single_row(prompt: Prompt, number: int) -> Prompt:
    """One row of a prompt without padding."""
    tokens, family = prompt.rows[number], view_of(prompt.model).family
    inputs = {name: _row_input(prompt, name, number) for name in prompt.inputs}
    inputs = {
        name: value
        for name, value in inputs.items()
        if name not in family.inputs or (tokens.images and len(value))  # no empty pixels for a row without images
    }
    unpadded = replace(tokens, tokens=tokens.tokens[: tokens.stop]).shifted(-tokens.start)
    if tokens.outside:  # how many keys lie outside the sequence depends on the longest row of a batch
        unpadded = replace(token_maps(prompt.model, inputs)[0], answer=unpadded.answer)
    [unpadded] = with_query_stages(view_of(prompt.model), inputs, [unpadded])
    return Prompt(inputs=inputs, rows=(unpadded,), images=prompt.images[number : number + 1], model=prompt.model)


def _row_input(prompt: Prompt, name: str, number: int) -> Any:
    """The part of an input that belongs to a row, without padding."""
    value, tokens, family = prompt.inputs[name], prompt.rows[number], view_of(prompt.model).family
    if name in family.inputs:
        entries = [ENTRIES[family.inputs[name]](row_tokens) for row_tokens in prompt.rows]
        start = sum(entries[:number])
        return _without_padded_question(prompt, name, value[start : start + entries[number]], number)
    if name == "position_ids":
        return value[..., number : number + 1, tokens.start : tokens.stop]
    if counts_tokens(prompt, name):
        padded = tokens if family.tokens == "input_ids" else tokens.stage("encoder")
        return value[number : number + 1, padded.start : padded.stop]
    return value[number : number + 1] if name == family.tokens else value


def _without_padded_question(prompt: Prompt, name: str, value: torch.Tensor, number: int) -> torch.Tensor:
    """A row's part of an input; of a question that a stage reads, without the padding behind it.

    Padding before it stays: it is part of what the model computes, because places are counted from it.
    """
    for stage in view_of(prompt.model).family.stages.values():
        if stage.text and name in (stage.text, stage.text_mask):
            real = prompt.inputs[stage.text_mask][number].nonzero()
            return value[:, : int(real.max()) + 1] if len(real) else value
    return value
