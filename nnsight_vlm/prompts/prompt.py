"""Prompts: an encoding, and which token is what.

A `Prompt` has one or several rows (the batch of one encoding). Groups of tokens are named by what they are:
`prompt["image"]`, `prompt["query"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

from PIL import Image

from ..arguments import spelled, text, whole_number
from ..errors import SpecError
from ..families import VISION, Model, view_of
from ..grids import Box, Grid, VideoGrid, grid_kind, grid_of, video_grid_of
from .carried import check_growing, check_rows
from .display import prompt_html, prompt_line
from .inputs import Inputs
from .pickling import KnowsItsModel
from .prompt_words import PromptWords
from .row_inputs import answer_ids, answers_given, grown_inputs, row_input
from .shown_pictures import check_pictures
from .stage_maps import stage_map, with_earlier_stages
from .token_map import TokenMap
from .token_roles import token_maps
from .turns import speaking, spoken
from .video_sources import Frames, Videos
from .where import Where, as_tuples


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prompt(KnowsItsModel, PromptWords):
    """An encoding, and which token is what. It has one row; a `PromptBatch`, which is a `Prompt` too, has several.

    It is copied and pickled without its model, which is found again where it is loaded.

    Attributes:
        inputs: keyword arguments for `model.trace(**prompt.inputs)` and `model.generate(...)`, a mapping that cannot be
            written to; see `Inputs`.
        rows: a `TokenMap` for each row of the encoding.
        images: the pictures of each row as the user gave them; empty for an encoding without pictures.
        videos: the frames of each row's videos, as the model is shown them; empty for an encoding without.
        model: the nnsight model that the encoding was made for.
    """

    inputs: Mapping[str, Any]
    rows: tuple[TokenMap, ...]
    images: tuple[tuple[Image.Image, ...], ...] = ()
    videos: Videos = ()
    model: Model

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Inputs):
            object.__setattr__(self, "inputs", Inputs(dict(self.inputs)))

    def __repr__(self) -> str:
        return prompt_line(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return prompt_html(self)

    def __len__(self) -> int:
        """How many rows the encoding has."""
        return len(self.rows)

    def __getitem__(self, group: Where) -> tuple[int, ...]:
        """Absolute positions of a token group, sorted; none where the prompt has no such tokens.

        Raises:
            SpecError: there is no such group, or its positions differ between rows (then ask `prompt.row(i)`).
        """
        return self.positions(group)

    def positions(self, group: Where, stage: str = "decoder") -> tuple[int, ...]:
        """Positions of a token group in a stage, sorted; none where it has no such tokens.

        Those of `"vision"` count the tower's tokens of all pictures and tiles, one sequence after the other, in the
        order in which its layers hold them. Its groups are `image`, `image.0`, `cls`, `registers` and `all`; and
        `filling`, where patches read tokens that are none (Mllama).

        Raises:
            SpecError: there is no such group or stage, or its positions differ between rows (then ask `prompt.row(i)`).
        """
        group, stage = as_tuples(group), text("stage", stage)
        maps = self.rows if stage == "decoder" else [stage_map(self.model, tokens, stage) for tokens in self.rows]
        positions = {tokens.ranges(group).positions(tokens.stop) for tokens in maps}
        if len(positions) > 1:
            raise SpecError(
                f"{group!r} is at different positions in the {len(self)} rows; write prompt.row(0)[{group!r}]"
            )
        return positions.pop()

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Every group's name and positions; none for a group without tokens in this prompt. See `TokenMap.ranges`.

        `system`, `image`, `video`, `markup`, `query` and `generated` part the prompt; all others are views of it.

        Raises:
            SpecError: positions differ between rows (then ask `prompt.row(i)`).

        >>> import nnsight_vlm as nv
        >>> prompt = nv.encode(nv.load("shapes"), "what is red ?", nv.shapes.scene(3).image)
        >>> prompt.groups["query"], prompt.groups["question"], prompt.groups["markup"]
        ((114, 115, 116, 117, 118, 119), (115, 116, 117, 118), ())
        """
        by_row = [
            {name: tokens.group(name).positions(tokens.stop) for name in tokens.group_names} for tokens in self.rows
        ]
        differing = [name for name in by_row[0] if any(row.get(name) != by_row[0][name] for row in by_row)]
        if differing or len({len(row) for row in by_row}) > 1:
            what = f"the group {differing[0]!r} is" if differing else "images, videos or turns are"
            raise SpecError(f"{what} at different positions in the {len(self)} rows; write prompt.row(0).groups")
        return by_row[0]

    def row(self, number: int) -> Prompt:
        """One row of the encoding as a prompt of its own, without padding.

        Raises:
            SpecError: there is no such row, or an input of which nothing says what belongs to it.
        """
        if not 0 <= (number := whole_number("number", number, kind="number of a row")) < len(self):
            raise SpecError(f"no row {number}: the prompt has {len(self)} row(s), counted from 0")
        tokens = self.rows[number]
        is_unpadded = tokens.start == 0 and tokens.stop == self.width
        return self if len(self) == 1 and is_unpadded else _single_row(self, number)

    @property
    def width(self) -> int:
        """Length of the sequence, padding included."""
        return len(self.rows[0].tokens)

    def image(self, number: int = 0) -> Image.Image:
        """A picture as the user gave it (one row only).

        Raises:
            SpecError: there is no such picture, or the encoding was given without pictures.
        """
        self._only_row("image(...)")
        pictures = self.images[0] if self.images else ()
        if not 0 <= (number := whole_number("number", number, kind="number of a picture")) < len(pictures):
            instead = "for a ready encoding write nv.encode(model, inputs=..., images=[...])"
            if self.videos and self.videos[0]:
                instead = "its videos are prompt.video(0) and prompt.grid(video=0)"
            raise SpecError(f"no picture {number}: the prompt holds {len(pictures)}; {instead}")
        return pictures[number]

    def video(self, number: int = 0) -> Frames:
        """The frames of a video, as the model is shown them (one row only).

        Raises:
            SpecError: there is no such video, or the encoding was given without videos.
        """
        self._only_row("video(...)")
        videos = self.videos[0] if self.videos else ()
        if not 0 <= (number := whole_number("number", number, kind="number of a video")) < len(videos):
            raise SpecError(
                f"no video {number}: the prompt holds {len(videos)}; "
                "for a ready encoding write nv.encode(model, inputs=..., videos=[...])"
            )
        return videos[number]

    @overload
    def grid(self, number: int = 0, stage: str = "decoder", *, video: None = None) -> Grid: ...
    @overload
    def grid(self, *, video: int) -> VideoGrid: ...
    def grid(self, number: int = 0, stage: str = "decoder", *, video: int | None = None) -> Grid:
        """The image tokens of a picture and the pixels that each of them saw (one row only).

        It is measured with the processor, as the processor is now.

        Args:
            number: which picture.
            stage: `"vision"` has the grid of the tower's patches, a Q-Former that of the patches that it reads.
            video: in place of both, which video: a `VideoGrid`, whose tokens also have frames.

        Raises:
            SpecError: there is no such picture, video or stage, or each of the tokens read the whole picture; the
                processor makes other pixels of the pictures than the prompt has.
        """
        if video is not None:
            return self._video_grid(video, number, stage)
        picture, view = self.image(number), view_of(self.model)
        tokens = stage_map(self.model, self._only_row("grid(...)"), text("stage", stage))
        if not tokens.cells[number].shapes:
            raise SpecError(
                f"image tokens of {view.family.name!r} models have no box in the picture: "
                f"{view.family.limitations['grid']}"
            )
        check_pictures(self)
        return grid_of(view, grid_kind(view, stage), tokens.cells[number], tokens.images[number], picture)

    def _video_grid(self, video: int, number: int, stage: str) -> VideoGrid:
        if number != 0 or stage not in ("decoder", VISION):
            raise SpecError("a picture and a video were named; write prompt.grid(0), or prompt.grid(video=0)")
        frames, tokens = self.video(video), stage_map(self.model, self._only_row("grid(...)"), stage)
        cells, positions = tokens.video_cells[video], tokens.videos[video]
        return video_grid_of(view_of(self.model), cells, positions, frames, of_patches=stage == VISION)

    def region(
        self,
        box: Box,
        image: int = 0,
        stage: str = "decoder",
        *,
        video: int | None = None,
        frame: int | None = None,
    ) -> tuple[int, ...]:
        """Tokens whose patch touches the pixel box `(x0, y0, x1, y1)` of a picture (one row only).

        Args:
            box: in pixels.
            image, stage: see `grid`.
            video: in place of them, which video: its tokens that touch the box in any frame.
            frame: only those that show this frame of the video, counted from 0.

        Raises:
            SpecError: no patch does; parts of a picture may have been cropped away.
        """
        if frame is not None and video is None:
            raise SpecError(f"frame={spelled(frame)} is one of a video; write prompt.region(box, video=0, frame=...)")
        grid = self.grid(image, stage) if video is None else self._video_grid(video, image, stage)
        grid = grid.frame(frame) if isinstance(grid, VideoGrid) and frame is not None else grid
        positions = grid.tokens_in(box)
        if not positions:
            raise SpecError(f"the box {spelled(box)} touches no patch of the picture, whose size is {grid.size}")
        return positions

    def grown(self, tokens: Sequence[int]) -> Self:
        """The prompt followed by an answer, which is then its group `"generated"` (one row only).

        Raises:
            SpecError: there are several rows, or an input of which nothing says what it is at new tokens.
        """
        self._only_row("grown(...)")
        return self.grown_rows([answer_ids(self.model, "tokens", tokens)])

    def grown_rows(self, answers: Sequence[Sequence[int]]) -> Self:
        """The prompt with an answer after each row, `[row, token]`; all answers are equally long.

        An input `[row, token, ...]` of the caller's own is at new tokens what it is at the last token.

        Raises:
            SpecError: see `grown`.
        """
        check_growing(self)
        answers = answers_given(self, answers)
        inputs = grown_inputs(self, answers)
        rows = tuple(
            replace(tokens, tokens=tokens.tokens + answer, stop=tokens.stop + len(answer))
            for tokens, answer in zip(self.rows, answers, strict=True)
        )
        return replace(self, inputs=inputs, rows=rows)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PromptBatch(Prompt):
    """A prompt of several rows: what `encode` gives for several texts, and `stack` for several prompts.

    It is a type of its own so that a type checker knows what `nv.run` and `nv.generate` give for it.
    """


def make_prompt(
    model: Model,
    inputs: Mapping[str, Any],
    rows: tuple[TokenMap, ...],
    images: tuple[tuple[Image.Image, ...], ...] = (),
    videos: Videos = (),
) -> Prompt | PromptBatch:
    """A `Prompt`, or a `PromptBatch` where there are several rows."""
    kind = Prompt if len(rows) == 1 else PromptBatch
    return kind(inputs=inputs, rows=rows, images=images, videos=videos, model=model)


def _single_row(prompt: Prompt, number: int) -> Prompt:
    """One row of a prompt without padding."""
    check_rows(prompt, number)
    tokens, family = prompt.rows[number], view_of(prompt.model).family
    inputs = {name: row_input(prompt, name, number) for name in prompt.inputs}
    inputs = {
        name: value
        for name, value in inputs.items()
        if name not in family.inputs or (tokens.visuals and len(value))  # no empty pixels for a row without images
    }
    unpadded = replace(tokens, tokens=tokens.tokens[: tokens.stop]).shifted(-tokens.start)
    if tokens.outside:  # how many keys lie outside the sequence depends on the longest row of a batch
        said = spoken(tokens).mapped(lambda ranges: ranges.shifted(-tokens.start))
        made = token_maps(prompt.model, inputs, [unpadded.answer])[0]
        unpadded = speaking(replace(made, answer=unpadded.answer), said)
    [unpadded] = with_earlier_stages(view_of(prompt.model), inputs, [unpadded])
    own = slice(number, number + 1)
    return Prompt(
        inputs=inputs, rows=(unpadded,), images=prompt.images[own], videos=prompt.videos[own], model=prompt.model
    )
