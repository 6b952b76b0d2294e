"""The pictures of a page, and where on them each image token lies: tiles in their layout, thumbnails apart, frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ..errors import SpecError
from ..grids import Grid, VideoGrid
from ..prompts.prompt import Prompt
from ..prompts.visuals import VIDEO, Visual
from ..studies.image_patches import patch_source, patch_stage

Kind = Literal["picture", "tile", "thumbnail", "frame"]
COVERS = 0.95
"""A tile that shows this much of what all tiles show, in coarser patches than they, is a thumbnail."""


class Picture(NamedTuple):
    """A picture, or a frame of a video.

    Attributes:
        image: as the user gave it.
        label: what it is called.
    """

    image: Image.Image
    label: str


class Panel(NamedTuple):
    """One tile of a picture, and the tokens that lie on it.

    Attributes:
        picture: the number of its picture.
        kind, label: what it is.
        crop: the part of the picture that it shows, `(x0, y0, x1, y1)` in pixels.
        rows, columns: the size of its grid.
        tokens: which image tokens lie on it, by their numbers.
        boxes: for each of them its pixels.
        cells: for each of them its row and column.
    """

    picture: int
    kind: Kind
    label: str
    crop: tuple[float, float, float, float]
    rows: int
    columns: int
    tokens: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    cells: tuple[tuple[int, int], ...]


class Shown(NamedTuple):
    """What there is to paint on.

    Attributes:
        stage: whose attention has the patches as keys, see `studies.image_patches`.
        positions: of all image tokens there: those of all pictures and videos.
        pictures, panels: what is drawn.
        unplaced: tokens without a place in a picture, by their numbers.
        padding: of these, how many saw padding only.
        starts: by the name of each image and video (`image.0`), its first picture.
    """

    stage: str
    positions: tuple[int, ...]
    pictures: tuple[Picture, ...]
    panels: tuple[Panel, ...]
    unplaced: tuple[int, ...]
    padding: int
    starts: Mapping[str, int]

    @property
    def is_in_sequence(self) -> bool:
        """Whether the tokens have hidden states in the decoder."""
        return self.stage == "decoder" and min(self.positions) >= 0


def shown_in(prompt: Prompt) -> Shown:
    """The pictures and videos of a prompt of one row, and where their tokens lie.

    Raises:
        SpecError: there are none, or none whose pixels are known; image tokens that stand for no part of their picture,
            and of which nothing tells what they read of it.
    """
    visuals = prompt.rows[0].visuals
    if not visuals:
        raise SpecError(
            "the prompt has no picture and no video, so there is nothing that a word could have looked at; write "
            "nv.encode(model, text, image)"
        )
    stage = patch_stage(prompt)
    if stage != "decoder":
        if len(visuals) > 1:
            raise SpecError(
                f"the prompt has {len(visuals)} pictures, and image tokens of this model are latents: which of them "
                "come from which picture's patches is read of one picture only; encode one picture"
            )
        return _laid_out(stage, [(visuals[0], patch_source(prompt).grid)])
    return _laid_out(stage, [(visual, _grid_of(prompt, visual)) for visual in visuals])


def _grid_of(prompt: Prompt, visual: Visual) -> Grid:
    return prompt.grid(video=visual.number) if visual.kind == VIDEO else prompt.grid(visual.number)


def _laid_out(stage: str, grids: Sequence[tuple[Visual, Grid]]) -> Shown:
    """All panels, with tokens numbered through all grids."""
    positions = tuple(sorted({position for _, grid in grids for position in grid.positions}))
    numbers = {position: number for number, position in enumerate(positions)}
    pictures, panels, starts, padding = list[Picture](), list[Panel](), dict[str, int](), 0
    for visual, grid in grids:
        starts[visual.name] = len(pictures)
        alone = sum(other.kind == visual.kind for other, _ in grids) == 1
        name = "" if alone else called(visual, alone=False)
        if isinstance(grid, VideoGrid):
            drawn = list(_frames(grid, name))
        else:
            drawn = [(Picture(_picture(grid), name or "picture"), _tiles(grid, name))]
        for picture, own in drawn:
            panels += [_panel(grid, tile, len(pictures), label, kind, numbers) for tile, kind, label in own]
            pictures.append(picture)
        padding += int(((np.asarray(grid.tiles) >= 0) & ~(grid.areas > 0)).sum())
    placed = {token for panel in panels for token in panel.tokens}
    unplaced = tuple(token for token in range(len(positions)) if token not in placed)
    return Shown(stage, positions, tuple(pictures), tuple(panels), unplaced, padding, starts)


def called(visual: Visual, *, alone: bool) -> str:
    """What a page calls a picture or a video; counted from 1 where there are several."""
    kind = "video" if visual.kind == VIDEO else "picture"
    return kind if alone else f"{kind} {visual.number + 1}"


def _picture(grid: Grid) -> Image.Image:
    return grid.picture if grid.picture is not None else Image.new("RGB", grid.size, (200, 200, 200))


class _Tile(NamedTuple):
    """A tile, what it is, and what it is called."""

    tile: int
    kind: Kind
    label: str


def _frames(grid: VideoGrid, name: str) -> Iterator[tuple[Picture, list[_Tile]]]:
    """For each tile of a video its first frame: frames that one tile shows share their tokens."""
    frames = {tile: of_token for tile, of_token in zip(grid.tiles, grid.frames, strict=True) if of_token}
    for tile, shown in sorted(frames.items()):
        ends = str(shown[0]) if len(shown) == 1 else f"{shown[0]}-{shown[-1]}"
        label = f"{name}{', ' if name else ''}frame{'s' if len(shown) > 1 else ''} {ends}"
        image = grid.pictures[shown[0]] if grid.pictures else _picture(grid)
        yield Picture(image, label), [_Tile(tile, "frame", label)]


def _tiles(grid: Grid, name: str) -> list[_Tile]:
    """The tiles of a picture that saw some of it; thumbnails show all of it in coarser patches than the others."""
    seen = [tile for tile in range(len(grid.shapes)) if _tokens(grid, tile).size]
    crops = {tile: _crop(grid, tile) for tile in seen}
    sizes = {tile: float(grid.areas[_tokens(grid, tile)].max()) for tile in seen}
    whole = _area(_union(list(crops.values()))) if seen else 0.0
    finest = min(sizes.values(), default=0.0)
    small = [tile for tile in seen if _area(crops[tile]) >= COVERS * whole and sizes[tile] > finest * 1.01]
    others = [tile for tile in seen if tile not in small]
    before = f"{name}, " if name else ""
    found = list[_Tile]()
    for tile in seen:
        if tile in small:
            found.append(_Tile(tile, "thumbnail", f"{before}thumbnail"))
        elif len(others) == 1:
            found.append(_Tile(tile, "picture", name or "picture"))
        else:
            found.append(_Tile(tile, "tile", f"{before}tile {others.index(tile) + 1} of {len(others)}"))
    return found


def _panel(grid: Grid, tile: int, picture: int, label: str, kind: Kind, numbers: Mapping[int, int]) -> Panel:
    own, shape = _tokens(grid, tile), grid.shapes[tile]
    return Panel(
        picture=picture,
        kind=kind,
        label=label,
        crop=_crop(grid, tile),
        rows=shape.rows,
        columns=shape.columns,
        tokens=tuple(numbers[grid.positions[token]] for token in own),
        boxes=tuple(_rounded(box) for box in grid.boxes[own]),
        cells=tuple(grid.cells[token] for token in own),
    )


def _tokens(grid: Grid, tile: int) -> np.ndarray:
    """The tokens of a tile that saw some of the picture."""
    return np.flatnonzero((np.asarray(grid.tiles) == tile) & (grid.areas > 0))


def _crop(grid: Grid, tile: int) -> tuple[float, float, float, float]:
    """What a tile shows, inside the picture."""
    x0, y0, x1, y1 = _union(list(grid.boxes[_tokens(grid, tile)]))
    width, height = grid.size
    return _rounded((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))


def _union(boxes: Sequence[Any]) -> tuple[float, float, float, float]:
    edges = np.asarray(boxes, dtype=float)
    return _rounded((*edges[:, :2].min(0), *edges[:, 2:].max(0)))


def _rounded(box: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(edge), 2) for edge in box)
    return x0, y0, x1, y1


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
