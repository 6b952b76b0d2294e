"""Prompts: an encoding, and which token is what.

A `Prompt` has one or several *rows* (the batch of one encoding). Groups of tokens are named as
people speak of them: `prompt["image"]`, `prompt["query"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from ..errors import SpecError
from ..families import view_of
from ..grids import Box, Grid, grid_of
from .token_map import TokenMap, Where
from .token_roles import rows_of
from .token_text import tokenizer_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """An encoding of one or several rows, and which token is what.

    Attributes:
        inputs: keyword arguments for `model.trace(**prompt.inputs)` and `model.generate(...)`.
        rows: one `TokenMap` per row of the encoding.
        images: the pictures of each row as the user gave them; empty for ready encodings.
        model: the nnsight model that the encoding was made for.
    """

    inputs: Mapping[str, Any]
    rows: tuple[TokenMap, ...]
    images: tuple[tuple[Image.Image, ...], ...] = ()
    model: Any = field(repr=False)

    def __len__(self) -> int:
        """How many rows the encoding has."""
        return len(self.rows)

    def __getitem__(self, group: Where) -> tuple[int, ...]:
        """Absolute positions of a token group, sorted.

        Raises:
            SpecError: unknown group, or the rows differ (then ask `prompt.row(i)`).
        """
        found = {row.ranges(group).positions(row.stop) for row in self.rows}
        if len(found) > 1:
            raise SpecError(f"the {len(self)} rows have {group!r} in different places; write prompt.row(0)[{group!r}]")
        return found.pop()

    def row(self, number: int) -> Prompt:
        """One row of the encoding as a prompt of its own, its padding taken off.

        Raises:
            SpecError: there is no such row.
        """
        if not 0 <= number < len(self):
            raise SpecError(f"no row {number}: the prompt has {len(self)} row(s)")
        row = self.rows[number]
        alone = len(self) == 1 and row.start == 0 and row.stop == self.width
        return self if alone else _only_row(self, number)

    @property
    def width(self) -> int:
        """Length of the sequence, padding included."""
        return len(self.rows[0].tokens)

    @property
    def text(self) -> str:
        """The prompt as the tokenizer spells it, every image an empty line (one row)."""
        return self._spelled()[0]

    def _single(self, what: str) -> TokenMap:
        if len(self) > 1:
            raise SpecError(f"{what} asks about one row and the prompt has {len(self)}; write prompt.row(0).{what}")
        return self.rows[0]

    def _spelled(self) -> tuple[str, list[tuple[int, ...]]]:
        """The text, and for each of its characters the positions of the tokens that spell it."""
        row = self._single("find(...)")
        pixels = {position for image in row.images for position in image}
        spoken = [*zip(range(-row.outside, 0), row.outside_tokens, strict=False), *enumerate(row.tokens)]
        spoken = [pair for pair in spoken if pair[0] < 0 or row.start <= pair[0] < row.stop]
        text, owners = "", list[tuple[int, ...]]()
        waiting = list[tuple[int, int]]()  # tokens since the last image, and how much of their text is written
        done = 0
        for position, token in spoken:
            if position in pixels:
                if position - 1 not in pixels:
                    text, owners = text + "\n", [*owners, (position,)]
                waiting, done = [], 0
                continue
            waiting.append((position, token))
            before, now = (self._decoded([t for _, t in waiting[:end]]) for end in (done, None))
            if len(now) > len(before):
                text += now[len(before) :]
                owners += [tuple(p for p, _ in waiting[done:])] * (len(now) - len(before))
                done = len(waiting)
        return text, owners

    def _decoded(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without a last character of which only some bytes are there."""
        return str(tokenizer_of(self.model).decode(list(tokens), clean_up_tokenization_spaces=False)).rstrip("\ufffd")

    def find(self, words: str, *, within: Where = "all", occurrence: int | None = None) -> tuple[int, ...]:
        """Positions of the tokens that spell `words`, every time they occur (or the n-th time only).

        Raises:
            SpecError: the words are not in the prompt, or not that often.
        """
        text, owners = self._spelled()
        everywhere = {owner for some in owners for owner in some}
        allowed = everywhere if within == "all" else set(self.rows[0].ranges(within).positions(self.width))
        places = [i for i in range(len(text)) if text.startswith(words, i) and _stands_alone(text, i, words)]
        hits = [sorted({p for c in range(i, i + len(words)) if text[c] != " " for p in owners[c]}) for i in places]
        hits = [hit for hit in hits if allowed.issuperset(hit)]
        if not words.strip() or not hits:
            raise SpecError(f"{words!r} is not in the prompt ({within!r}), which reads {text.strip()!r}")
        if occurrence is not None and not 0 <= occurrence < len(hits):
            raise SpecError(f"{words!r} occurs {len(hits)} time(s); occurrence={occurrence} counts from 0")
        chosen = hits if occurrence is None else [hits[occurrence]]
        return tuple(sorted({position for hit in chosen for position in hit}))

    def image(self, number: int = 0) -> Image.Image:
        """A picture as the user gave it.

        Raises:
            SpecError: there is no such picture, or the encoding came without pictures.
        """
        self._single("image(...)")
        pictures = self.images[0] if self.images else ()
        if not 0 <= number < len(pictures):
            raise SpecError(
                f"no picture {number}: the prompt holds {len(pictures)}; "
                "for a ready encoding write nv.encode(model, inputs=..., images=[...])"
            )
        return pictures[number]

    def grid(self, number: int = 0, stage: str = "decoder") -> Grid:
        """The image tokens of a picture and the pixels each of them saw.

        In a stage that reads patches through cross-attention (a Q-Former), these patches.

        Raises:
            SpecError: there is no such picture, or its tokens saw no one place.
        """
        picture, row = self.image(number), self._single("grid(...)").stage(stage)
        kind = view_of(self.model).family
        if not row.cells[number].shapes:
            raise SpecError(
                f"the image tokens of {kind.name!r} models saw no one place of the picture: {kind.limitations['grid']}"
            )
        layout = kind.stages[stage].keys or kind.grid
        return grid_of(self.model, layout, row.cells[number], row.images[number], picture.size)

    def region(self, box: Box, image: int = 0, stage: str = "decoder") -> tuple[int, ...]:
        """Image tokens whose patch touches the pixel box `(x0, y0, x1, y1)` of a picture.

        Raises:
            SpecError: no patch does; parts of a picture may have been cropped away.
        """
        found = self.grid(image, stage).tokens_in(box)
        if not found:
            raise SpecError(
                f"the box {tuple(box)} touches no patch of the picture, whose size is {self.image(image).size}"
            )
        return found

    def grown(self, tokens: Sequence[int]) -> Prompt:
        """The prompt with the model's answer behind it (one row): `["generated"]` finds it."""
        self._single("grown(...)")
        return self.grown_rows([list(tokens)])

    def grown_rows(self, tokens: Sequence[Sequence[int]]) -> Prompt:
        """The same for several rows, each with as many tokens, `[row, token]`."""
        row, inputs = view_of(self.model).family, dict(self.inputs)
        more = torch.tensor([list(line) for line in tokens], dtype=torch.long, device=inputs[row.tokens].device)
        more = more.reshape(len(self), -1)
        for name, value in inputs.items():
            if name == row.tokens:
                inputs[name] = torch.cat([value, more], dim=1)
            elif name == "position_ids":
                following = 1 + torch.arange(more.shape[1], device=value.device)
                inputs[name] = torch.cat([value, value[..., -1:] + following], dim=-1)
            elif row.tokens == "input_ids" and counts_tokens(self, name):
                inputs[name] = torch.cat([value, _following(value, name, row.grown, more.shape[1])], dim=1)
        rows = tuple(
            replace(row, tokens=row.tokens + tuple(line), stop=row.stop + len(line))
            for row, line in zip(self.rows, tokens, strict=True)
        )
        return replace(self, inputs=inputs, rows=rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBatch(Prompt):
    """A prompt of several rows: what `encode` gives for several texts, and `stack` for several prompts.

    A type of its own so that a type checker knows what `nv.run` and `nv.generate` give for it.
    """


def make_prompt(
    model: Any, inputs: Mapping[str, Any], rows: tuple[TokenMap, ...], images: tuple[tuple[Image.Image, ...], ...] = ()
) -> Prompt:
    """A `Prompt`, or a `PromptBatch` where there are several rows."""
    kind = Prompt if len(rows) == 1 else PromptBatch
    return kind(inputs=inputs, rows=rows, images=images, model=model)


def counts_tokens(prompt: Prompt, name: str) -> bool:
    """Whether an input holds something for every token, `[row, token, ...]`."""
    value, ids = prompt.inputs[name], prompt.inputs["input_ids"]
    counted = name not in view_of(prompt.model).family.inputs and isinstance(value, torch.Tensor)
    return counted and value.shape[:2] == ids.shape


def _following(value: torch.Tensor, name: str, grown: Mapping[str, int], length: int) -> torch.Tensor:
    """What an input says of tokens that the model has written: what it said of the last one, or a number."""
    last = value[:, -1:].expand(-1, length, *value.shape[2:])
    if name == "attention_mask" or value.dim() > 2:
        return last
    return torch.full_like(last, grown.get(name, 0))


def _stands_alone(text: str, start: int, words: str) -> bool:
    before, after = text[start - 1 : start], text[start + len(words) : start + len(words) + 1]
    return not (before.isalnum() and words[:1].isalnum()) and not (after.isalnum() and words[-1:].isalnum())


def _only_row(prompt: Prompt, number: int) -> Prompt:
    row, known = prompt.rows[number], view_of(prompt.model).family
    read = row if known.tokens == "input_ids" else row.stage("encoder")
    inputs = dict[str, Any]()
    for name, value in prompt.inputs.items():
        if name in known.inputs:
            start, stop = (
                sum(_leading(known.inputs[name], r) for r in prompt.rows[:end]) for end in (number, number + 1)
            )
            inputs[name] = value[start:stop]
        elif name == "position_ids":
            inputs[name] = value[..., number : number + 1, row.start : row.stop]
        elif counts_tokens(prompt, name):
            inputs[name] = value[number : number + 1, read.start : read.stop]
        elif name == known.tokens:
            inputs[name] = value[number : number + 1]
        else:
            inputs[name] = value
    inputs = {name: value for name, value in inputs.items() if name not in known.inputs or (row.images and len(value))}
    alone = replace(row, tokens=row.tokens[: row.stop]).shifted(-row.start)
    if row.outside:
        alone = replace(rows_of(prompt.model, inputs)[0], answer=alone.answer)
    return Prompt(inputs=inputs, rows=(alone,), images=prompt.images[number : number + 1], model=prompt.model)


def _leading(kind: str, row: TokenMap) -> int:
    """How many entries of an input belong to a row; see `Family.inputs`."""
    return {"row": 1, "image": len(row.images), "piece": sum(cells.pieces for cells in row.cells)}[kind]
