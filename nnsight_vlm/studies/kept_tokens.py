"""Which image tokens a context keeps when it is cut: those that come first by some score, or as many random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from ..arguments import as_index, listed, number
from ..errors import SpecError
from ..lowering.resolve import Resolver
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.ranges import Ranges
from ..specs.interventions import CLEAN, Intervention
from .controls import random_positions
from .labels import NONE, RANDOM_TOKENS, Control

Chosen = Literal["attention", "fastv", "norm", "contribution", "again"]
CHOSEN: tuple[Chosen, ...] = get_args(Chosen)
"""How image tokens are chosen.

- `attention`: in every layer those that the query tokens of the first pass attend to most (Kaduri et al. 2024).
- `fastv`: those that the last token of the first pass attends to most in an early layer, kept from the next layer on,
  while all are kept before (Chen et al. 2024).
- `norm`: those that enter the decoder with the largest norm, in all layers the same.
- `contribution`: as `attention`, by the length of the vectors that they add to the query tokens.
- `again`: every later token chooses anew, in every layer those that it attends to most itself.
"""

Kept = tuple[tuple[int, ...], ...]
"""For each layer the image tokens that it keeps, counted among the image tokens."""
KEEP = (0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0)
"""The shares of the image tokens that are kept, in per cent, unless told otherwise."""


class Ranking(NamedTuple):
    """Scores by which image tokens are chosen.

    Attributes:
        scores: `[layer, image token]`, with one row where all layers keep the same.
        first: the first layer in which tokens are left out.
    """

    scores: torch.Tensor
    first: int = 0


class Variant(NamedTuple):
    """One way to cut the context.

    Attributes:
        tokens: how image tokens are chosen.
        control: `none`, or that of a random choice.
        percent: how many are kept, of 100.
        kept: what each layer keeps: once for all later tokens, or once for each of them.
    """

    tokens: Chosen
    control: Control
    percent: float
    kept: tuple[Kept, ...]


def keep_given(given: Any) -> tuple[float, ...]:
    """Shares in per cent, ascending.

    Raises:
        SpecError: no numbers from 0 to 100, one of them twice, or none.
    """
    write = "keep=[0, 5, 100], per cent of the image tokens"
    each = (given,) if isinstance(given, float) or as_index(given) is not None else listed("keep", given, write)
    shares = [number(f"keep[{place}]", share, least=0, most=100, write=write) for place, share in enumerate(each)]
    if not shares or len(set(shares)) < len(shares):
        raise SpecError(f"keep= names {'no share' if not shares else 'a share twice'}; write {write}")
    return tuple(sorted(shares))


def count_of(percent: float, there: int) -> int:
    """How many tokens a share stands for: the nearest number, and at least one unless it is 0.

    >>> count_of(0, 100), count_of(0.1, 100), count_of(5, 25), count_of(100, 25)
    (0, 1, 1, 25)
    """
    return 0 if percent == 0 else max(1, int(percent * there / 100 + 0.5))


def variants_of(
    rankings: Mapping[Chosen, Ranking], keep: Sequence[float], layers: int, rng: np.random.Generator
) -> Iterator[Variant]:
    """For every ranking and share the tokens that come first, and as many random ones in the same layers.

    Where a ranking tells layers apart, random tokens are drawn anew in every layer; else they are the same in all.

    Args:
        rankings: by their names.
        keep: shares in per cent.
        layers: how many layers there are.
        rng: draws the random tokens, the same for all rankings of one kind.
    """
    there = max((ranking.scores.shape[1] for ranking in rankings.values()), default=0)
    for percent in keep if there else ():
        count = count_of(percent, there)
        together = random_positions(range(there), count, rng)
        apart = tuple(random_positions(range(there), count, rng) for _ in range(layers))
        for tokens, ranking in rankings.items():
            same = len(ranking.scores) == 1
            best = [best_of(row, count) for row in ranking.scores]
            chosen, drawn = (best * layers, (together,) * layers) if same else (best, apart)
            every = (tuple(range(there)),) * ranking.first
            yield Variant(tokens, NONE, percent, ((*every, *chosen[ranking.first :]),))
            yield Variant(tokens, RANDOM_TOKENS, percent, ((*every, *drawn[ranking.first :]),))


def variants_again(scores: torch.Tensor, keep: Sequence[float], rng: np.random.Generator) -> Iterator[Variant]:
    """The same where every later token chooses for itself, by scores `[layer, later token, image token]`."""
    layers, later, there = scores.shape
    for percent in keep:
        count = count_of(percent, there)
        best = (tuple(best_of(scores[layer, token], count) for layer in range(layers)) for token in range(later))
        drawn = (tuple(random_positions(range(there), count, rng) for _ in range(layers)) for _ in range(later))
        yield Variant("again", NONE, percent, tuple(best))
        yield Variant("again", RANDOM_TOKENS, percent, tuple(drawn))


def best_of(scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """The tokens with the largest scores, sorted; of equal ones the first."""
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


@dataclass(frozen=True)
class LaterCut(Intervention):
    """Cuts of what later tokens would see, layer by layer: the knockouts of many sets of image tokens as one value.

    Attributes:
        cuts: `(layer, targets, sources)`, positions as ranges.
    """

    cuts: tuple[tuple[int, Ranges, Ranges], ...]
    stage: str = "decoder"

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        here = resolver.at(self.stage).placement
        for layer, targets, sources in self.cuts:
            yield PlannedWrite(
                self.stage, "mask", layer, EdgeCut(here.row, here.places(targets), here.places(sources), None)
            )

    def first_position(self, resolver: Resolver) -> int:  # noqa: ARG002
        return min(start for _, targets, _ in self.cuts for start, _ in targets)

    def first_layer(self, resolver: Resolver) -> int:  # noqa: ARG002
        return min(layer for layer, _, _ in self.cuts)

    def fields(self) -> dict[str, Any]:
        return {"kind": "kept tokens"}


def as_masks(variant: Variant, image: Sequence[int], later: Sequence[int]) -> Intervention:
    """A variant as cuts of attention in a run of the whole sequence; the clean run where nothing is left out.

    Args:
        variant: what is kept.
        image: the positions of the image tokens.
        later: those of the tokens behind the first pass.
    """
    once = len(variant.kept) == 1
    targets = [Ranges(((later[0], None),))] if once else [Ranges.of([position]) for position in later]
    cuts = tuple(
        (layer, target, Ranges.of(dropped))
        for target, kept in zip(targets, variant.kept, strict=True)
        for layer, tokens in enumerate(kept)
        if (dropped := set(image).difference(image[token] for token in tokens))
    )
    return LaterCut(cuts) if cuts else CLEAN
