"""The token map: which token of one row is what.

A prompt has one `TokenMap` for every row of its encoding. Groups are found here by their names; positions travel
between the modules of the package as `Ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from ..errors import SpecError
from ..grids import Cells
from .conversation import READY, Conversation, is_role_group
from .ranges import NOWHERE, Ranges, moved
from .visuals import IMAGE, VIDEO, Visual, frames_of, is_numbered, numbered_group, numbered_names, shown_in, stretch_of
from .where import MaskedPositions, Where, as_tuples, missing_stage, require_number

PARTS = ("system", "image", "video", "markup", "query", "generated")
"""The groups that part a prompt: each of its tokens is in exactly one of them, and padding in none."""
VIEWS = ("question", "text", "last", "first", "bos", "all")
"""Groups that are views of it: their tokens are in one of `PARTS` too."""


def is_group(name: str) -> bool:
    """Whether some text is the name of a group that a prompt can have."""
    return name in (*PARTS, *VIEWS) or is_numbered(name) or is_role_group(name)


@dataclass(frozen=True, kw_only=True, repr=False)
class TokenMap:
    """Which token of one row is what.

    Attributes:
        tokens: token ids, padding included.
        start: position of the first real token.
        stop: one past the last real token.
        answer: where the model's own words begin; equal to `stop` until the prompt has grown.
        images: positions of each image's tokens.
        videos: positions of each video's tokens.
        bos: position of the token that opens the text, wherever it stands, if there is one.
        outside: how many keys lie outside the sequence; their positions are `-outside .. -1`.
        outside_tokens: their token ids, where they are tokens.
        marks: positions of the tokens by which text begins to read images outside the sequence: the token that stands
            for each of them, or all with which a decoder begins that reads an encoder. They are `markup`: text tokens,
            which read the image as other text does.
        readers: how many of the first tokens read what lies outside; None for all.
        blocks: tokens that see each other in both directions, block by block.
        windows: the same of those layers whose queries see their window only; empty where there are none.
        borders: tokens before and behind images that are in a block with them; they are `markup`.
        features: for each of `visuals` and its tokens their row in the projector's output, -1 for none; empty where
            these rows are the tokens in order.
        feature_rows: how many rows the projector's output has for this row's images and videos.
        named: groups that lie elsewhere than the order of the tokens says.
        stages: the token map of each stage that runs before the decoder.
        row: of a stage, the row of the stage's own batch in which this sequence runs.
        rows: of a stage, how many rows that batch has.
        key_grid: of a stage whose keys are a picture that is padded to the largest of the batch, `(rows, columns)` of
            patches that it is padded to.
        padding: places before `stop` that are padding all the same; no query reads them.
        cells: how the tokens of each image lie on its tiles.
        video_cells: the same of each video, whose tiles are times.
        conversation: who says what. It follows from how the row was encoded, not from what the encoding holds, so rows
            with equal encodings are equal.
    """

    tokens: tuple[int, ...]
    start: int
    stop: int
    answer: int
    images: tuple[tuple[int, ...], ...]
    videos: tuple[tuple[int, ...], ...] = ()
    bos: int | None = None
    outside: int = 0
    outside_tokens: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    readers: int | None = None
    blocks: tuple[Ranges, ...] = ()
    windows: tuple[Ranges, ...] = ()
    borders: Ranges = NOWHERE
    features: tuple[tuple[int, ...], ...] = ()
    feature_rows: int = 0
    named: tuple[tuple[str, Ranges], ...] = ()
    stages: tuple[tuple[str, TokenMap], ...] = ()
    cells: tuple[Cells, ...] = ()
    video_cells: tuple[Cells, ...] = ()
    row: int = 0
    rows: int = 1
    key_grid: tuple[int, int] | None = None
    padding: tuple[int, ...] = ()
    conversation: Conversation = field(default=Conversation(unknown=READY), compare=False)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {size:,}" for part, size in self.part_sizes.items())
        return f"TokenMap({self.start}..{self.stop - 1}: {sizes})"

    # groups ---------------------------------------------------------------------------------------

    def ranges(self, where: Where) -> Ranges:
        """Positions of a group, a number, or several of them together; none where the prompt has no such tokens.

        Groups that can grow (`generated`, `text`, `all`) are open.

        - `image`: image tokens; `image.0`, `image.1`: those of one image.
        - `video`: tokens of videos; `video.0`: those of one; `frame.0`, `frame.1`: those that show one frame, counted
          through all videos. Neighbouring frames may share their tokens.
        - `system`: text before the first image or video.
        - `markup`: tokens that belong to an image or a video and stand for no part of it: line breaks, tile numbers,
          marks around it, times between frames, the mark of one outside the sequence; and a decoder's first token.
        - `query`: all other text of the prompt. It contains the prompt's last token, which predicts the answer.
        - `generated`: what follows the prompt.
        - `question`: `query` without the prompt's last token and without `markers`.
        - `text`: all that is no token of an image or a video.
        - `last`, `first`, `bos`: single tokens of the prompt; `bos` opens its text, which may begin behind an image.
        - `all`: the whole sequence, without what lies outside it.
        - `system_message`, `user`, `assistant`: the words and images of these messages of a chat, wherever they stand;
          `turn.0`, `turn.1`: those of one message.
        - `markers`: the tokens of the chat template, which are in no message; where none was applied, the special
          tokens among the text.

        Raises:
            SpecError: no such group, no such image, or a position outside the row.
        """
        where = as_tuples(where)
        if isinstance(where, str):
            return self.group(where)
        if isinstance(where, MaskedPositions):
            return self._numbers(where.within(len(self.tokens)))
        if isinstance(where, tuple):
            named = (self.ranges(part) for part in where if type(part) is not int)
            return Ranges.union([self._numbers([part for part in where if type(part) is int]), *named])
        return self._numbers([require_number(where)])

    def required(self, where: Where) -> Ranges:
        """The same, for what is meaningless without tokens: a read, a group that a recipe measures.

        Raises:
            SpecError: there are none; see also `ranges`.
        """
        ranges = self.ranges(where)
        if not ranges.positions(self.stop):
            raise SpecError(f"{where!r} is empty in this prompt: {self.why_empty(where)}")
        return ranges

    def why_empty(self, where: Where) -> str:
        """Why there are no tokens in a place that has none, and what to write instead."""
        names = [where] if isinstance(where, str) else [name for name in as_tuples(where) if isinstance(name, str)]
        if "generated" in names:
            return (
                'it holds no answer yet. Give the prompt grown by its answer, nv.generate(...).prompt, or write "last"'
            )
        if "bos" in names:
            return 'no token opens its text; the first one is "first"'
        if not self.visuals and any(name in ("image", "video", "markup", "system") for name in names):
            return f'it has no image and no video, so it has no group {names[0]!r}; "text" and "all" are there'
        there = [name for name in self.group_names if self.group(name).positions(self.stop)]
        return f"it has no such tokens. It has {', '.join(there)}"

    @property
    def group_names(self) -> tuple[str, ...]:
        """The names of all groups, those of single images included, and of groups without tokens."""
        names = ("system", *numbered_names(self), *PARTS[3:], *VIEWS, *self.conversation.names)
        return tuple(dict.fromkeys((*names, *(name for name, _ in self.named))))

    @property
    def part_sizes(self) -> dict[str, int]:
        """How many tokens each of the groups has that part the row; groups without tokens are left out."""
        sizes = {part: self.group(part).positions(self.stop) for part in PARTS}
        return {part: len(positions) for part, positions in sizes.items() if positions}

    def _numbers(self, positions: Sequence[int]) -> Ranges:
        """These positions, each of which must be one of the row's; all at once, as there can be thousands."""
        for position in positions:
            inside = self.start <= position < self.stop and position not in self.padding
            if not (inside or -self.outside <= position < 0):
                places = f"{self.start}..{self.stop - 1}"
                places += f", with {-self.outside}..-1 outside the sequence" if self.outside else ""
                asked = f"position {position} lies outside the prompt, whose tokens are {places}"
                raise SpecError(f'{asked}; positions are absolute, and the last one is called "last"')
        return Ranges.of(positions)

    def group(self, name: str) -> Ranges:
        """Positions of one group, see `ranges`.

        Raises:
            SpecError: no such group, or no such image.
        """
        if name not in self._groups_found:
            self._groups_found[name] = self._find_group(name)
        return self._groups_found[name]

    @cached_property
    def _groups_found(self) -> dict[str, Ranges]:
        """Groups that have been asked for: in a long prompt, finding one takes longer than a small forward."""
        return {}

    def _find_group(self, name: str) -> Ranges:
        groups: dict[str, Callable[[], Ranges]] = {
            "image": lambda: Ranges.of(position for image in self.images for position in image),
            "video": lambda: Ranges.of(position for video in self.videos for position in video),
            "system": lambda: Ranges.of(range(self.start, self._text_starts)),
            "markup": lambda: Ranges.of(self._of_visuals - self.visual_tokens),
            "query": lambda: Ranges.of(p for p in range(self._text_starts, self.answer) if p not in self._of_visuals),
            "generated": lambda: self._from(self.answer),
            "question": lambda: self.group("query").without(self._no_question),
            "text": lambda: Ranges.union(self.group(part) for part in PARTS if part not in (IMAGE, VIDEO)),
            "last": lambda: Ranges(((self.answer - 1, self.answer),)),
            "first": lambda: Ranges(((self.start, self.start + 1),)),
            "bos": lambda: (
                NOWHERE if self.bos is None or self.bos >= self.answer else Ranges(((self.bos, self.bos + 1),))
            ),
            "all": lambda: self._from(self.start),
        }
        if name in dict(self.named):
            return dict(self.named)[name]
        if name in groups:
            return groups[name]()
        is_by_role = is_role_group(name) or name in self.conversation.names
        return self.conversation.group(name, partial(stretch_of, self)) if is_by_role else numbered_group(self, name)

    @property
    def _no_question(self) -> Ranges:
        """The prompt's last token and the template's."""
        return Ranges.union((self.group("last"), self.conversation.markers or NOWHERE))

    def _from(self, start: int) -> Ranges:
        """From a position on; a row that is padded on the right cannot grow."""
        end = None if self.stop == len(self.tokens) else self.stop
        return NOWHERE if start == end else Ranges(((start, end),))

    @cached_property
    def visuals(self) -> tuple[Visual, ...]:
        """The images and videos, in the order of the sequence."""
        return shown_in(self)

    @cached_property
    def frames(self) -> tuple[tuple[int, ...], ...]:
        """For each frame of all videos the positions of the tokens that show it."""
        return frames_of(self.videos, self.video_cells)

    @cached_property
    def visual_tokens(self) -> frozenset[int]:
        """The positions of all tokens of images and videos."""
        return frozenset(position for visual in self.visuals for position in visual.positions)

    @cached_property
    def _of_visuals(self) -> set[int]:
        """The stretches that are images and videos: from each one's first token to its last, all marks and borders."""
        stretches = [visual.stretch for visual in self.visuals]
        stretches += [range(start, self.answer if stop is None else stop) for start, stop in self.borders]
        return {place for stretch in (*stretches, self.marks) for place in stretch if place < self.answer}

    @cached_property
    def _text_starts(self) -> int:
        """Where the first image or video begins; the prompt's first token where there is none."""
        return min((place for place in self._of_visuals if place >= 0), default=self.start)

    # other questions ------------------------------------------------------------------------------

    @property
    def filler(self) -> int:
        """A token id to pad with: any token that is no image's and no video's, because the model counts those."""
        if self.outside_tokens:
            return 0
        return next(token for position, token in enumerate(self.tokens) if position not in self._of_visuals)

    def last_seen(self, position: int) -> int:
        """The last position that a position may attend to."""
        return max([position, *(stop - 1 for block in self.blocks if position in block for _, stop in block if stop)])

    def stage(self, name: str) -> TokenMap:
        """The token map of a stage.

        Raises:
            SpecError: the model has no such stage.
        """
        stages = {"decoder": self, **dict(self.stages)}
        if name not in stages:
            raise missing_stage(name, list(stages))
        return stages[name]

    def shifted(self, by: int, filler: int | None = None) -> TokenMap:
        """The same row with `by` more tokens of padding on its left; fewer where `by` is negative."""
        return replace(
            self,
            tokens=(self.filler if filler is None else filler,) * by + self.tokens if by >= 0 else self.tokens[-by:],
            start=self.start + by,
            stop=self.stop + by,
            answer=self.answer + by,
            images=tuple(tuple(moved(position, by) for position in image) for image in self.images),
            videos=tuple(tuple(moved(position, by) for position in video) for video in self.videos),
            bos=None if self.bos is None else moved(self.bos, by),
            marks=tuple(moved(mark, by) for mark in self.marks),
            blocks=tuple(block.shifted(by) for block in self.blocks),
            windows=tuple(window.shifted(by) for window in self.windows),
            borders=self.borders.shifted(by),
            named=tuple((name, ranges.shifted(by)) for name, ranges in self.named),
            conversation=self.conversation.mapped(lambda ranges: ranges.shifted(by)),
        )
