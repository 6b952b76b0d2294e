"""What is done to attention edges: what `Knockout`, `Allow` and `Limit` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arguments import text
from ..lowering.head_choice import Heads, listed_heads, require_named_layers
from ..lowering.layers import Layers
from ..lowering.resolve import Resolver
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.where import Where, as_tuples
from .interventions import Intervention, start_of_block


@dataclass(frozen=True)
class EdgeIntervention(Intervention):
    """Does something to the attention edges along which `target` reads from `source`."""

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

    @abstractmethod
    def cut_of(self, edges: EdgeCut) -> EdgeCut:
        """What is done to edges of one row and layer; without a word, their mask is closed."""

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        here = resolver.at(self.stage)
        targets, (inside, outside) = here.places(self.target), here.keys(self.source)
        if outside:
            here.check_readers(self.target, targets)
        for of, needs, sources in (("", "attention", inside), ("cross ", "cross", outside)):
            layers = self.cut_layers(here, needs) if sources else ()
            for layer in layers:
                heads = here.heads(self.heads, layer)
                if heads is None or heads.numbers:
                    cut = self.cut_of(EdgeCut(here.placement.row, targets, sources, heads))
                    yield PlannedWrite(self.stage, of + ("mask" if cut.how == "mask" else "weights"), layer, cut)
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
