"""What an intervention is: a frozen value that says what to change, and knows nothing of models.

`a | b` does both; where they meet at one site, the left one acts first. Each kind (`knockouts`, `states`) has a method
`lower`, which turns the intervention into writes. Its `Resolver` translates the names of groups, layers and heads for
one model and prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..arguments import spelled
from ..errors import SpecError
from ..lowering.layers import Layers, label
from ..lowering.resolve import Resolver
from ..lowering.sites import StateSite
from ..lowering.writes import PlannedWrite
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap
from ..prompts.where import Where
from .named import Named


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Hidden states to take from another run: `where` of `prompt`, run `under` an intervention.

    `heads` are head numbers, of sites that have heads; None for all.
    """

    prompt: Prompt
    under: Intervention | None
    where: Where
    layers: Layers
    site: StateSite
    stage: str
    heads: tuple[int, ...] | None = None


class Intervention(Named, ABC):
    """Something to change in a run. Compose with `|`."""

    stage: str

    @property
    def acts_in(self) -> str:
        """The stage that a single intervention changes."""
        return self.stage

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The single interventions, left to right."""
        return (self,)

    @abstractmethod
    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        """The writes of one case, each with the site at which it is applied.

        Raises:
            SpecError: the prompt or model has not got what the intervention names.
        """

    @abstractmethod
    def first_position(self, resolver: Resolver) -> int:
        """The first position of the prompt that changes; positions before it are as in a clean run."""

    @abstractmethod
    def first_layer(self, resolver: Resolver) -> int:
        """The first decoder layer in which anything changes; what enters it is as in a clean run."""

    def named(self) -> dict[str, Where]:
        """The positions that a single intervention names, by argument."""
        return {}

    def why_without_writes(self, resolver: Resolver) -> str:  # noqa: ARG002
        """Why a single intervention was lowered to nothing although its positions are there, for a message."""
        return "it names nothing to change"

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """What a table shows of it, column by column."""

    def capture(self) -> Capture | None:
        """The hidden states of another run that it needs, if any."""
        return None

    def __or__(self, other: Intervention) -> Intervention:
        """Both; at one site the left acts first."""
        if not isinstance(other, Intervention):
            raise SpecError(f"{spelled(other)} is no intervention; compose with | only Knockout, Patch, Add and so on")
        return Composed(parts=self.parts + other.parts)

    def __add__(self, other: object) -> NoReturn:
        """Refused, for `sum` as for `a + b`: interventions are joined with `|`.

        Raises:
            SpecError: always.
        """
        raise SpecError("interventions are not added; join with |, as in cut | patch")

    __radd__ = __add__


@dataclass(frozen=True, kw_only=True)
class Composed(Intervention):
    """Several interventions in one run, made by `|`; with no parts, the clean run."""

    parts: tuple[Intervention, ...] = ()

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        for part in self.parts:
            yield from part.lower(resolver)

    def first_position(self, resolver: Resolver) -> int:
        return min((part.first_position(resolver) for part in self.parts), default=resolver.placement.tokens.answer - 1)

    def first_layer(self, resolver: Resolver) -> int:
        return min((part.first_layer(resolver) for part in self.parts), default=resolver.spec.layer_count)

    def fields(self) -> dict[str, Any]:
        of_parts = [part.fields() for part in self.parts]
        keys = dict.fromkeys(key for fields in of_parts for key in fields)
        joined = {key: " | ".join(str(label(fields[key])) for fields in of_parts if key in fields) for key in keys}
        return joined or {"kind": "clean"}


CLEAN = Composed()
"""The clean run: nothing is changed."""


def start_of_block(tokens: TokenMap, position: int) -> int:
    """Earliest affected position: in a block that sees itself both ways all tokens change when one does."""
    return min([position, *(start for block in tokens.blocks if position in block for start, _ in block)])
