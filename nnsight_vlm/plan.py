"""Plans: what an intervention becomes before it meets the model.

An intervention names *what*; lowering it at a `Scope` (one case at its seat) gives *writes* at the
*sites* of the model. `compile_plan` gathers the writes of all cases, merges those that meet at one
site, and sorts the sites in the order in which the model reaches them. The result is plain tuples:
a plan can be read, compared and shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import kernels
from .errors import SpecError
from .families import Family, attention_span, family, head_count, layer_count
from .layouts import Layout, Seat
from .rows import Range, Ranges, Row, Where

Step = tuple[Any, ...]
Write = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place in the model where plans write.

    Attributes:
        stage: order within one layer.
        module: path of the module; `{layers}`, `{attention}` and so on come from the family row.
        place: `"inputs"` or `"output"` of that module.
        act: the kernel that writes there.
        once: whether the model passes it once a prompt (image side) and not once a token.
        layered: whether there is one in every layer.
    """

    stage: int
    module: str
    place: str
    act: Callable[..., Any]
    once: bool = False
    layered: bool = True


SITES: dict[str, Site] = {
    "features": Site(
        stage=-1, module="{projector}", place="output", act=kernels.write_features, once=True, layered=False
    ),
    "embedding": Site(stage=0, module="{decoder}", place="inputs", act=kernels.write_embeddings, layered=False),
    "mask": Site(stage=1, module="{layers}.{layer}.{attention}", place="inputs", act=kernels.close_edges),
    "attention": Site(stage=2, module="{layers}.{layer}.{attention}", place="output", act=kernels.write_output),
    "mlp": Site(stage=3, module="{layers}.{layer}.{mlp}", place="output", act=kernels.write_output),
    "residual": Site(stage=4, module="{layers}.{layer}", place="output", act=kernels.write_output),
}
STATES = tuple(name for name in SITES if name != "mask")
OUTSIDE = -1
"""The layer number of sites that lie before the first layer."""


def path_of(row: Family, module: str, layer: int) -> str:
    """A site's module path in one family."""
    return module.format(layer=layer, **vars(row))


@dataclass(frozen=True)
class Window:
    """The layers `start .. stop - 1`; made by `window`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Depth:
    """The layers between two fractions of the depth; made by `depth`."""

    start: float
    stop: float


Layers = int | str | Window | Depth | Sequence[int]


def window(start: int, stop: int) -> Window:
    """The layers `start`, ..., `stop - 1`.

    Raises:
        SpecError: `stop` is not after `start`.
    """
    if not 0 <= start < stop:
        raise SpecError(f"window({start}, {stop}) holds no layer; write nv.window(8, 16) for layers 8 to 15")
    return Window(start, stop)


def depth(start: float, stop: float) -> Depth:
    """The layers from `start` to `stop` as fractions of the depth; neighbours share no layer.

    Raises:
        SpecError: the fractions are not 0 <= start < stop <= 1.
    """
    if not 0 <= start < stop <= 1:
        raise SpecError(f"depth({start}, {stop}) is no part of the depth; write nv.depth(0.25, 0.5)")
    return Depth(start, stop)


def label(value: Any) -> Any:
    """A field of an intervention as a table shows it: `8-15` for a window, `1,2,5` for a list."""
    if isinstance(value, Window):
        return f"{value.start}-{value.stop - 1}"
    if isinstance(value, Depth):
        return f"{value.start:g}-{value.stop:g}"
    if isinstance(value, tuple):
        return ",".join(str(label(part)) for part in value)
    return value


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What an intervention needs to know to lower itself: a model's shape and one seat in it.

    Attributes:
        seat: where the case sits.
        layer_count, head_count: the decoder's shape.
        captured: values `[layer, position, width]` of every patch that has a source, by `id`.
    """

    seat: Seat
    layer_count: int
    head_count: int
    captured: dict[int, Any]

    def ranges(self, where: Where) -> Ranges:
        """Positions of the case's own prompt."""
        return self.seat.tokens.ranges(where)

    def places(self, where: Where) -> Ranges:
        """The same in the sequence that runs."""
        return self.seat.places(self.ranges(where))

    def feature_places(self, where: Where) -> Ranges:
        """Positions of image tokens, counted over all images of the batch."""
        pixels = [position for image in self.seat.tokens.images for position in image]
        wanted = self.ranges(where)
        inside = [place for place, position in enumerate(pixels) if holds(wanted, position)]
        if not inside or len(inside) != sum((b or 0) - a for a, b in wanted):
            raise SpecError(
                f'site "features" holds image tokens only, and {where!r} is not made of them; write "image"'
            )
        return tuple((place + self.seat.features, place + self.seat.features + 1) for place in inside)

    def layers(self, layers: Layers) -> tuple[int, ...]:
        """Layer numbers.

        Raises:
            SpecError: a layer that the model has not got, or a word that is not "all".
        """
        found = layer_numbers(layers, self.layer_count)
        if not found and isinstance(layers, Depth):
            raise SpecError(
                f"depth({label(layers)}) holds none of the model's {self.layer_count} layers; make it wider"
            )
        outside = [layer for layer in found if not 0 <= layer < self.layer_count]
        if outside:
            raise SpecError(f"layer {outside[0]} is out of range: the model has layers 0..{self.layer_count - 1}")
        return found

    def heads(self, heads: Sequence[int | tuple[int, int]] | None, layer: int) -> tuple[int, tuple[int, ...]] | None:
        """`(head count, head numbers)` of one layer; None for every head."""
        if heads is None:
            return None
        pairs = [head if isinstance(head, tuple) else (layer, head) for head in heads]
        outside = [head for _, head in pairs if not 0 <= head < self.head_count]
        if outside:
            raise SpecError(f"head {outside[0]} is out of range: the model has heads 0..{self.head_count - 1}")
        return self.head_count, tuple(sorted({head for at, head in pairs if at == layer}))


def holds(ranges: Ranges, position: int) -> bool:
    """Whether ranges contain a position."""
    return any(start <= position and (stop is None or position < stop) for start, stop in ranges)


def layer_numbers(layers: Layers, count: int) -> tuple[int, ...]:
    """What a layer choice means in a model of `count` layers, sorted; not yet checked against it."""
    if isinstance(layers, str):
        if layers not in ("all", "attention"):
            raise SpecError(
                f'no layers {layers!r}; write "all", a number, a list, nv.window(8, 16) or nv.depth(0.25, 0.5)'
            )
        return tuple(range(count))
    if isinstance(layers, int):
        return (layers,)
    if isinstance(layers, Window):
        return tuple(range(layers.start, layers.stop))
    if isinstance(layers, Depth):
        return tuple(range(round(layers.start * count), round(layers.stop * count)))
    return tuple(sorted(set(layers)))


def scope(model: Any, seat: Seat, captured: dict[int, Any] | None = None) -> Scope:
    """The scope of one seat in a model."""
    return Scope(seat=seat, layer_count=layer_count(model), head_count=head_count(model), captured=captured or {})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sorted steps `(layer, path, place, kernel, writes, packing)`, one list a clock.

    `rows` is the batch that the steps were made for.
    """

    rows: int
    once: tuple[Step, ...]
    every_token: tuple[Step, ...]


def compile_plan(model: Any, layout: Layout, writes: Iterable[tuple[str, int, Write]]) -> Plan:
    """The plan of a layout: merge writes `(site, layer, write)` by site, in the order given, and sort the sites.

    A packed sequence needs its own mask in every layer, so every layer gets a step.
    """
    row, packing = family(model), layout.packing
    gathered: dict[tuple[int, int, str], list[Write]] = {}
    if packing is not None:
        gathered = {(layer, SITES["mask"].stage, "mask"): [] for layer in range(layer_count(model))}
    for name, layer, write in writes:
        gathered.setdefault((layer, SITES[name].stage, name), []).append(write)
    shared: dict[tuple[Write, ...], tuple[Write, ...]] = {}
    steps = []
    for (layer, _, name), found in sorted(gathered.items(), key=lambda item: item[0]):
        site, merged = SITES[name], tuple(found)
        if name == "mask":  # equal cuts are one object: layers that share a cut share a mask
            merged = shared.setdefault(merged, merged)
        copies = None if packing is None or name != "mask" else (*packing, attention_span(model, layer))
        steps.append((site.once, (layer, path_of(row, site.module, layer), site.place, site.act, merged, copies)))
    image_side, token_side = (tuple(step for once, step in steps if once == side) for side in (True, False))
    return Plan(rows=len(layout.prompt), once=image_side, every_token=token_side)


def refuse_blind_rows(cuts: Sequence[Write], tokens: Row, span: int | None) -> None:
    """Refuse cuts `(row, targets, sources, heads)` of one layer that leave a query without a key.

    `span` is the layer's sliding window, if it has one.

    Such a row would be NaN, zero or uniform, depending on the attention implementation.

    Raises:
        SpecError: naming the first such position.
    """
    single = {head for cut in cuts if cut[3] is not None for head in cut[3][1]}
    everywhere = [cut for cut in cuts if cut[3] is None]
    for head in sorted(single) or [None]:
        chosen = everywhere + [cut for cut in cuts if cut[3] is not None and head in cut[3][1]]
        blind = _blind_rows([(cut[1], cut[2]) for cut in chosen], tokens.start, tokens.stop + 1, span)
        if len(blind):
            raise SpecError(
                f"position {blind[0]} would be left with no key to attend to; leave it something to read, "
                'for example itself or the group "first"'
            )


def _blind_rows(pairs: Sequence[tuple[Ranges, Ranges]], start: int, stop: int, span: int | None) -> np.ndarray:
    """Absolute positions of targets all of whose causal keys are sources; one not-yet-written token included."""
    target = np.zeros((len(pairs), stop), dtype=bool)
    source = np.zeros((len(pairs), stop), dtype=bool)
    for number, (targets, sources) in enumerate(pairs):
        _mark(target[number], targets)
        _mark(source[number], sources)
    rows = np.flatnonzero(target.any(0))
    closed = np.einsum("pq,pk->qk", target[:, rows].astype(np.float32), source.astype(np.float32)) > 0
    keys = np.arange(stop)
    open_keys = ~closed & (keys >= start) & (keys <= rows[:, None])
    if span is not None:
        open_keys &= keys > rows[:, None] - span
    return np.asarray(rows[~open_keys.any(1)])


def _mark(line: np.ndarray, ranges: Sequence[Range]) -> None:
    for start, stop in ranges:
        line[start:stop] = True
