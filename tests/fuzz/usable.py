"""Whether a case asks for something, and for nothing that is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from .edits import Peek, State, planned
from .reference import Cut, Outcome
from .worlds import Question, Unusable, World

TOKENS = 3
"""How many tokens are generated."""


def require_usable(world: World, question: Question, edits: Sequence[Any], decoding: bool) -> None:
    """Every edit changes something, and every query keeps a key to read, as far as the prompt and its answer go."""
    base, clean = question, world.outcome(question)
    if decoding:  # which edges are open does not depend on what is said
        said = world.inputs(question)["input_ids"][0, -1].item()
        question = dataclasses.replace(question, answer=(*question.answer, *[said] * (TOKENS - 1)))
        clean = world.outcome(question)
    for edit in sorted(edits, key=lambda edit: isinstance(edit, State)):  # a state may need a forward
        if isinstance(edit, State) and not set(edit.spots(world)) <= set(clean.states):
            raise Unusable  # without a picture, Mllama skips layers
        cuts, writes = edit.plan(world, question, base)
        if not writes and not any(is_open(clean, cut) for cut in cuts):
            raise Unusable
    if starved(world, question, edits, base):
        raise Unusable


def is_open(clean: Outcome, cut: Cut) -> bool:
    """Whether a cut closes an edge that is open."""
    edges = clean.open[cut.spot]
    some = edges if cut.heads is None else edges[list(cut.heads)]
    return bool(some[:, list(cut.queries)][..., list(cut.keys)].any())


def require_readable(world: World, questions: Sequence[Question], read: Any) -> None:
    """What is read is there: without a picture some models skip layers."""
    for asked in questions:
        clean = world.outcome(asked)
        if isinstance(read, Peek):
            spots = set(State(where=0, site=read.site, how="zero", layers=read.layers, stage=read.stage).spots(world))
        else:
            spots = set(read.spots(world, asked))
        if not spots <= {*clean.states, *clean.weights}:
            raise Unusable


def starved(world: World, question: Question, edits: Sequence[Any], base: Question | None = None) -> bool:
    """Whether a query of a self-attention is left without a key."""
    clean = world.outcome(question)
    left: dict[Any, torch.Tensor] = {}
    for cut in planned(world, question, edits, base)[0]:
        edges = left.setdefault(cut.spot, clean.open[cut.spot].clone())
        for head in range(len(edges)) if cut.heads is None else cut.heads:
            for place in cut.queries:
                edges[head, place, list(cut.keys)] = False
    return any(
        spot.site == "attention" and bool((clean.open[spot].any(-1) & ~edges.any(-1)).any())
        for spot, edges in left.items()
    )
