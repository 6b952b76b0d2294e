"""From an encoding to the token map of each of its rows: which token is what.

How many tokens each image or video has follows from the encoding (`grids`); which tokens these are, from the token ids
in the config, or from an input that marks them. Where frames have the token of images, see `frame_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ..errors import SpecError
from ..families import Family, Model, ModelView, view_of
from ..families.options import Bidirectional, ImageLocation
from ..grids import Cells, video_marked
from ..grids.tokens import Inputs
from .frame_runs import Films, Shown, films_in, with_films
from .ranges import Ranges
from .stage_maps import require_image, with_earlier_stages
from .token_map import TokenMap
from .visual_cells import image_cells, image_mask, video_cells

BLOCKS: dict[Bidirectional, Callable[[int, int, Sequence[Sequence[int]], Ranges], tuple[Ranges, ...]]] = {
    "none": lambda _start, _stop, _images, _marked: (),
    "images": lambda _start, _stop, images, _marked: _each(Ranges.of(p for image in images for p in image)),
    "marked": lambda _start, _stop, _images, marked: (marked,) if marked else (),
    "prompt": lambda start, stop, _images, _marked: (Ranges(((start, stop),)),),
}
"""The blocks of these tokens in a row: from its first position, one past its last, the positions of its images, and the
tokens that an input marks."""


def _each(ranges: Ranges) -> tuple[Ranges, ...]:
    """Every range by itself."""
    return tuple(Ranges((pair,)) for pair in ranges)


MARKS = "mm_token_type_ids"
"""The input that marks tokens of images with 1."""


def token_maps(
    model: Model, inputs: Inputs, answers: Sequence[int] = (), films: Sequence[Films] | None = None
) -> tuple[TokenMap, ...]:
    """A `TokenMap` for each row of the encoding.

    Args:
        model: an nnsight model.
        inputs: the encoding.
        answers: for each row where its answer begins, if it has any: what is in there is no image.
        films: for each row which of its images are frames of videos, where that is known; see `frame_runs`.

    Raises:
        SpecError: padding in the middle of a row, image tokens without pixels, or pixels without image tokens.
    """
    view = view_of(model)
    is_image, is_video = image_mask(view, inputs), torch.as_tensor(video_marked(view, inputs))
    if answers and view.family.tokens == "input_ids":
        of_prompt = torch.arange(is_image.shape[1]) < torch.tensor(answers)[:, None]
        is_image, is_video = is_image & of_prompt, is_video & of_prompt
    require_image(view, bool(is_image.any() or is_video.any()))
    images, videos = iter(image_cells(view, inputs, int(is_image.sum()))), iter(video_cells(view, inputs, is_video))
    build = BUILDERS[view.family.image_at]
    rows = tuple(
        build(
            _Row(
                view=view,
                inputs=inputs,
                number=number,
                is_image=is_image[number],
                is_video=is_video[number],
                films=None if films is None else films[number],
            ),
            images,
            videos,
        )
        for number in range(len(is_image))
    )
    if next(images, None) is not None or next(videos, None) is not None:
        raise SpecError("the inputs have pixels of more images or videos than input_ids have tokens of")
    if view.family.image_at == "cross" and len({len(tokens.images) for tokens in rows}) > 1:
        raise SpecError(
            f"the rows have {[len(tokens.images) for tokens in rows]} images, and models of type {view.family.name!r} "
            "let text read the padding of missing ones, so a row is not what it is alone; run them one at a time"
        )
    return with_earlier_stages(view, inputs, rows)


# a row of the encoding ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Row:
    """A row of an encoding.

    Attributes:
        view: the model.
        inputs: the encoding.
        number: which row of it this is.
        is_image, is_video: `[token]`, whether a token is an image's or a video's.
        films: which of its images are frames of videos, where that is known.
    """

    view: ModelView
    inputs: Inputs
    number: int
    is_image: torch.Tensor
    is_video: torch.Tensor
    films: Films = None

    @property
    def family(self) -> Family:
        return self.view.family

    def of(self, name: str) -> torch.Tensor:
        """The row's part of an input with an entry per row."""
        return torch.as_tensor(self.inputs[name][self.number])


class _Features(NamedTuple):
    """Where the tokens of a row's images and videos come from.

    Attributes:
        rows: for each of them and each token its row in the projector's output, -1 for none; empty for the tokens in
            order.
        total: how many rows the projector's output has.
    """

    rows: tuple[tuple[int, ...], ...] = ()
    total: int = 0


def _token_map(row: _Row, images: Iterator[Cells], videos: Iterator[Cells]) -> TokenMap:
    """The token map of a sequence that has the tokens in it; takes the row's images and videos from all of them."""
    real = row.of("attention_mask").nonzero().flatten().tolist()
    if not real or real != list(range(real[0], real[-1] + 1)):
        raise SpecError(
            "a row of attention_mask must be ones in one piece, with zeros for padding only on its left or right"
        )
    ids = row.of("input_ids")
    start, stop = real[0], real[-1] + 1
    own = _take(row.is_image.nonzero().flatten().tolist(), images, "image")
    shown = _take(row.is_video.nonzero().flatten().tolist(), videos, "video")
    if row.family.video is not None and not row.family.video.token:
        own, shown = with_films(own, films_in(row.view, ids.tolist(), own) if row.films is None else row.films)
    marked = _marked(row)
    made = TokenMap(
        tokens=tuple(ids.tolist()),
        start=start,
        stop=stop,
        answer=stop,
        images=own.positions,
        cells=own.cells,
        videos=shown.positions,
        video_cells=shown.cells,
        bos=_opening_token(row, ids[:stop].tolist(), start, (*own.positions, *shown.positions)),
        borders=marked.without(Ranges.of(p for image in own.positions for p in range(image[0], image[-1] + 1))),
        blocks=BLOCKS[row.family.blocks](start, stop, own.positions, marked),
    )
    features = _feature_rows([visual.cells for visual in made.visuals]) if row.family.projector else _Features()
    return replace(made, features=features.rows, feature_rows=features.total)


def _marked(row: _Row) -> Ranges:
    """The tokens that an input marks as those that attend to each other, where the family has such an input."""
    if row.family.blocks != "marked" or MARKS not in row.inputs:
        return Ranges()
    return Ranges.of((row.of(MARKS) == 1).nonzero().flatten().tolist())


def _opening_token(row: _Row, ids: Sequence[int], start: int, images: Sequence[Sequence[int]]) -> int | None:
    """Where the token stands that opens the text: behind padding, and in some families behind the image.

    Where texts end with the same token (OPT, Qwen), it opens one only if no text stands before it.
    """
    config = row.view.text_config
    place = next((place for place in range(start, len(ids)) if ids[place] == config.bos_token_id), None)
    if place is None or config.bos_token_id not in np.ravel(config.eos_token_id):
        return place
    pictures = {before for image in images for before in range(image[0], image[-1] + 1)}
    return place if pictures.issuperset(range(start, place)) else None


def _take(positions: Sequence[int], images: Iterator[Cells], kind: str) -> Shown:
    """The images or videos of a row: as many of the next ones as have the tokens at these positions."""
    own, cells, taken = list[tuple[int, ...]](), list[Cells](), 0
    while taken < len(positions):
        image = next(images, None)
        if image is None or taken + len(image.places) > len(positions):
            raise SpecError(
                f"a row has {len(positions)} {kind} tokens, which are not those of whole {kind}s; tokens and pixels "
                "must come from one call of the processor, without cutting it"
            )
        own.append(tuple(positions[taken : taken + len(image.places)]))
        cells.append(image)
        taken += len(image.places)
    return Shown(tuple(own), tuple(cells))


def _feature_rows(images: Sequence[Cells]) -> _Features:
    """Each token's row in the projector's output, counted over all images and videos of the row."""
    if all(cells.sources is None for cells in images):
        return _Features((), sum(len(cells.places) for cells in images))
    rows, before = list[tuple[int, ...]](), 0
    for cells in images:
        sources = np.arange(len(cells.places)) if cells.sources is None else cells.sources
        rows.append(tuple(np.where(sources < 0, -1, sources + before).tolist()))
        before += cells.features or len(cells.places)
    return _Features(tuple(rows), before)


# image tokens outside the decoder's sequence, read through cross-attention --------------------------


def _encoder_token_map(row: _Row, images: Iterator[Cells], videos: Iterator[Cells]) -> TokenMap:
    """The token map of a decoder that reads an encoder, whose sequence holds image and question."""
    encoder = _token_map(row, images, videos)
    if encoder.start > 0:
        raise SpecError("the encoder of these models counts positions from the left; pad its tokens on the right")
    encoder = replace(
        encoder,
        blocks=(Ranges(((encoder.start, encoder.stop),)),),
        named=(("question", encoder.group("query")),),  # no token of an encoder predicts the answer
        row=row.number,
        rows=len(row.inputs["input_ids"]),
    )
    outside, tokens = len(encoder.tokens), tuple(row.of(row.family.tokens).tolist())
    groups = {
        name: Ranges(tuple((start - outside, (stop or outside) - outside) for start, stop in encoder.group(name)))
        for name in ("system", "query", "question", "bos")
    }
    return TokenMap(
        tokens=tokens,
        start=0,
        stop=len(tokens),
        answer=len(tokens),
        images=tuple(tuple(position - outside for position in image) for image in encoder.images),
        cells=encoder.cells,
        outside=outside,
        outside_tokens=encoder.tokens,
        marks=tuple(range(len(tokens))),
        features=encoder.features,
        feature_rows=encoder.feature_rows,
        named=tuple(groups.items()),
        stages=(("encoder", encoder),),
    )


def _cross_token_map(row: _Row, images: Iterator[Cells], videos: Iterator[Cells]) -> TokenMap:
    """The token map of a text whose images are keys of cross-attention: a mark in the text stands for each of them.

    The mark reads its image and is read by the text after it, so it is text: `markup`.
    """
    marks = row.is_image.nonzero().flatten().tolist()
    text = _token_map(replace(row, is_image=torch.zeros_like(row.is_image)), images, videos)
    cells = tuple(next(images) for _ in marks)
    vision = row.view.config.vision_config
    per_image = vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    outside = per_image * len(row.inputs["aspect_ratio_ids"][row.number]) if "aspect_ratio_ids" in row.inputs else 0
    if not marks:
        return replace(text, outside=outside, feature_rows=outside)
    first_keys = [per_image * number - outside for number in range(len(marks))]
    return replace(
        text,
        images=tuple(tuple(range(first, first + per_image)) for first in first_keys),
        cells=cells,
        outside=outside,
        marks=tuple(marks),
        feature_rows=outside,
    )


BUILDERS: dict[ImageLocation, Callable[[_Row, Iterator[Cells], Iterator[Cells]], TokenMap]] = {
    "decoder": _token_map,
    "encoder": _encoder_token_map,
    "cross": _cross_token_map,
}
"""The functions that build a row's token map; each takes its images and videos from iterators over all of them."""
