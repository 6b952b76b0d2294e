"""Hidden states that are written: activation patching and ablation.

References: interchange patching, Geiger et al. 2021 (arXiv 2106.02997).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from ..arguments import instance, one_of, spelled
from ..errors import SpecError
from ..lowering.head_choice import Heads, numbers_of, require_ascending_heads, require_named_layers
from ..lowering.layers import Layers
from ..lowering.resolve import Resolver
from ..lowering.sites import AT_PROJECTOR, HEAD_SITES, StateSite, check_state_spec
from ..lowering.state_values import RemoteStates
from ..lowering.writes import PlannedWrite, StateWrite
from ..prompts.prompt import Prompt
from ..prompts.where import Where, as_tuples, names_in, require_ascending
from .head_states import laid_out, refuse_misfit
from .interventions import Capture, Intervention, start_of_block

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


@dataclass(frozen=True)
class StateIntervention(Intervention):
    """Writes hidden states at positions `where` of a site: what `Patch` and `Ablate` share.

    Sites: `residual` (a layer's output), `attention`, `cross` (cross-attention) and `mlp` (what they add
    to the residual stream), `embedding` (what enters the first layer), `features` (the image features that leave the
    projector). `stage` is as in `Knockout`.

    Sites of heads, each `[head, position, head_dim]`: `query`, `key` and `value` are what the attention function is
    handed, queries and keys as they were rotated by their position; `key` and `value` count the heads that keys have,
    which several query heads may share. `head` is each head's output as the output projection is handed it. Of
    cross-attention, `cross query` and `cross head`; keys and values outside the sequence are its own. `heads` are
    numbers, in each of the layers, or `(layer, head)` pairs; default all. A key or value that is written is what every
    later token sees, decoded ones too. Layers that are handed another layer's keys (Gemma 3n, Gemma 4) are handed them
    as they were; write them in each layer.
    """

    where: Where
    layers: Layers = field(default="all", kw_only=True)
    site: StateSite = field(default="residual", kw_only=True)
    stage: str = field(default="decoder", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)

    GIVEN = "source"
    """The argument that gives the values that are written, for messages."""

    def __post_init__(self) -> None:
        check_state_spec(self)

    def tensor_writes(self, resolver: Resolver, given: torch.Tensor, how: str) -> Iterator[PlannedWrite]:
        """Writes of a tensor that a user gave, see `laid_out`; one vector is for every position, to come too.

        Raises:
            SpecError: the tensor does not fit the positions, the layers or the model.
        """
        values = laid_out(self, resolver, given)
        if values.shape[1] != 1:
            yield from self.set_values(resolver, values, how)
            return
        here = resolver.at(self.stage)
        site = here.site_of(self.site, self.where)
        layers = here.ordered_layers(site, self.layers)
        row, places = here.state_places(site, self.where)
        if layers:
            self._check_values(here, values, 1, layers)
        for layer, vector in zip(layers, values.expand(len(layers), -1, -1), strict=True):
            yield from self.write_in(here, layer, StateWrite(row, places, how, vector[0]))
        require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)

    def set_values(
        self, resolver: Resolver, given: torch.Tensor | RemoteStates, how: str = "set"
    ) -> Iterator[PlannedWrite]:
        """Writes of values `[layer, position, width]`, here or on the server.

        Raises:
            SpecError: source and target differ in their number of positions or layers.
        """
        here = resolver.at(self.stage)
        values = given.like if isinstance(given, RemoteStates) else given
        site = here.site_of(self.site, self.where)
        layers = here.ordered_layers(site, self.layers)
        row, places, count = here.closed_places(site, self.where)
        if not count or not layers:
            return
        if "generated" in names_in(self.where) and not here.positions("generated"):
            raise SpecError(f'{self.still_to_come()}; leave "generated" out')
        self._check_values(here, values, count, layers)
        by_layer: Any = values.expand(len(layers), -1, -1)
        if isinstance(given, RemoteStates):
            by_layer = given.slots * (len(layers) // len(given.slots))
        for layer, states in zip(layers, by_layer, strict=True):
            yield from self.write_in(here, layer, StateWrite(row, places, how, states))
        require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)

    def write_in(self, here: Resolver, layer: int, write: StateWrite) -> Iterator[PlannedWrite]:
        """The write in one layer, of the heads that are named there; nothing where none is.

        Args:
            here: the case, in this stage.
            layer: number of the layer.
            write: of all heads; `values` are those of every head that is named in any layer.
        """
        if self.site not in HEAD_SITES:
            yield PlannedWrite(*self.at, layer, write)
            return
        site = here.site_of(self.site, self.where)
        heads = here.heads(self.heads, layer, site)
        if heads is None or heads.numbers:
            yield PlannedWrite(self.stage, site, layer, write._replace(heads=heads, held=numbers_of(self.heads)))

    def _check_values(self, here: Resolver, values: torch.Tensor, positions: int, layers: Sequence[int]) -> None:
        refuse_misfit(self, here, values, positions, layers)
        width = here.width(self.site, layers, self.heads)
        if self.site != "projector" and values.shape[-1] != width:
            raise SpecError(f"the values of {self.GIVEN}= are {values.shape[-1]} wide and the model's states {width}")

    def captured_from(self, source: Prompt, under: Intervention | None, where: Where) -> Capture:
        """The states to take from another run at this site."""
        heads = numbers_of(self.heads)
        return Capture(
            prompt=source, under=under, where=where, layers=self.layers, site=self.site, stage=self.stage, heads=heads
        )

    @property
    def acts_in(self) -> str:
        return self.at[0]

    @property
    def at(self) -> tuple[str, str]:
        """`(stage, site)`; image features lie between the stages."""
        return ("features" if self.site in AT_PROJECTOR else self.stage, self.site)

    def first_position(self, resolver: Resolver) -> int:
        tokens = resolver.placement.tokens
        if self.stage != "decoder":
            return tokens.start
        first = resolver.ranges(self.where).first
        return start_of_block(tokens, tokens.stop - 1 if first is None else max(first, tokens.start))

    def first_layer(self, resolver: Resolver) -> int:
        if self.stage != "decoder":
            return 0
        changed = resolver.state_layers(resolver.site_of(self.site, self.where), self.layers)
        return max(0, min(changed, default=resolver.spec.layer_count))

    def named(self) -> dict[str, Where]:
        return {"where": self.where}

    def why_without_writes(self, resolver: Resolver) -> str:
        if self.heads == ():
            return "heads=() names no head"
        if not resolver.state_layers(resolver.site_of(self.site, self.where), self.layers):
            return f"layers={self.layers!r} names no layer"
        if self.site == "features":
            return "these image tokens come from no image feature: they are line breaks between rows of patches"
        return self.still_to_come()

    def still_to_come(self) -> str:
        """Why a state for each position cannot be written at tokens to come, for a message."""
        return (
            f"states that were made for each position are written at tokens that are there already, and in "
            f"{self.where!r} the generated ones are still to come; give one vector [width] for all, patch the prompt "
            "that a generation has grown, or ablate"
        )

    def fields(self) -> dict[str, Any]:
        named = {"kind": type(self).__name__.lower(), "where": self.where, "layers": self.layers, "site": self.site}
        stage = {} if self.stage == "decoder" else {"stage": self.stage}
        return {**named, **stage} | ({} if self.heads is None else {"heads": self.heads})


@dataclass(frozen=True, eq=False)
class Patch(StateIntervention):
    """Write another run's hidden states over this run's (activation or interchange patching).

    Args:
        where: positions to write, in the run that is patched.
        source: the `Prompt` whose run gives the values (one row), or a tensor: `[width]`, one vector for every
            position, `[position, width]` or `[layer, position, width]`; for sites of heads `[layer, head, position,
            head_dim]` or `[head, position, head_dim]`, or for every head `[position, head_dim]` or `[head_dim]`. One
            vector for every position, where `position` is 1 too, is also written at `"generated"` tokens. Keys and
            queries can be taken from another run at equal positions only, because they were rotated by theirs.
        layers, site, stage, heads: see `StateIntervention`.
        under: intervention on the source run; with the same prompt as source this is path patching.
        source_where: positions in the source; default the same names as `where`.
    """

    source: Prompt | torch.Tensor = field(kw_only=True)
    under: Intervention | None = field(default=None, kw_only=True)
    source_where: Where | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "source_where", as_tuples(self.source_where))
        require_ascending(self.source_where)
        require_ascending_heads(self.heads)
        if isinstance(self.source, torch.Tensor):  # a value of its own: the caller may write into the tensor later
            object.__setattr__(self, "source", self.source.detach().clone())
        is_tensor = isinstance(self.source, torch.Tensor) and not self.source.is_complex()
        if not is_tensor and not isinstance(self.source, Prompt):
            raise SpecError(
                f"a patch takes its values from a Prompt or a tensor of numbers; source={spelled(self.source)} of type "
                f"{type(self.source).__name__} was given"
            )
        if self.under is not None:
            instance("under", self.under, Intervention, 'an intervention, under=nv.Knockout("image", "last")')
        if isinstance(self.source, torch.Tensor):
            for name in ("under", "source_where"):
                if getattr(self, name) is not None:
                    raise SpecError(
                        f"{name}= says how the source is run, and a tensor is not run; give a Prompt as source, or "
                        "leave it out"
                    )

    def capture(self) -> Capture | None:
        if not isinstance(self.source, Prompt) or self.layers == ():
            return None
        where = self.where if self.source_where is None else self.source_where
        return self.captured_from(self.source, self.under, where)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        if self.layers == ():
            return
        if isinstance(self.source, Prompt):
            yield from self.set_values(resolver, resolver.captured[id(self)])
            return
        yield from self.tensor_writes(resolver, self.source, "set")


@dataclass(frozen=True, eq=False)
class Ablate(StateIntervention):
    """Replace hidden states by zero, by their mean, or by those of another prompt.

    Args:
        where, layers, site, stage, heads: see `StateIntervention`.
        how: `zero`; `mean`, the mean over these positions of the prompt in this run (decoded tokens
            are left alone); or `resample`, the values that `where` has in the run of `source`. A group is looked up in
            each prompt: `"query"` takes the other prompt's query, wherever it lies there, and must be as long.
        source: the other prompt, for `resample`.

    To write a mean over a data set, use `Patch` with a tensor.
    """

    how: Ablation = field(default="zero", kw_only=True)
    source: Prompt | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("how", self.how, ABLATIONS, "ablation how=")
        if (self.how == "resample") != isinstance(self.source, Prompt):
            raise SpecError(
                'resampling needs the prompt to sample from: nv.Ablate("image", how="resample", source=other)'
            )

    def capture(self) -> Capture | None:
        return None if self.source is None or self.layers == () else self.captured_from(self.source, None, self.where)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        if self.layers == ():
            return
        if self.source is not None:
            yield from self.set_values(resolver, resolver.captured[id(self)])
            return
        here, where = resolver.at(self.stage), self.where
        if self.how == "mean":  # decoded tokens are left out: the mean over one token is that token
            named = here.ranges(self.where)
            where = named.positions(here.placement.tokens.answer)
            if named and not where:
                raise SpecError("tokens that are not written yet have no mean; give positions of a grown prompt")
        site = here.site_of(self.site, self.where)
        layers = here.state_layers(site, self.layers)
        row, places = here.state_places(site, where)
        for layer in layers:
            yield from self.write_in(here, layer, StateWrite(row, places, self.how, None))
        require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"how": self.how}
