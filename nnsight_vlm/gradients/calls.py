"""From sites and positions to the calls of `device.gradients`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import SpecError
from ..execution.footprint import Footprint, footprint_of, number_bytes, with_graph
from ..execution.requests import forward_inputs
from ..families import Model, view_of
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import read_step, stage_extent
from ..lowering.resolve import resolver
from ..lowering.sites import SITES, order_of
from ..lowering.steps import ReadStep
from ..prompts.prompt import Prompt
from ..specs.measurements import ReadRequest, Residual

COPIES = 4
"""Copies of a state that is asked for: of either run, its gradient, and their product."""
KINDS = ("features", "embedding")
"""Sites whose states `device.gradients` takes in a way of their own, beside those of heads."""


class Reads(NamedTuple):
    """What is read of one run, in the order in which the model reaches it.

    Attributes:
        steps: the places.
        kinds: what is taken at each of them, see `device.gradients`.
        members: for each of them the numbers of the readouts that it serves.
    """

    steps: list[ReadStep]
    kinds: list[str]
    members: list[list[int]]

    def plain(self, model: Model) -> tuple[tuple[Any, ...], ...]:
        """As `device.gradients` takes them."""
        order = order_of(view_of(model).family)
        return tuple(
            (
                order.index(step.stage),
                step.layer,
                step.path,
                step.place,
                kind,
                tuple(request.plain() for request in step.requests),
                step.outside,
            )
            for step, kind in zip(self.steps, self.kinds, strict=True)
        )

    def by_readout(self, answers: Sequence[Sequence[Any]]) -> list[Any]:
        """What came of each readout, from what came of each place and request."""
        found = {
            number: answer
            for members, some in zip(self.members, answers, strict=True)
            for number, answer in zip(members, some, strict=True)
        }
        return [found[number] for number in sorted(found)]

    def extents(self, model: Model, layout: Layout) -> tuple[Any, ...]:
        """Where the queries and keys of each stage lie, in the layers that are read; None where none is."""
        order = order_of(view_of(model).family)
        layers: dict[str, set[int]] = {name: set() for name in order}
        for step in self.steps:
            layers[step.stage].add(step.layer)
        return tuple(tuple(stage_extent(model, layout, name, some)) if some else None for name, some in layers.items())


def reads_of(model: Model, layout: Layout, readouts: Sequence[Residual]) -> Reads:
    """The reads of readouts of one layer each; those of one place are one read of several requests.

    Raises:
        SpecError: see `Residual`.
    """
    [placement] = layout.placements
    here, order = resolver(model, placement), order_of(view_of(model).family)
    found: dict[tuple[int, int, int, str], list[tuple[int, ReadRequest]]] = {}
    for number, readout in enumerate(readouts):
        for request in readout.lower(here):
            key = order.index(request.stage), request.layer, SITES[request.site].rank, request.site
            found.setdefault(key, []).append((number, request))
    steps, kinds, members = [], [], []
    for (stage, layer, _, site), some in sorted(found.items()):
        function = some[0][1].readout
        requests = (request.request for _, request in some)
        steps.append(read_step(model, layout, order[stage], layer, site, function, requests))
        kinds.append(SITES[site].part or (site if site in KINDS else "state"))
        members.append([number for number, _ in some])
    return Reads(steps, kinds, members)


def inputs_of(layout: Layout, kept: Sequence[int]) -> dict[str, Any]:
    """What a forward is given; no cache, whose copies of keys and values would be in the graph."""
    return {**forward_inputs(layout, kept), "use_cache": False}


def graph_bytes(model: Model, prompt: Prompt, numbers: int, *, whole: bool = False, logits: int = 1) -> Footprint:
    """What a forward with a graph takes, and its backward: every layer's states are kept until then.

    Args:
        model: an nnsight model.
        prompt: of one row.
        numbers: how many numbers the states hold that are asked for.
        whole: whether the vision tower is in the graph too.
        logits: places whose logits are taken.
    """
    run = with_graph(model, footprint_of(model, prompt, logits=logits))
    layers = view_of(model).stage().layer_count if whole else 1  # a tower's number of layers is seldom larger
    return run._replace(pictures=run.pictures * layers, kept=COPIES * number_bytes(model, numbers))


def numbers_of(model: Model, prompt: Prompt, readouts: Iterable[Residual]) -> int:
    """How many numbers the states of readouts hold."""
    here = resolver(model, one_case_per_row(prompt).placements[0])
    return sum(readout.numbers(here) for readout in readouts)


def refuse_other_masks(clean: Prompt, corrupt: Prompt, reads: Reads) -> None:
    """Refuse runs whose rows a layer multiplies by other factors before it adds what was asked for (Mllama).

    Raises:
        SpecError: naming the input.
    """
    if not any(step.gate is not None and step.gate[1] for step in reads.steps):
        return
    for name, mine in corrupt.inputs.items():
        if name.endswith("mask") and name != "attention_mask":
            theirs = clean.inputs.get(name)
            if theirs is None or mine.shape != theirs.shape or not bool((mine == theirs).all()):
                raise SpecError(
                    f"the input {name!r} of clean= is not that of corrupt=, so that other tokens read the image, and "
                    'the site is one that this switches; write at=("residual", "head"), or give two images each'
                )
