"""The patches of path patching, and the rows of one pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..families import Model, view_of
from ..lowering.sites import SITES
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.states import Patch
from ..studies.controls import random_positions, rng_of
from ..studies.labels import ANOTHER_IMAGE, NONE, RANDOM_SENDER, Control
from ..studies.pair_scores import Base, Condition, measures_of, scored
from ..studies.pair_sources import third_picture
from ..studies.pairs import Pair
from ..studies.places import PlaceInModel, heads_of
from ..studies.token_sets import same_axis_positions
from ..studies.work import Work
from ..sweeping.wanted import answer_token

Between = Literal["frozen", "mlp", "free"]
"""What lies between sender and receiver, see `path_patching`."""
BETWEEN: tuple[Between, ...] = get_args(Between)
MEASURES = ("restoration", "logit_diff_change")
PARTS_OF_CALL = ("head", "query", "key", "value")
SIDE_BY_SIDE = ("query", "key", "value")
"""What an attention function is handed: none of it reaches another part of it."""


class PathPatch(NamedTuple):
    """A patch through one receiver.

    Attributes:
        labels: what the table says of it.
        first: the first position that it writes.
        patch: None where the sender cannot reach the receiver.
    """

    labels: Mapping[str, Any]
    first: int
    patch: Patch | None


class Sending(NamedTuple):
    """What sends in a run.

    Attributes:
        control: `none` for the sender itself.
        donor: the prompt whose run gives the states.
        positions: of the tokens that send.
        heads: pairs of `(layer, head)`; None for all.
    """

    control: Control
    donor: Prompt
    positions: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """What is measured in every pair.

    Attributes:
        model: an nnsight model.
        sender: the earlier place.
        receivers: the later places.
        between: see `path_patching`.
    """

    model: Model
    sender: PlaceInModel
    receivers: tuple[PlaceInModel, ...]
    between: Between

    def patches(
        self, prompt: Prompt, donor: Prompt, receiver: PlaceInModel, sending: Sending | None = None
    ) -> list[PathPatch]:
        """The patches through a receiver, one for each of its layers and heads.

        Patches through receivers in the same layer share their source's run.

        Args:
            prompt: whose run is patched.
            donor: the prompt whose run gives the sender's states.
            receiver: the later place.
            sending: what sends; None for the sender itself.
        """
        if sending is None:
            sending = Sending(NONE, donor, prompt[self.sender.group], self.sender.heads)
        return list(self._patches(prompt, receiver, sending, {}))

    def conditions(self, prompt: Prompt, sendings: Sequence[Sending]) -> list[PathPatch]:
        """The patches through all receivers, of the sender and of what sends in its place."""
        found = list[PathPatch]()
        for sending in sendings:
            runs = dict[tuple[int, bool], Intervention]()
            for receiver in self.receivers:
                found += self._patches(prompt, receiver, sending, runs)
        return found

    def _patches(
        self, prompt: Prompt, receiver: PlaceInModel, sending: Sending, runs: dict[tuple[int, bool], Intervention]
    ) -> Iterator[PathPatch]:
        """The patches through a receiver; `runs` has what is done to their sources' runs, by layer."""
        count, site = view_of(self.model).stage().layer_count, receiver.site
        positions = prompt[receiver.group]
        for layer in receiver.layers or (count,):
            # what is handed to a head is read before attention is held, so that all of them share one run
            at = (count, False) if site in PARTS_OF_CALL else (layer, site == "mlp")
            if self.between == "free":
                at = (count, False)
            if at not in runs:
                runs[at] = self._run_of_source(prompt, sending, *at)
            labels = {"sender": str(self.sender), "receiver": receiver.group, "site": site, "control": sending.control}
            if site == "output":
                patch = Patch(receiver.group, source=prompt, layers=count - 1, under=runs[at])
                yield PathPatch({**labels, "layer": -1, "head": -1}, positions[0], patch)
                continue
            for head in self._heads(receiver, layer):
                heads = None if head < 0 else [head]
                patch = Patch(receiver.group, source=prompt, layers=layer, site=site, heads=heads, under=runs[at])
                reached = self._is_reached(sending, positions, site, layer, head)
                yield PathPatch({**labels, "layer": layer, "head": head}, positions[0], patch if reached else None)

    def _heads(self, receiver: PlaceInModel, layer: int) -> Sequence[int]:
        """The heads that are measured in a layer; -1 where there are none to tell apart."""
        if receiver.heads is not None:
            return [head for at, head in receiver.heads if at == layer]
        return heads_of(self.model, receiver.site, layer) or (-1,)

    def _is_reached(self, sending: Sending, positions: Sequence[int], site: str, layer: int, head: int) -> bool:
        """Whether a receiver lies behind the sender, or is part of it."""
        first = self.sender.layers[0]
        if layer != first:
            return layer > first
        if site == self.sender.site:
            same_head = sending.heads is None or (layer, head) in sending.heads
            return same_head and bool(set(positions) & set(sending.positions))
        beside = site in SIDE_BY_SIDE and self.sender.site in SIDE_BY_SIDE
        return SITES[site].rank > SITES[self.sender.site].rank and not beside

    def _run_of_source(self, prompt: Prompt, sending: Sending, before: int, attention_too: bool) -> Intervention:
        """What is done to the prompt's run from which a receiver's states are taken.

        Args:
            prompt: the prompt.
            sending: what sends.
            before: the layer of the receiver, before which all is held.
            attention_too: whether that layer's attention lies before the receiver.
        """
        sender, spec = self.sender, view_of(self.model).stage()
        written: dict[str, Any] = {"layers": sender.layers, "site": sender.site, "heads": sending.heads}
        sent = Patch(sending.positions, source=sending.donor, **written)
        if self.between == "free":
            return sent
        first, held = sender.layers[0], list[Intervention]()
        attending = range(first + 1, min(before + attention_too, spec.layer_count))
        from_mlp = first + (sender.site in ("residual", "mlp"))
        of_site = {"attention": spec.attention, "cross": spec.cross} | (
            {"mlp": range(from_mlp, before)} if self.between == "frozen" else {}
        )
        for site, having in of_site.items():
            layers = [layer for layer in having if site == "mlp" or layer in attending]
            if layers:
                held.append(Patch("all", source=prompt, site=site, layers=layers))  # type: ignore[arg-type]
        return reduce(or_, [*held, sent])  # where both write, the sender comes last


def sendings_of(model: Model, pairs: Sequence[Pair], image: int, sender: PlaceInModel, seed: int) -> Iterator[Sending]:
    """The sender of a pair, then its controls."""
    pair, third = pairs[image], third_picture(pairs, image)
    positions, rng = pair.prompt[sender.group], rng_of(seed, image)
    yield Sending(NONE, pair.other, positions, sender.heads)
    if third is not None:
        yield Sending(ANOTHER_IMAGE, third, positions, sender.heads)
    if sender.heads is not None:
        drawn = _other_heads(model, sender, rng)
        if drawn is not None:
            yield Sending(RANDOM_SENDER, pair.other, positions, drawn)
        return
    first = min(pair.prompt.rows[0].visual_tokens, default=0)  # before it, the two runs are one
    others = [place for place in same_axis_positions(pair.prompt, positions)[1:] if place not in positions]
    others = [place for place in others if place >= first]
    if len(others) >= len(positions):
        yield Sending(RANDOM_SENDER, pair.other, random_positions(others, len(positions), rng), None)


def _other_heads(model: Model, sender: PlaceInModel, rng: np.random.Generator) -> tuple[tuple[int, int], ...] | None:
    """As many other heads of the same layers; None where a layer has too few."""
    drawn = list[tuple[int, int]]()
    for layer in sender.layers:
        own = {head for at, head in sender.heads or () if at == layer}
        others = [head for head in heads_of(model, sender.site, layer) if head not in own]
        if len(others) < len(own):
            return None
        drawn += [(layer, head) for head in random_positions(others, len(own), rng)] if own else []
    return tuple(drawn)


def path_rows(
    model: Model, pairs: Sequence[Pair], image: int, paths: Paths, seed: int, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of one pair, from its two clean runs and at most two sweeps."""
    pair = pairs[image]
    answer, other_answer = answer_token(model, pair.answer), answer_token(model, pair.other_answer)
    found = paths.conditions(pair.prompt, list(sendings_of(model, pairs, image, paths.sender, seed)))
    reached = [Condition(each.labels, each.first, each.patch) for each in found if each.patch is not None]
    own, other = Base(pair.prompt), Base(pair.other)
    before, after, scores = scored(model, own, other, reached, other_answer, answer, work, remote)
    known = before.top == answer and after.top == other_answer
    by_labels = [(score.labels, measures_of(score, before, after, known=known)) for score in scores]
    nothing = dict.fromkeys(MEASURES, 0.0 if known else math.nan)
    by_labels += [(each.labels, nothing) for each in found if each.patch is None]
    return [{"image": image, **labels, **{name: values[name] for name in MEASURES}} for labels, values in by_labels]
