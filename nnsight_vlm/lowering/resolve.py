"""From names to places: what groups, layers and heads mean for one case, in one model, at one placement.

Raises SpecError for what the model or the prompt does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import SpecError
from ..families import VISION, Family, HeadCall, Model, StageSpec, view_of
from ..prompts.ranges import Ranges
from ..prompts.stage_maps import require_tower
from ..prompts.where import Where
from .head_choice import Heads, HeadSize, chosen_heads, numbers_of
from .layers import Depth, Layers, Window, label, layer_numbers, require_ascending_layers
from .placements import Placement
from .projected import projector_places
from .sites import AT_PROJECTOR, BEFORE_LAYERS, SITES, StateSite, refuse_two_projections
from .state_values import ClosedPlaces, RemoteStates, StatePlaces
from .writes import HeadChoice


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """What an intervention needs to lower itself: the sizes of a model, and the placement of one case.

    Attributes:
        family: the row of the family table.
        specs: the sizes of every stage.
        placement: where the case sits.
        head: asks how states become logits.
        captured: the states of every patch that has a source; while a patch is checked, only their shapes.
        stage: the stage whose positions and layers are meant.
    """

    family: Family
    specs: Mapping[str, StageSpec]
    placement: Placement
    head: Callable[[], HeadCall]
    captured: Mapping[int, torch.Tensor | RemoteStates]
    stage: str = "decoder"

    def at(self, stage: str) -> Resolver:
        """The same case in another stage.

        Raises:
            SpecError: the model, or this prompt, has no such stage.
        """
        if stage == self.stage:
            return self
        if stage == VISION:
            require_tower(self.family)
        return replace(self, placement=self.placement.at(stage), stage=stage)

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
        if self.spec.stage.keys or self.spec.stage.tower:
            raise SpecError(
                f'site "features" is what the projector gives of the prompt\'s image tokens, after the {self.stage}, '
                f'whose "image" is patches; leave out stage={self.stage!r}'
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
        if site in AT_PROJECTOR:
            return StatePlaces(0, self.feature_places(where) if site == "features" else projector_places(self, where))
        if SITES[site].holds_keys:
            inside, outside = self.keys(where)
            return StatePlaces(self.placement.row, outside or inside)
        places = self.places(where)
        if site in ("cross", "mlp", "cross query", "cross head"):
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
            if not having and needs in self.spec.stage.lacks:
                raise SpecError(f"the {self.stage} has no {kind} to change: {self.spec.stage.lacks[needs]}")
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
        stage = self.spec.stage
        reason = stage.lacks.get(site) or self.family.limitation(site)
        modules: dict[str, Any] = {
            "mlp": stage.mlp,
            "embedding": stage.embedding,
            **dict.fromkeys(AT_PROJECTOR, self.family.projector),
            **({site: stage.cross} if SITES[site].needs == "cross" else {}),
        }
        if reason or modules.get(site, site) is None:
            why = reason or f"the {self.stage} has no module that gives it"
            raise SpecError(f"models of type {self.family.name!r} have no site {site!r}: {why}")
        return self.layers(layers, SITES[site].needs) if SITES[site].layered else (BEFORE_LAYERS,)

    def site_of(self, site: StateSite, where: Where) -> str:
        """The site that is meant: of keys and values outside the sequence, those of cross-attention.

        Raises:
            SpecError: keys in the sequence and outside it.
        """
        if not SITES[site].holds_keys:
            return site
        ranges = self.ranges(where)
        if ranges.inside and ranges.outside:
            raise SpecError(
                f"{where!r} lies in the sequence of the {self.stage} and outside it, and these are keys of attentions "
                "of their own; write one of them at a time"
            )
        return f"cross {site}" if ranges.outside else site

    def width(self, site: str, layers: Sequence[int] = (), heads: Heads = None) -> int:
        """Width of the states at a site; of heads, that of all that are named, side by side.

        Raises:
            SpecError: heads that are not equally many and wide in these layers.
        """
        if SITES[site].part:
            size = self._same_size(site, layers)
            named = numbers_of(heads)
            return size.width * (size.number if named is None else len(named))
        return self.spec.width * (self.spec.streams if site in ("residual", "embedding") else 1)

    def heads(self, heads: Heads, layer: int, site: str = "") -> HeadChoice | None:
        """The chosen heads of one layer; None for every head. At a site of keys these are key heads.

        Raises:
            SpecError: a head that the model has not got.
        """
        count = self.head_size(site, layer).number if site else self.spec.head_count
        kind = "key " if site and SITES[site].holds_keys else ""
        return chosen_heads(heads, layer, self.spec.layer_count, count, kind)

    def _same_size(self, site: str, layers: Sequence[int]) -> HeadSize:
        """The size of the heads of several layers.

        Raises:
            SpecError: it is not the same in all of them.
        """
        sizes = {layer: self.head_size(site, layer) for layer in layers}
        if len(set(sizes.values())) > 1:
            first = next(iter(sizes.values()))
            alike = [layer for layer, size in sizes.items() if size == first]
            raise SpecError(
                f"the heads of layers {label(tuple(sizes))} are not equally many and wide, so their states are not of "
                f"one shape; name the layers of one kind at a time, layers={alike}"
            )
        return next(iter(sizes.values()), HeadSize(0, 0))

    def read_heads(self, heads: Heads, layer: int, site: str) -> HeadChoice:
        """The same with their numbers where all are meant."""
        count = self.head_size(site, layer).number
        return self.heads(heads, layer, site) or HeadChoice(count, tuple(range(count)))

    def head_size(self, site: str, layer: int) -> HeadSize:
        """How many heads a site has in a layer, and how wide they are."""
        keys = self.spec.key_heads[layer] if SITES[site].holds_keys else self.spec.head_count
        width = self.spec.head_dim if SITES[site].part in ("query", "key") else self.spec.value_dim
        return HeadSize(keys, width[layer])


def resolver(model: Model, placement: Placement, captured: Mapping[int, Any] | None = None) -> Resolver:
    """The resolver of one placement in a model."""
    view = view_of(model)
    specs = {name: view.stage(name) for name in view.family.stages}
    return Resolver(family=view.family, specs=specs, placement=placement, head=view.head_call, captured=captured or {})
