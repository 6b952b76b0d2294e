"""From an encoding to its rows: which token is what.

How many tokens each image has follows from the encoding (`grids`); where they stand, from the image
token of the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..families import Family, Stage, view_of
from ..grids import GRIDS, Cells, marked
from .ranges import Ranges
from .token_map import TokenMap

Inputs = Mapping[str, Any]


def rows_of(model: Any, inputs: Inputs) -> tuple[TokenMap, ...]:
    """One `TokenMap` a row of the encoding.

    Raises:
        SpecError: padding in the middle, image tokens without pixels or the other way round.
    """
    row = view_of(model).family
    pixels = _marked(model, row, inputs)
    images = iter(_cells(model, row, inputs, int(pixels.sum())))
    build = {"decoder": _of_sequence, "encoder": _of_encoder, "cross": _of_keys}[row.image_at]
    found = tuple(build(model, row, inputs, number, line, images) for number, line in enumerate(pixels))
    if next(images, None) is not None:
        raise SpecError("the inputs bring more images than the tokens speak of")
    return _with_queries(model, row, inputs, found)


def _marked(model: Any, row: Family, inputs: Inputs) -> torch.Tensor:
    """`[row, token]`: which tokens are an image's."""
    if row.marker in inputs:
        return torch.as_tensor(inputs[row.marker]).bool()
    return torch.as_tensor(marked(model, inputs))


def _cells(model: Any, row: Family, inputs: Inputs, tokens: int) -> list[Cells]:
    pixels = [name for name in row.inputs if name in inputs]
    if tokens and not pixels:
        raise SpecError(f"the tokens speak of an image and the inputs bring no {next(iter(row.inputs))}")
    if not tokens and pixels:
        raise SpecError(f"the inputs bring {pixels[0]} and the tokens speak of no image")
    return GRIDS[row.grid].lay(model, inputs) if tokens else []


# image tokens in the sequence --------------------------------------------------------------------


def _of_sequence(
    model: Any, row: Family, inputs: Inputs, number: int, pixels: torch.Tensor, images: Iterator[Cells]
) -> TokenMap:
    ids, real = inputs["input_ids"][number], inputs["attention_mask"][number]
    there = real.nonzero().flatten().tolist()
    if not there or there != list(range(there[0], there[-1] + 1)):
        raise SpecError("a row of attention_mask must be ones in one piece, with padding on its left or right")
    opening = view_of(model).text_config.bos_token_id
    own, cells = _split(pixels.nonzero().flatten().tolist(), images)
    start, stop = there[0], there[-1] + 1
    features, feature_rows = _features(cells) if row.projector else ((), 0)
    return TokenMap(
        tokens=tuple(ids.tolist()),
        start=start,
        stop=stop,
        answer=stop,
        images=own,
        cells=cells,
        bos=start if opening is not None and int(ids[start]) == opening else None,
        blocks=BLOCKS[row.blocks](start, stop, own),
        features=features,
        feature_rows=feature_rows,
    )


def _split(pixels: Sequence[int], images: Iterator[Cells]) -> tuple[tuple[tuple[int, ...], ...], tuple[Cells, ...]]:
    """The positions of each image of a row, and their cells."""
    own, cells, at = list[tuple[int, ...]](), list[Cells](), 0
    while at < len(pixels):
        image = next(images, None)
        if image is None or at + len(image.places) > len(pixels):
            raise SpecError(f"{len(pixels)} image tokens of a row are not those of the images that the inputs bring")
        own.append(tuple(pixels[at : at + len(image.places)]))
        cells.append(image)
        at += len(image.places)
    return tuple(own), tuple(cells)


def _features(images: Sequence[Cells]) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Each token's row in the projector's output, counted over the images of a prompt; and how many there are."""
    if all(cells.sources is None for cells in images):
        return (), sum(len(cells.places) for cells in images)
    found, before = list[tuple[int, ...]](), 0
    for cells in images:
        sources = np.arange(len(cells.places)) if cells.sources is None else cells.sources
        found.append(tuple(np.where(sources < 0, -1, sources + before).tolist()))
        before += cells.features or len(cells.places)
    return tuple(found), before


BLOCKS: dict[str, Callable[[int, int, Sequence[Sequence[int]]], Ranges]] = {
    "none": lambda _start, _stop, _images: Ranges(),
    "images": lambda _start, _stop, images: Ranges.of(position for image in images for position in image),
    "prompt": lambda start, stop, _images: Ranges(((start, stop),)),
}


# image tokens outside the sequence, read through cross-attention ----------------------------------


def _of_encoder(
    model: Any, row: Family, inputs: Inputs, number: int, pixels: torch.Tensor, images: Iterator[Cells]
) -> TokenMap:
    """The decoder's row; image and question are the encoder's tokens, and it reads these."""
    read = _of_sequence(model, row, inputs, number, pixels, images)
    if read.start > 0:
        raise SpecError("the encoder of these models counts positions by column; pad its tokens on the right")
    read = replace(read, blocks=Ranges(((read.start, read.stop),)))
    outside, tokens = len(read.tokens), tuple(inputs[row.tokens][number].tolist())
    groups: dict[str, Ranges] = {
        name: Ranges(tuple((start - outside, (stop or outside) - outside) for start, stop in read.group(name)))
        for name in ("system", "markup", "query", "text")
        if read.images
    }
    groups["text"] = Ranges((*groups.get("text", ()), (len(tokens), None)))
    return TokenMap(
        tokens=tokens,
        start=0,
        stop=len(tokens),
        answer=len(tokens),
        images=tuple(tuple(position - outside for position in image) for image in read.images),
        cells=read.cells,
        outside=outside,
        outside_tokens=read.tokens,
        features=read.features,
        feature_rows=read.feature_rows,
        named=tuple(groups.items()),
        stages=(("encoder", read),),
    )


def _of_keys(
    model: Any, row: Family, inputs: Inputs, number: int, pixels: torch.Tensor, images: Iterator[Cells]
) -> TokenMap:
    """The image is nothing but keys of the cross-attention; in the text, one token marks where it is seen from."""
    marks = pixels.nonzero().flatten().tolist()
    text = _of_sequence(model, replace(row, projector=None), inputs, number, torch.zeros_like(pixels), images)
    cells = tuple(next(images) for _ in marks)
    vision = view_of(model).config.vision_config
    each = vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    outside = each * len(inputs["aspect_ratio_ids"][number]) if "aspect_ratio_ids" in inputs else 0
    if not marks:
        return replace(text, outside=outside, feature_rows=outside)
    keys = tuple(tuple(range(each * at - outside, each * (at + 1) - outside)) for at in range(len(marks)))
    words = [position for position in range(text.start, text.stop) if position not in marks]
    *closed, (last, _) = Ranges.of(words)  # the text can grow
    return replace(
        text,
        images=keys,
        cells=cells,
        outside=outside,
        marks=tuple(marks),
        feature_rows=outside,
        named=(
            ("system", Ranges.of(position for position in words if position < marks[0])),
            ("query", Ranges.of(position for position in words if position > marks[0])),
            ("text", Ranges((*closed, (last, None)))),
        ),
    )


def _with_queries(model: Any, row: Family, inputs: Inputs, found: tuple[TokenMap, ...]) -> tuple[TokenMap, ...]:
    """The rows, each with those of stages whose sequence is learned queries, which read an image's patches.

    Such a stage has one row for every crop of every image; it is there where each prompt has one.
    """
    for name, stage in row.stages.items():
        patches = GRIDS[stage.keys].lay(model, inputs) if stage.keys and any(tokens.images for tokens in found) else []
        if len(patches) == len(found):
            found = tuple(
                replace(tokens, stages=((name, _of_queries(inputs, number, tokens, stage, cells)), *tokens.stages))
                for number, (tokens, cells) in enumerate(zip(found, patches, strict=True))
            )
    return found


def _of_queries(inputs: Inputs, number: int, tokens: TokenMap, stage: Stage, cells: Cells) -> TokenMap:
    queries = len(tokens.images[0])
    question = inputs[stage.text][number].tolist() if stage.text else []
    words = int(inputs[stage.text_mask][number].sum()) if stage.text else 0
    outside, stop = len(cells.places), queries + words
    return TokenMap(
        tokens=(0,) * queries + tuple(question),
        start=0,
        stop=stop,
        answer=stop,
        images=(tuple(range(-outside, 0)),),
        cells=(cells,),
        outside=outside,
        readers=queries,
        blocks=Ranges(((0, stop),)),
        named=(
            ("query", Ranges(((0, queries),))),
            ("text", Ranges(((queries, stop),) if words else ())),
            ("system", Ranges()),
            ("all", Ranges(((0, stop),))),
        ),
    )
