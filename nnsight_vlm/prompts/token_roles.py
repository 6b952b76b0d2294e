"""From an encoding to the token map of each of its rows: which token is what.

How many tokens each image has follows from the encoding (`grids`); which tokens these are, from the image token id in
the config, or from an input that marks them.
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
from ..grids import GRIDS, Cells, marked
from ..grids.tokens import Inputs
from .ranges import Ranges
from .stage_maps import require_image, with_query_stages
from .token_map import TokenMap

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


def token_maps(model: Model, inputs: Inputs, answers: Sequence[int] = ()) -> tuple[TokenMap, ...]:
    """A `TokenMap` for each row of the encoding.

    Args:
        model: an nnsight model.
        inputs: the encoding.
        answers: for each row where its answer begins, if it has any: what is in there is no image.

    Raises:
        SpecError: padding in the middle of a row, image tokens without pixels, or pixels without image tokens.
    """
    view = view_of(model)
    is_image = _image_mask(view, inputs)
    if answers and view.family.tokens == "input_ids":
        is_image = is_image & (torch.arange(is_image.shape[1]) < torch.tensor(answers)[:, None])
    images = iter(_cells(view, inputs, int(is_image.sum())))
    build = BUILDERS[view.family.image_at]
    rows = tuple(
        build(_Row(view=view, inputs=inputs, number=number, is_image=row_is_image), images)
        for number, row_is_image in enumerate(is_image)
    )
    if next(images, None) is not None:
        raise SpecError("the inputs have pixels of more images than input_ids have tokens of")
    if view.family.image_at == "cross" and len({len(tokens.images) for tokens in rows}) > 1:
        raise SpecError(
            f"the rows have {[len(tokens.images) for tokens in rows]} images, and models of type {view.family.name!r} "
            "let text read the padding of missing ones, so a row is not what it is alone; run them one at a time"
        )
    return with_query_stages(view, inputs, rows)


def _image_mask(view: ModelView, inputs: Inputs) -> torch.Tensor:
    """`[row, token]`: whether a token is an image token."""
    if view.family.image_mask:  # a processor leaves it out where there is no picture
        return torch.as_tensor(inputs.get(view.family.image_mask, torch.zeros_like(inputs["input_ids"]))).bool()
    return torch.as_tensor(marked(view, inputs))


def _cells(view: ModelView, inputs: Inputs, image_tokens: int) -> list[Cells]:
    """The cells of each image, in order.

    Raises:
        SpecError: image tokens without pixels, pixels without image tokens, or neither where a family needs an image.
    """
    pixels = [name for name in view.family.inputs if name in inputs]
    if image_tokens and not pixels:
        raise SpecError(
            f"input_ids have image tokens, but the inputs have no {view.family.pixels}; the processor returns it"
        )
    require_image(view, image_tokens > 0)
    if not image_tokens and pixels:
        raise SpecError(f"the inputs have {pixels[0]}, but input_ids have no image tokens; leave out one or the other")
    return GRIDS[view.family.grid].cells(view, inputs) if image_tokens else []


# a row of the encoding ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Row:
    """A row of an encoding.

    Attributes:
        view: the model.
        inputs: the encoding.
        number: which row of it this is.
        is_image: `[token]`, whether a token is an image token.
    """

    view: ModelView
    inputs: Inputs
    number: int
    is_image: torch.Tensor

    @property
    def family(self) -> Family:
        return self.view.family

    def of(self, name: str) -> torch.Tensor:
        """The row's part of an input with an entry per row."""
        return torch.as_tensor(self.inputs[name][self.number])


class _Images(NamedTuple):
    """The images of a row: the positions of each one's tokens, and its cells."""

    positions: tuple[tuple[int, ...], ...]
    cells: tuple[Cells, ...]


class _Features(NamedTuple):
    """Where the image tokens of a row come from.

    Attributes:
        rows: for each image and token its row in the projector's output, -1 for none; empty for the tokens in order.
        total: how many rows the projector's output has.
    """

    rows: tuple[tuple[int, ...], ...] = ()
    total: int = 0


def _token_map(row: _Row, images: Iterator[Cells]) -> TokenMap:
    """The token map of a sequence that has the image tokens in it; takes the row's images from all images."""
    real = row.of("attention_mask").nonzero().flatten().tolist()
    if not real or real != list(range(real[0], real[-1] + 1)):
        raise SpecError(
            "a row of attention_mask must be ones in one piece, with zeros for padding only on its left or right"
        )
    ids = row.of("input_ids")
    start, stop = real[0], real[-1] + 1
    own = _take_images(row.is_image.nonzero().flatten().tolist(), images)
    features = _feature_rows(own.cells) if row.family.projector else _Features()
    marked = _marked(row)
    return TokenMap(
        tokens=tuple(ids.tolist()),
        start=start,
        stop=stop,
        answer=stop,
        images=own.positions,
        cells=own.cells,
        bos=_opening_token(row, ids[:stop].tolist(), start, own.positions),
        borders=marked.without(Ranges.of(p for image in own.positions for p in range(image[0], image[-1] + 1))),
        blocks=BLOCKS[row.family.blocks](start, stop, own.positions, marked),
        features=features.rows,
        feature_rows=features.total,
    )


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


def _take_images(positions: Sequence[int], images: Iterator[Cells]) -> _Images:
    """The images of a row: as many of the next images as have the tokens at these positions."""
    own, cells, taken = list[tuple[int, ...]](), list[Cells](), 0
    while taken < len(positions):
        image = next(images, None)
        if image is None or taken + len(image.places) > len(positions):
            raise SpecError(
                f"a row has {len(positions)} image tokens, which are not those of whole images; tokens and pixels must "
                "come from one call of the processor, without cutting it"
            )
        own.append(tuple(positions[taken : taken + len(image.places)]))
        cells.append(image)
        taken += len(image.places)
    return _Images(tuple(own), tuple(cells))


def _feature_rows(images: Sequence[Cells]) -> _Features:
    """Each image token's row in the projector's output, counted over all images of the row."""
    if all(cells.sources is None for cells in images):
        return _Features((), sum(len(cells.places) for cells in images))
    rows, before = list[tuple[int, ...]](), 0
    for cells in images:
        sources = np.arange(len(cells.places)) if cells.sources is None else cells.sources
        rows.append(tuple(np.where(sources < 0, -1, sources + before).tolist()))
        before += cells.features or len(cells.places)
    return _Features(tuple(rows), before)


# image tokens outside the decoder's sequence, read through cross-attention --------------------------


def _encoder_token_map(row: _Row, images: Iterator[Cells]) -> TokenMap:
    """The token map of a decoder that reads an encoder, whose sequence holds image and question."""
    encoder = _token_map(row, images)
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


def _cross_token_map(row: _Row, images: Iterator[Cells]) -> TokenMap:
    """The token map of a text whose images are keys of cross-attention: a mark in the text stands for each of them.

    The mark reads its image and is read by the text after it, so it is text: `markup`.
    """
    marks = row.is_image.nonzero().flatten().tolist()
    text = _token_map(replace(row, is_image=torch.zeros_like(row.is_image)), images)
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


BUILDERS: dict[ImageLocation, Callable[[_Row, Iterator[Cells]], TokenMap]] = {
    "decoder": _token_map,
    "encoder": _encoder_token_map,
    "cross": _cross_token_map,
}
"""The functions that build a row's token map; each takes the row's images from an iterator over all images."""
