"""The cuts that hide patches of one picture: every neighbourhood, the object that is asked about, and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.model_call import Remote
from ..specs.knockouts import Knockout
from ..statistics import summarise
from ..studies.asked_objects import AskedPatches
from ..studies.controls import random_positions, rng_of
from ..studies.image_patches import PatchSource
from ..studies.labels import NONE, OBJECT, RANDOM_PATCHES, REST, SHARES, Control
from ..studies.map_scores import expected_overlap, overlap
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token

PATCH, IMAGE = "patch", "image"
"""The regions that every picture has: the neighbourhood of each patch, and all patches."""
BY = ["region", "control"]
MAP_MEASURES = ("largest_drop", "top_tenth", "hit", "iou")


class HiddenPatches(NamedTuple):
    """Some patches that are hidden together.

    Attributes:
        region: what they are.
        control: `none`, or which control.
        patch: the number of the patch in whose neighbourhood they lie, or lay; None for other regions.
        positions: of the patches in the stage that reads them.
    """

    region: str
    control: Control
    patch: int | None
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchCuts:
    """What is hidden of one picture.

    Attributes:
        source: the picture's patches, and the stage that reads them.
        object: which patches touch the object that is asked about, bool `[patch]`; None where that is not known.
        target, layers: from what, and where.
        hidden: every set of patches, in the order of the rows.
        number: of the prompt.
    """

    source: PatchSource
    object: np.ndarray | None
    target: Where
    layers: Layers
    hidden: Sequence[HiddenPatches]
    number: int

    @classmethod
    def of(
        cls,
        source: PatchSource,
        patches: AskedPatches | None,
        *,
        target: Where | None,
        layers: Layers,
        size: int,
        seed: int,
        number: int,
    ) -> PatchCuts:
        """The cuts of one picture; for the arguments see `patch_knockout`."""
        rng = rng_of(seed, number)
        hidden = [*_neighbourhoods(source, size, rng), *_regions(source, patches, rng)]
        return cls(
            source=source,
            object=None if patches is None else patches.object,
            target=_target(source, target),
            layers=layers,
            hidden=hidden,
            number=number,
        )

    def cut(self, positions: tuple[int, ...]) -> Knockout:
        """These patches hidden."""
        return Knockout(positions, self.target, layers=self.layers, stage=self.source.stage)

    def rows(
        self, model: Model, prompt: Prompt, answer: str | int, memory: int | None, remote: Remote
    ) -> list[dict[str, Any]]:
        """One row for each set of patches, from one sweep."""
        cuts = dict.fromkeys(self.cut(each.positions) for each in self.hidden)
        token = answer_token(model, answer)
        frame = sweep(model, prompt, list(cuts), answer=token, memory=memory, empty="ignore", remote=remote)
        changes = dict(zip(cuts, (frame["logprob"] - frame["clean_logprob"]).tolist(), strict=True))
        places = list(self._places())
        return [
            {
                "image": self.number,
                "region": each.region,
                "control": each.control,
                **(dict.fromkeys(places[0], np.nan) if each.patch is None else places[each.patch]),
                "hidden": len(each.positions),
                "object": np.nan if each.patch is None or self.object is None else float(self.object[each.patch]),
                "logprob_change": changes[self.cut(each.positions)],
            }
            for each in self.hidden
        ]

    def _places(self) -> Iterator[Mapping[str, float]]:
        """Where each patch lies."""
        for patch in self.columns().astype(float).to_dict("records"):
            yield {str(name): value for name, value in patch.items()}

    def columns(self) -> pd.DataFrame:
        """Where each patch lies, one row a patch."""
        grid = self.source.grid
        cells = np.asarray(grid.cells)
        columns = {"token": np.asarray(grid.positions), "tile": np.asarray(grid.tiles)}
        columns |= {"row": cells[:, 0], "column": cells[:, 1]}
        return pd.DataFrame(columns | dict(zip(("x0", "y0", "x1", "y1"), grid.boxes.T, strict=True)))

    def map_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The map of the only picture, one row a patch, from the rows of its cuts."""
        of_patches = rows[rows["region"] == PATCH]
        own = of_patches[of_patches["control"] == NONE]
        control = of_patches[of_patches["control"] == RANDOM_PATCHES].set_index("token")["logprob_change"]
        columns = self.columns()
        return columns.assign(
            hidden=own["hidden"].to_numpy(),
            logprob_change=own["logprob_change"].to_numpy(),
            random_patches=control.reindex(columns["token"]).to_numpy(),
        )


def whole_cut(source: PatchSource, target: Where | None, layers: Layers) -> Knockout:
    """All patches hidden; for the arguments see `patch_knockout`."""
    positions = tuple(sorted(map(int, source.grid.positions)))
    return Knockout(positions, _target(source, target), layers=layers, stage=source.stage)


def _target(source: PatchSource, given: Where | None) -> Where:
    if given is not None:
        return given
    return "last" if source.stage == "decoder" else "query"


def _neighbourhoods(source: PatchSource, size: int, rng: np.random.Generator) -> Iterator[HiddenPatches]:
    """The squares of patches around each patch, and as many patches drawn at random outside each of them."""
    grid = source.grid
    tiles, cells, positions = np.asarray(grid.tiles), np.asarray(grid.cells), np.asarray(grid.positions)
    for patch, (tile, cell) in enumerate(zip(tiles, cells, strict=True)):
        near = (tiles == tile) & (np.abs(cells - cell).max(1) <= size // 2)
        yield HiddenPatches(PATCH, NONE, patch, tuple(positions[near].tolist()))
        if near.sum() <= (~near).sum():
            drawn = random_positions(positions[~near].tolist(), int(near.sum()), rng)
            yield HiddenPatches(PATCH, RANDOM_PATCHES, patch, drawn)


def _regions(source: PatchSource, patches: AskedPatches | None, rng: np.random.Generator) -> Iterator[HiddenPatches]:
    """The whole image, and where the object is known, its patches and the others, each with as many at random."""
    everything = tuple(map(int, source.grid.positions))
    yield HiddenPatches(IMAGE, NONE, None, everything)
    if patches is None or not patches.inside or not patches.outside:
        return
    for region, own, candidates in (
        (OBJECT, patches.inside, patches.outside),
        (REST, patches.outside, (*patches.inside, *patches.outside)),
    ):
        yield HiddenPatches(region, NONE, None, own)
        if len(own) <= len(candidates):
            yield HiddenPatches(region, RANDOM_PATCHES, None, random_positions(candidates, len(own), rng))


# means ------------------------------------------------------------------------------------------------


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every patch and region."""
    maps = pd.DataFrame(_map_scores(frame))
    changes, of_maps = summarise(frame, BY, ["logprob_change"]), summarise(maps, BY, MAP_MEASURES, shares=SHARES)
    tidy = pd.concat([changes[changes["region"] == PATCH], of_maps, changes[changes["region"] != PATCH]])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _map_scores(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What each picture's map says, and what chance alone would give."""
    of_patches = frame[frame["region"] == PATCH]
    for (image, cluster), rows in of_patches.groupby(["image", "cluster"], sort=False):
        labels = {"image": image, "cluster": cluster, "region": PATCH}
        own, control = (rows[rows["control"] == which] for which in (NONE, RANDOM_PATCHES))
        drops = -own["logprob_change"].to_numpy()
        objects = own["object"].to_numpy() > 0
        is_known = objects.any() and np.nanmax(drops, initial=0) > 0
        order = np.argsort(-drops, kind="stable")  # NaN, of a run without numbers, comes last
        yield {
            **labels,
            "control": NONE,
            **_spread(drops),
            "hit": float(objects[order[0]]) if is_known else np.nan,
            "iou": overlap(order, objects) if is_known else np.nan,
        }
        yield {
            **labels,
            "control": RANDOM_PATCHES,
            **_spread(-control["logprob_change"].to_numpy()),
            "hit": float(objects.mean()) if is_known else np.nan,
            "iou": expected_overlap(int(objects.sum()), len(objects)) if is_known else np.nan,
        }


def _spread(drops: np.ndarray) -> dict[str, float]:
    """The largest drop, and the share of all drops that the tenth of the patches with the largest ones has."""
    known = drops[~np.isnan(drops)]
    lost = np.sort(known.clip(0))[::-1]
    tenth = lost[: max(round(len(lost) / 10), 1)]
    return {
        "largest_drop": float(known.max()) if len(known) else np.nan,
        "top_tenth": float(tenth.sum() / lost.sum()) if lost.sum() > 0 else np.nan,
    }
