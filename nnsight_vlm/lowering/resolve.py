"""From names to places: what groups, layers and heads mean for one case, in one model, at one placement.

Raises SpecError for what the model or the prompt does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ..errors import SpecError
from ..families import Family, Model, StageSpec, view_of
from ..prompts.ranges import Ranges
from ..prompts.where import Where, as_tuples, shown
from .layers import Depth, Layers, Window, label, layer_numbers, require_ascending_layers
from .layouts import Placement
from .sites import BEFORE_LAYERS, SITES, refuse_two_projections
from .writes import HeadChoice

Heads = int | Sequence[int | tuple[int, int]] | None


def listed_heads(heads: Any) -> tuple[int | tuple[int, int], ...] | None:
    """A head choice as a tuple of head numbers and `(layer, head)` pairs; None for every head.

    Raises:
        SpecError: anything else.
    """
    if heads is None:
        return None
    listed = as_tuples(heads)
    listed = listed if isinstance(listed, tuple) else (listed,)
    pairs = [head if isinstance(head, tuple) else (0, head) for head in listed]
    if not all(len(pair) == 2 and all(type(number) is int for number in pair) for pair in pairs):
        given = listed[0] if len(listed) == 1 else listed
        raise SpecError(
            f"no heads {shown(given)}; write head numbers [0, 3], or (layer, head) pairs [(9, 3)]; of a mask "
            "[head for head, on in enumerate(mask) if on]"
        )
    return listed


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteStates:
    """Marks states of another run that are not here: that run fills the slots on the server, in the same job.

    Attributes:
        like: a tensor of their shape `[layer, position, width]`, without values.
        slots: for each layer a list, empty here; on the server it holds that layer's states.
        call: the model call that fills them.
    """

    like: torch.Tensor
    slots: tuple[list[Any], ...]
    call: Any


StateValues = dict[int, "torch.Tensor | RemoteStates"]
"""The states `[layer, position, width]` that patches take from other runs, by `id` of the patch."""


class StatePlaces(NamedTuple):
    """Where a site holds some positions: the row of the batch, and places in it."""

    row: int
    ranges: Ranges


class ClosedPlaces(NamedTuple):
    """Like `StatePlaces`, for positions that exist already, with their count."""

    row: int
    ranges: Ranges
    size: int


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """What an intervention needs to lower itself: the sizes of a model, and the placement of one case.

    Attributes:
        family: the row of the family table.
        specs: the sizes of every stage.
        placement: where the case sits.
        captured: the states of every patch that has a source; while a patch is checked, only their shapes.
        stage: the stage whose positions and layers are meant.
    """

    family: Family
    specs: Mapping[str, StageSpec]
    placement: Placement
    captured: Mapping[int, torch.Tensor | RemoteStates]
    stage: str = "decoder"

    def at(self, stage: str) -> Resolver:
        """The same case in another stage.

        Raises:
            SpecError: the model has no such stage.
        """
        return self if stage == self.stage else replace(self, placement=self.placement.at(stage), stage=stage)

    @property
    def spec(self) -> StageSpec:
        """The sizes of the stage."""
        return self.specs[self.stage]

    # positions ------------------------------------------------------------------------------------

    def ranges(self, where: Where) -> Ranges:
        """Positions of the case's own prompt; none of a group that is empty in it.

        Raises:
            SpecError: see `TokenMap.ranges`.
        """
        return self.placement.tokens.ranges(where)

    def positions(self, where: Where) -> tuple[int, ...]:
        """The positions of the case's own prompt one by one, without tokens to come."""
        return self.ranges(where).positions(self.placement.tokens.stop)

    def places(self, where: Where) -> Ranges:
        """Where positions of the case lie in the sequence that runs.

        Raises:
            SpecError: some lie outside the sequence.
        """
        ranges = self.ranges(where)
        if ranges.outside:
            others = " or ".join(f"stage={name!r}" for name in self.family.stages if name != self.stage)
            raise SpecError(
                f"{where!r} lies outside the sequence of the {self.stage}, which only reads it through "
                f"cross-attention: it can be a source there; to change it, write {others or 'site=' + repr('features')}"
            )
        return self.placement.places(ranges)

    def keys(self, where: Where) -> tuple[Ranges, Ranges]:
        """Positions that can be attended to: in the sequence that runs, and outside it."""
        ranges = self.ranges(where)
        return self.placement.places(ranges.inside), self.placement.places(ranges.outside)

    def feature_places(self, where: Where) -> Ranges:
        """Rows of the projector's output that image tokens come from, counted over the whole batch.

        Raises:
            SpecError: something else than image tokens, or a stage that runs before the projector.
        """
        tokens = self.placement.tokens
        if self.spec.stage.keys:
            raise SpecError(
                f'site "features" is what the projector gives of the prompt\'s image tokens, after the {self.stage}, '
                f'whose "image" is the patches that it reads; leave out stage={self.stage!r}'
            )
        refuse_two_projections(self.family, [tokens])
        held = [position for visual in tokens.visuals for position in visual.positions]
        rows = [row for visual in tokens.features for row in visual] or list(range(len(held)))
        wanted = self.ranges(where)
        if not wanted:
            return Ranges()
        chosen = [row for row, position in zip(rows, held, strict=True) if position in wanted]
        if not chosen or len(chosen) != sum((stop or 0) - start for start, stop in wanted):
            raise SpecError(
                f'site "features" holds tokens of images and videos only, and {where!r} is not made of them; write '
                f'"{tokens.visuals[0].kind if tokens.visuals else "image"}"'
            )
        # line breaks between rows of patches come from no feature
        return Ranges.in_order([row + self.placement.features for row in chosen if row >= 0])

    def state_places(self, site: str, where: Where) -> StatePlaces:
        """Where a site holds positions. The image features of all rows are concatenated, so their row is 0."""
        if site == "features":
            return StatePlaces(0, self.feature_places(where))
        places = self.places(where)
        if site in ("cross", "mlp"):
            self.check_readers(where, places)
        return StatePlaces(self.placement.row, places)

    def check_readers(self, where: Where, places: Ranges) -> None:
        """Refuse a Q-Former's text tokens at sites that only its query tokens reach.

        Raises:
            SpecError: some of the places are not the queries'.
        """
        last = self.placement.tokens.readers
        if last is not None and any(stop is None or stop > self.placement.place(last) for _, stop in places):
            raise SpecError(
                f"{where!r} is not made of the {self.stage}'s queries; only these read the image and pass this site; "
                'write "query"'
            )

    def closed_places(self, site: str, where: Where) -> ClosedPlaces:
        """Where a site holds positions, tokens to come left out."""
        positions = self.positions(where)
        row, places = self.state_places(site, positions) if positions else (self.placement.row, Ranges())
        return ClosedPlaces(row, places, sum((stop or 0) - start for start, stop in places))

    # layers, sites and heads ----------------------------------------------------------------------

    def layers(self, layers: Layers, needs: str = "") -> tuple[int, ...]:
        """Layer numbers, of those that have `"attention"`, `"cross"` or (`""`) anything; see `layer_numbers`.

        None are given only where none were named.

        Raises:
            SpecError: a named layer lacks it; `"all"` on a model whose recurrent layers would carry on what is cut.
        """
        numbers = layer_numbers(layers, self.spec.layer_count)
        if not numbers:
            return ()
        if layers == "attention":
            needs = needs or "attention"
        having = {"attention": self.spec.attention, "cross": self.spec.cross}.get(needs, numbers)
        chosen = tuple(layer for layer in numbers if layer in having)
        if layers == "all" and needs == "attention" and self.spec.recurrent:
            raise SpecError(
                f"only layers {label(having)} of {self.spec.layer_count} have attention; in the others a state runs "
                'through the sequence and would carry on what "all" seems to cut. Write layers="attention"'
            )
        named = not isinstance(layers, (str, Window, Depth))
        if not chosen or (named and len(chosen) < len(numbers)):
            missing = next((layer for layer in numbers if layer not in having), None)
            kind = "cross-attention" if needs == "cross" else "self-attention"
            raise SpecError(f"layer {missing} of the {self.stage} has no {kind}; layers {label(having)} have")
        self._check_run(numbers, chosen)
        return chosen

    def _check_run(self, numbers: Sequence[int], chosen: Sequence[int]) -> None:
        """Refuse layers that only read an image, in a prompt without one: the model passes them by.

        Raises:
            SpecError: some of the chosen layers are such layers.
        """
        without_image = self.family.image_at == "cross" and not self.placement.tokens.outside
        skipped = set(self.spec.cross).intersection(chosen) if without_image else ()
        if skipped:
            others = [layer for layer in numbers if layer not in skipped] or [
                layer for layer in range(self.spec.layer_count) if layer not in self.spec.cross
            ]
            raise SpecError(
                f"layer {min(skipped)} of the {self.stage} reads the image and does not run in a prompt without one; "
                f"write layers={others}"
            )

    def ordered_layers(self, site: str, layers: Layers) -> tuple[int, ...]:
        """The same where values go with layers one by one, which must be in the order of the model."""
        require_ascending_layers(layers, self.spec.layer_count)
        return self.state_layers(site, layers)

    def state_layers(self, site: str, layers: Layers) -> tuple[int, ...]:
        """Layer numbers at a site of hidden states; `(BEFORE_LAYERS,)` for a site before the first layer.

        Raises:
            SpecError: the family has no such site.
        """
        reason = self.family.limitation(site)
        stage = self.spec.stage
        modules = {
            "mlp": stage.mlp,
            "embedding": stage.embedding,
            "features": self.family.projector,
            "cross": stage.cross,
        }
        if reason or modules.get(site, site) is None:
            why = reason or f"the {self.stage} has no module that gives it"
            raise SpecError(f"models of type {self.family.name!r} have no site {site!r}: {why}")
        if not SITES[site].layered:
            return (BEFORE_LAYERS,)
        return self.layers(layers, SITES[site].needs)

    def width(self, site: str) -> int:
        """Width of the states at a site."""
        return self.spec.width * (self.spec.streams if site in ("residual", "embedding") else 1)

    def heads(self, heads: Heads, layer: int) -> HeadChoice | None:
        """The chosen heads of one layer; None for every head.

        Raises:
            SpecError: a head that the model has not got.
        """
        listed = listed_heads(heads)
        if listed is None:
            return None
        pairs = [head if isinstance(head, tuple) else (layer, head) for head in listed]
        count, same = self.spec.head_count, (layer, layer - self.spec.layer_count)  # the second counted from the end
        beyond = [head for _, head in pairs if not 0 <= head < count]
        if beyond:
            raise SpecError(f"head {beyond[0]} is out of range: the model has heads 0..{count - 1}")
        return HeadChoice(count, tuple(sorted({head for at, head in pairs if at in same})))


def resolver(model: Model, placement: Placement, captured: Mapping[int, Any] | None = None) -> Resolver:
    """The resolver of one placement in a model."""
    view = view_of(model)
    specs = {name: view.stage(name) for name in view.family.stages}
    return Resolver(family=view.family, specs=specs, placement=placement, captured=captured or {})
