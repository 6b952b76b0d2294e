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

from . import kernels, readouts
from .errors import SpecError
from .families import Family, attention_span, family, head_count, hidden_width, layer_count
from .layers import Layers, layer_numbers
from .layouts import Layout, Seat
from .rows import Range, Ranges, Row, Where, ascending, frozen

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
        read: the readout of hidden states there.
        read_at: what `runner.collect` hands that readout.
        once: whether the model passes it once a prompt (image side) and not once a token.
        layered: whether there is one in every layer.
    """

    stage: int
    module: str
    place: str
    act: Callable[..., Any]
    read: Callable[..., Any] = readouts.hidden_rows
    read_at: str = "output"
    once: bool = False
    layered: bool = True


SITES: dict[str, Site] = {
    "features": Site(
        stage=-1,
        module="{projector}",
        place="output",
        act=kernels.write_features,
        read=readouts.feature_rows,
        read_at="features",
        once=True,
        layered=False,
    ),
    "embedding": Site(
        stage=0,
        module="{decoder}",
        place="inputs",
        act=kernels.write_embeddings,
        read=readouts.embedding_rows,
        read_at="inputs",
        layered=False,
    ),
    "mask": Site(stage=1, module="{layers}.{layer}.{attention}", place="inputs", act=kernels.close_edges),
    "attention": Site(stage=2, module="{layers}.{layer}.{attention}", place="output", act=kernels.write_output),
    "mlp": Site(stage=3, module="{layers}.{layer}.{mlp}", place="output", act=kernels.write_output),
    "residual": Site(stage=4, module="{layers}.{layer}", place="output", act=kernels.write_output),
}
STATES = tuple(name for name in SITES if name != "mask")
OUTSIDE = -1
"""The layer number of sites that lie before the first layer."""


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


def settle_state(spec: Any) -> None:
    """What every spec of hidden states checks of its `where`, `layers` and `site` when it is made.

    Raises:
        SpecError: positions that do not ascend, or no such site.
    """
    for name in ("where", "layers"):
        object.__setattr__(spec, name, frozen(getattr(spec, name)))
    ascending(spec.where)
    if spec.site not in STATES:
        raise SpecError(f"no site {spec.site!r}; the sites are {', '.join(STATES)}")


def path_of(row: Family, module: str, layer: int) -> str:
    """A site's module path in one family."""
    return module.format(layer=layer, **vars(row))


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What an intervention needs to know to lower itself: a model's shape and one seat in it.

    Attributes:
        seat: where the case sits.
        layer_count, head_count, width: the decoder's shape.
        captured: values `[layer, position, width]` of every patch that has a source, by `id`.
    """

    seat: Seat
    layer_count: int
    head_count: int
    width: int
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

    def state_places(self, site: str, where: Where) -> tuple[int, Ranges]:
        """Row and places where a site holds positions; image features of all rows are one line."""
        if site == "features":
            return 0, self.feature_places(where)
        return self.seat.row, self.places(where)

    def layers(self, layers: Layers) -> tuple[int, ...]:
        """Layer numbers; see `layer_numbers`."""
        return layer_numbers(layers, self.layer_count)

    def state_layers(self, site: str, layers: Layers) -> tuple[int, ...]:
        """The same at a site; `(OUTSIDE,)` for one before the first layer."""
        return self.layers(layers) if SITES[site].layered else (OUTSIDE,)

    def heads(self, heads: Heads, layer: int) -> tuple[int, tuple[int, ...]] | None:
        """`(head count, head numbers)` of one layer; None for every head."""
        listed = listed_heads(heads)
        if listed is None:
            return None
        pairs = [head if isinstance(head, tuple) else (layer, head) for head in listed]
        outside = [head for _, head in pairs if not 0 <= head < self.head_count]
        if outside:
            raise SpecError(f"head {outside[0]} is out of range: the model has heads 0..{self.head_count - 1}")
        return self.head_count, tuple(sorted({head for at, head in pairs if at == layer}))


def scope(model: Any, seat: Seat, captured: dict[int, Any] | None = None) -> Scope:
    """The scope of one seat in a model."""
    return Scope(
        seat=seat,
        layer_count=layer_count(model),
        head_count=head_count(model),
        width=hidden_width(model),
        captured=captured or {},
    )


def holds(ranges: Ranges, position: int) -> bool:
    """Whether ranges contain a position."""
    return any(start <= position and (stop is None or position < stop) for start, stop in ranges)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sorted steps `(layer, path, place, kernel, writes, packing)`, one list a clock.

    `rows` and `features` are the batch that the steps were made for, and its image tokens.
    """

    rows: int
    features: int
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
    features = sum(len(image) for row in layout.prompt.rows for image in row.images)
    return Plan(rows=len(layout.prompt), features=features, once=image_side, every_token=token_side)


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
