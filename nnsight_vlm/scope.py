"""Scope: what names mean for one case, in one model, at one seat.

Here groups become places, layer choices numbers, and head choices heads; and here it is said what a
model has not got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .errors import SpecError
from .families import Family, Shape, family, shape
from .layers import Depth, Layers, Window, label, layer_numbers
from .layouts import Seat
from .rows import Ranges, Where, frozen, runs, to_positions
from .sites import OUTSIDE, SITES

Heads = int | Sequence[int | tuple[int, int]] | None


def listed_heads(heads: Any) -> tuple[int | tuple[int, int], ...] | None:
    """A head choice as a tuple of head numbers and `(layer, head)` pairs; None for every head.

    Raises:
        SpecError: anything else.
    """
    if heads is None:
        return None
    listed = frozen(heads)
    listed = listed if isinstance(listed, tuple) else (listed,)
    numbers = [number for head in listed for number in (head if isinstance(head, tuple) else (head,))]
    if not all(isinstance(number, int) for number in numbers):
        raise SpecError(f"no heads {heads!r}; write head numbers [0, 3], or (layer, head) pairs [(9, 3)]")
    return listed


@dataclass(frozen=True, kw_only=True, eq=False)
class Lent:
    """States of another run that are not here: it runs in the same job, and fills a box a layer with them.

    Attributes:
        like: a tensor of their shape `[layer, position, width]`, without values.
        boxes: an empty list a layer.
        request: what fills them.
    """

    like: torch.Tensor
    boxes: tuple[list[Any], ...]
    request: Any


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What an intervention needs to know to lower itself: a model's shape and one seat in one of its stages.

    Attributes:
        row: the family row.
        shapes: the sizes of every stage.
        seat: where the case sits.
        captured: values `[layer, position, width]` of every patch that has a source, by `id`; or what stands for them.
        stage: the stage whose positions and layers are meant.
    """

    row: Family
    shapes: Mapping[str, Shape]
    seat: Seat
    captured: Mapping[int, torch.Tensor | Lent]
    stage: str = "decoder"

    def at(self, stage: str) -> Scope:
        """The same case in another stage.

        Raises:
            SpecError: the model has no such stage.
        """
        return self if stage == self.stage else replace(self, seat=self.seat.at(stage), stage=stage)

    @property
    def shape(self) -> Shape:
        """The sizes of the stage."""
        return self.shapes[self.stage]

    def ranges(self, where: Where) -> Ranges:
        """Positions of the case's own prompt."""
        return self.seat.tokens.ranges(where)

    def places(self, where: Where) -> Ranges:
        """The same in the sequence that runs.

        Raises:
            SpecError: some lie outside the sequence.
        """
        ranges = self.ranges(where)
        if any(start < 0 for start, _ in ranges):
            others = " or ".join(f"stage={name!r}" for name in self.row.stages if name != self.stage)
            raise SpecError(
                f"{where!r} lies outside the sequence of the {self.stage}, which only reads it through "
                f"cross-attention: it can be a source there; to change it, write {others or 'site=' + repr('features')}"
            )
        return self.seat.places(ranges)

    def keys(self, where: Where) -> tuple[Ranges, Ranges]:
        """Positions that can be attended to: in the sequence that runs, and outside it."""
        ranges = self.ranges(where)
        inside = tuple(pair for pair in ranges if pair[0] >= 0)
        return self.seat.places(inside), self.seat.places(tuple(pair for pair in ranges if pair[0] < 0))

    def feature_places(self, where: Where) -> Ranges:
        """Rows of the projector's output that image tokens come from, counted over the whole batch.

        Raises:
            SpecError: something else than image tokens.
        """
        tokens = self.seat.tokens
        pixels = [position for image in tokens.images for position in image]
        rows = [row for image in tokens.features for row in image] or list(range(len(pixels)))
        wanted = self.ranges(where)
        inside = [row for row, position in zip(rows, pixels, strict=True) if holds(wanted, position)]
        if not inside or len(inside) != sum((b or 0) - a for a, b in wanted):
            raise SpecError(
                f'site "features" holds image tokens only, and {where!r} is not made of them; write "image"'
            )
        # line breaks between rows of patches come from no feature
        return runs([row + self.seat.features for row in inside if row >= 0])

    def state_places(self, site: str, where: Where) -> tuple[int, Ranges]:
        """Row and places where a site holds positions; image features of all rows are one line."""
        if site == "features":
            return 0, self.feature_places(where)
        places = self.places(where)
        if site in ("cross", "mlp"):
            self.check_readers(where, places)
        return self.seat.row, places

    def check_readers(self, where: Where, places: Ranges) -> None:
        """Refuse text behind a Q-Former's queries where only these are passed on.

        Raises:
            SpecError: some of the places are not the queries'.
        """
        last = self.seat.tokens.readers
        if last is not None and any(stop is None or stop > self.seat.place(last) for _, stop in places):
            raise SpecError(
                f"{where!r} is not made of the {self.stage}'s queries; only these read the image and pass this site; "
                'write "query"'
            )

    def closed_places(self, site: str, where: Where) -> tuple[int, Ranges, int]:
        """The same without tokens to come, and how many places they are."""
        positions = to_positions(self.ranges(where), self.seat.tokens.stop)
        row, places = self.state_places(site, positions) if positions else (self.seat.row, ())
        return row, places, sum((stop or 0) - start for start, stop in places)

    def layers(self, layers: Layers, needs: str = "") -> tuple[int, ...]:
        """Layer numbers, of those that have `"attention"`, `"cross"` or (`""`) anything; see `layer_numbers`.

        Raises:
            SpecError: a layer without; `"all"` where a state runs through the others unseen.
        """
        numbers = layer_numbers(layers, self.shape.layer_count)
        if layers == "attention":
            needs = needs or "attention"
        there = {"attention": self.shape.attention, "cross": self.shape.cross}.get(needs, numbers)
        found = tuple(layer for layer in numbers if layer in there)
        if layers == "all" and needs == "attention" and self.shape.recurrent:
            raise SpecError(
                f"only layers {label(there)} of {self.shape.layer_count} have attention; in the others a state runs "
                'through the sequence and would carry on what "all" seems to cut. Write layers="attention"'
            )
        named = not isinstance(layers, (str, Window, Depth))
        if not found or (named and len(found) < len(numbers)):
            missing = next((layer for layer in numbers if layer not in there), None)
            kind = "cross-attention" if needs == "cross" else "self-attention"
            raise SpecError(f"layer {missing} of the {self.stage} has no {kind}; layers {label(there)} have")
        return found

    def state_layers(self, site: str, layers: Layers) -> tuple[int, ...]:
        """The same at a site of hidden states; `(OUTSIDE,)` for one before the first layer.

        Raises:
            SpecError: the family has no such site.
        """
        missing = self.row.lacks.get(site)
        stage = self.shape.stage
        absent = {"mlp": stage.mlp, "embedding": stage.embedding, "features": self.row.projector, "cross": stage.cross}
        if missing or absent.get(site, site) is None:
            why = missing or f"the {self.stage} has no module that gives it"
            raise SpecError(f"models of type {self.row.name!r} have no site {site!r}: {why}")
        if not SITES[site].layered:
            return (OUTSIDE,)
        return self.layers(layers, SITES[site].needs)

    def width(self, site: str) -> int:
        """Width of the states at a site."""
        return self.shape.width * (self.shape.streams if site == "residual" else 1)

    def heads(self, heads: Heads, layer: int) -> tuple[int, tuple[int, ...]] | None:
        """`(head count, head numbers)` of one layer; None for every head."""
        listed = listed_heads(heads)
        if listed is None:
            return None
        pairs = [head if isinstance(head, tuple) else (layer, head) for head in listed]
        count = self.shape.head_count
        outside = [head for _, head in pairs if not 0 <= head < count]
        if outside:
            raise SpecError(f"head {outside[0]} is out of range: the model has heads 0..{count - 1}")
        return count, tuple(sorted({head for at, head in pairs if at == layer}))


def scope(model: Any, seat: Seat, captured: Mapping[int, Any] | None = None) -> Scope:
    """The scope of one seat in a model."""
    row = family(model)
    return Scope(row=row, shapes={name: shape(model, name) for name in row.stages}, seat=seat, captured=captured or {})


def holds(ranges: Ranges, position: int) -> bool:
    """Whether ranges contain a position."""
    return any(start <= position and (stop is None or position < stop) for start, stop in ranges)
