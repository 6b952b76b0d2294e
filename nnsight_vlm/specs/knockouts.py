"""Attention knockout and limits: edges along which some tokens read from others lose their weight.

References: Geva et al. 2023 (arXiv 2304.14767); on image tokens, Kaduri et al. 2024 (arXiv 2411.17491).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..arguments import one_of, whole_number
from ..errors import SpecError
from ..lowering.head_choice import listed_heads
from ..lowering.resolve import Resolver
from ..lowering.writes import EdgeCut
from .edges import EdgeIntervention

Cutting = Literal["mask", "zero"]
CUTTING: tuple[Cutting, ...] = get_args(Cutting)


@dataclass(frozen=True)
class Knockout(EdgeIntervention):
    """Close the attention edges along which `target` reads from `source`.

    Information flows source -> target: `Knockout("image", "query")` keeps the query from seeing the
    image. A closed edge has attention probability exactly 0. By default it is closed in the mask, before the softmax,
    so the rest of the row renormalises.

    Args:
        source: group name(s) or positions of the keys.
        target: group name(s) or positions of the queries.
        layers: which layers; see `window` and `depth`.
        heads: which heads, as numbers (in each of the layers) or `(layer, head)` pairs; default all. Layers count from
            the end where they are negative.
        stage: the transformer whose tokens and layers are meant, where a model has several: `"vision"`, the vision
            tower, whose groups `prompt.positions(..., stage="vision")` tells; `"qformer"`, `"encoder"`.
        how: `"mask"`, before the softmax; or `"zero"`, behind it: what the edge carries is taken out of the sum, and
            all other weights stay as they are. A row then adds up to less than 1, and a query may be left with nothing.
            How great the others' weights are still depends on the source.

    Where the image is read through cross-attention, a cut of image tokens closes cross-attention edges; the output of a
    query that loses all of them is 0.

    >>> Knockout("image", "query", layers=3) | Knockout("image", "last")  # doctest: +ELLIPSIS
    Composed(parts=(Knockout(source='image', target='query', layers=3, heads=None, stage='decoder', how='mask'), ...
    """

    how: Cutting = field(default="mask", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("how", self.how, CUTTING, "knockout how=")

    def cut_of(self, edges: EdgeCut) -> EdgeCut:
        return edges._replace(how=self.how)

    def fields(self) -> dict[str, Any]:
        return super().fields() | ({} if self.how == "mask" else {"how": self.how})


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


@dataclass(frozen=True)
class Limit(EdgeIntervention):
    """Let `target` read from only those `top` of the `source` that it looks at most, in every head and row for itself.

    The weights that are left, those of keys that are no source among them, renormalise: it is the knockout of all other
    sources, chosen by the attention itself in this run. Of equally great weights the earlier position's is kept.

    Args:
        source: group name(s) or positions of the keys.
        target: group name(s) or positions of the queries, `"generated"` too.
        top: how many sources are kept.
        layers, heads, stage: see `Knockout`.

    >>> Limit("image", "last", top=5, layers=[4, 5]).top
    5
    """

    top: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "top", whole_number("top", self.top, least=1, kind="number of sources"))

    def cut_of(self, edges: EdgeCut) -> EdgeCut:
        return edges._replace(how="limit", top=self.top)

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"top": self.top}
