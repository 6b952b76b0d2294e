"""Attention knockout: close the edges along which some tokens read from others.

References: Geva et al. 2023 (arXiv 2304.14767); on image tokens, Kaduri et al. 2024 (arXiv 2411.17491).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arguments import text
from ..errors import SpecError
from ..lowering.heads import Heads, listed_heads, require_named_layers
from ..lowering.layers import Layers
from ..lowering.resolve import Resolver
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.where import Where, as_tuples
from .interventions import Intervention, start_of_block


@dataclass(frozen=True)
class Knockout(Intervention):
    """Close the attention edges along which `target` reads from `source`.

    Information flows source -> target: `Knockout("image", "query")` keeps the query from seeing the
    image. A closed edge has attention probability exactly 0; the rest of the row renormalises.

    Args:
        source: group name(s) or positions of the keys.
        target: group name(s) or positions of the queries.
        layers: which layers; see `window` and `depth`.
        heads: which heads, as numbers (in each of the layers) or `(layer, head)` pairs; default all. Layers count from
            the end where they are negative.
        stage: the transformer whose tokens and layers are meant, where a model has several: `"qformer"`,
            `"encoder"`.

    Where the image is read through cross-attention, a cut of image tokens closes cross-attention edges; the output of a
    query that loses all of them is 0.

    >>> Knockout("image", "query", layers=3) | Knockout("image", "last")  # doctest: +ELLIPSIS
    Composed(parts=(Knockout(source='image', target='query', layers=3, heads=None, stage='decoder'), ...
    """

    source: Where
    target: Where
    layers: Layers = field(default="all", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)
    stage: str = field(default="decoder", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("source", "target", "layers"):
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        object.__setattr__(self, "heads", listed_heads(self.heads))
        text("stage", self.stage, 'stage="decoder"')

    def cut_layers(self, resolver: Resolver, needs: str) -> tuple[int, ...]:
        """The layers that are cut, of those with `"attention"` or `"cross"`."""
        return resolver.layers(self.layers, needs)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        here = resolver.at(self.stage)
        targets, (inside, outside) = here.places(self.target), here.keys(self.source)
        if outside:
            here.check_readers(self.target, targets)
        for site, needs, sources in (("mask", "attention", inside), ("cross mask", "cross", outside)):
            layers = self.cut_layers(here, needs) if sources else ()
            for layer in layers:
                heads = here.heads(self.heads, layer)
                if heads is None or heads.numbers:
                    yield PlannedWrite(self.stage, site, layer, EdgeCut(here.placement.row, targets, sources, heads))
            require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)

    def first_position(self, resolver: Resolver) -> int:
        """The first target that could read a source; earlier queries see no source, so nothing changes for them."""
        tokens = resolver.placement.tokens
        if self.stage != "decoder":
            return tokens.start
        last, source = tokens.stop - 1, resolver.ranges(self.source).first
        first = last if source is None else source
        targets = resolver.positions(self.target)
        return start_of_block(tokens, next((place for place in targets if tokens.last_seen(place) >= first), last))

    def first_layer(self, resolver: Resolver) -> int:
        cut = [write.layer for write in self.lower(resolver)]
        return min(cut, default=resolver.spec.layer_count) if self.stage == "decoder" else 0

    def named(self) -> dict[str, Where]:
        return {"source": self.source, "target": self.target}

    def why_without_writes(self, resolver: Resolver) -> str:  # noqa: ARG002
        return f"heads={self.heads!r} names no head" if self.heads == () else f"layers={self.layers!r} names no layer"

    def fields(self) -> dict[str, Any]:
        named = {"kind": type(self).__name__.lower(), "source": self.source, "target": self.target}
        stage = {} if self.stage == "decoder" else {"stage": self.stage}
        return {**named, "layers": self.layers, **stage} | ({} if self.heads is None else {"heads": self.heads})


@dataclass(frozen=True)
class Allow(Knockout):
    """Let `target` read from `source` in these layers only: a knockout of all the others.

    With `heads`, only these heads are cut there.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(head, tuple) for head in listed_heads(self.heads) or ()):
            raise SpecError(
                f"Allow cuts the layers that it does not name; give head numbers, not pairs: {self.heads!r}"
            )

    def cut_layers(self, resolver: Resolver, needs: str) -> tuple[int, ...]:
        allowed = set(resolver.layers(self.layers, needs))
        there = resolver.spec.attention if needs == "attention" else resolver.spec.cross
        return tuple(layer for layer in there if layer not in allowed)

    def why_without_writes(self, resolver: Resolver) -> str:
        if self.heads == ():
            return super().why_without_writes(resolver)
        return f"layers={self.layers!r} lets every layer through that has this attention, so none is left to cut"
