"""What one forward takes beside the weights: an estimate in bytes, from the model's sizes and what it is given.

How many copies layers hold at once was measured (`tests/benchmarks/budgets.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ..device.kernels import MASKS_IN_MEMORY
from ..families import VISION, Model, ModelView, StageSpec, view_of
from ..prompts.prompt import Prompt
from .footprint_tower import INNER, item_bytes, pictures_bytes, score_bytes

STATES = 9
"""Copies of a token's hidden state that a layer holds at once: residual, norm, query, key, value, their
rotations, what they mix."""
LOGITS = 2
"""Copies of a logit: as the model gives it, and as it is taken, in float32 or wider."""


class Footprint(NamedTuple):
    """Bytes, by what takes them."""

    states: int = 0
    keys: int = 0
    scores: int = 0
    masks: int = 0
    logits: int = 0
    pictures: int = 0
    kept: int = 0
    answers: int = 0

    @property
    def total(self) -> int:
        """What is there at one time: the vision tower is done before the decoder begins."""
        decoder = self.states + self.keys + self.scores + self.masks + self.logits
        return max(self.pictures, decoder) + self.kept + self.answers

    def beside(self, other: Footprint) -> Footprint:
        """Both at once."""
        return Footprint(*map(add, self, other))

    def times(self, number: int) -> Footprint:
        """So many of it at once."""
        return Footprint(*(number * size for size in self))

    def largest(self) -> tuple[str, int]:
        """What takes most, in words, and its bytes."""
        name = max(self._fields, key=lambda field: getattr(self, field))
        return WORDS[name], getattr(self, name)


WORDS = {
    "states": "the hidden states of its tokens",
    "keys": "keys and values",
    "scores": "eager attention, which holds the scores of every head",
    "masks": "attention masks",
    "logits": "logits",
    "pictures": "the vision tower",
    "kept": "clean runs that cases share, and states that patches take",
    "answers": "what is read",
}


class Passing(NamedTuple):
    """What passes the decoder in one forward.

    Attributes:
        rows: of the batch.
        tokens: of each row.
        keys: that each row's queries look at, its own tokens among them.
        stored: keys for which each row has memory of its own; None for `keys`.
        logits: how many places have logits, of all rows.
        masks: how many masks exist at once, `[row, query, key]` each.
        heads: whether every head has a mask of its own.
    """

    rows: int
    tokens: int
    keys: int
    stored: int | None = None
    logits: int = 1
    masks: int = 0
    heads: bool = False


def footprint(model: Model, passing: Passing, inputs: Mapping[str, Any] | None = None) -> Footprint:
    """What one forward takes.

    Args:
        model: an nnsight model.
        passing: what passes its decoder.
        inputs: of a prompt whose pictures are run too; None where they are in the cache, or embedded already.
    """
    view = view_of(model)
    decoder = _decoder(view, passing)
    return decoder if inputs is None else decoder._replace(pictures=pictures_bytes(view, inputs))


def footprint_of(
    model: Model,
    prompt: Prompt,
    *,
    room: int = 0,
    logits: int | None = None,
    numbers: int = 0,
    masks: int = 0,
    heads: bool = False,
) -> Footprint:
    """What one forward of a prompt takes, of all its rows, pictures and earlier stages.

    Args:
        model: an nnsight model.
        prompt: of any number of rows.
        room: keys that are written behind the prompt.
        logits: places whose logits are taken; default one a row.
        numbers: how many are read beside them.
        masks, heads: see `Passing`.
    """
    passing = Passing(
        rows=len(prompt),
        tokens=prompt.width,
        keys=prompt.width,
        stored=prompt.width + room,
        logits=len(prompt) if logits is None else logits,
        masks=max(masks, int(any(tokens.start for tokens in prompt.rows))),
        heads=heads,
    )
    run = footprint(model, passing, prompt.inputs)._replace(answers=2 * 4 * numbers)  # as they are read, and stacked
    return reduce(Footprint.beside, _earlier(view_of(model), prompt), run)


def with_graph(model: Model, run: Footprint) -> Footprint:
    """What a forward takes that keeps its graph: the states, and eager attention's scores, of every layer at once."""
    layers = view_of(model).stage().layer_count
    return run._replace(states=run.states * layers, scores=run.scores * layers)


def cached_bytes(model: Model, tokens: int) -> int:
    """What the keys and values of so many tokens take, of all layers."""
    view = view_of(model)
    return int(tokens * _cached(view, view.stage(), len(view.stage().attention)))


def pictures_of(model: Model, prompt: Prompt, copies: int) -> int:
    """What the vision tower takes for so many prompts with such pictures."""
    return pictures_bytes(view_of(model), prompt.inputs, copies)


def number_bytes(model: Model, numbers: int) -> int:
    """What so many numbers take in the model's dtype."""
    return numbers * item_bytes(view_of(model))


# the decoder and the stages before it -------------------------------------------------------------


def _decoder(view: ModelView, passing: Passing) -> Footprint:
    spec, item = view.stage(), item_bytes(view)
    tokens, eager = passing.rows * passing.tokens, view.attention_implementation == "eager"
    edges, stored = tokens * passing.keys, passing.keys if passing.stored is None else passing.stored
    places = passing.logits if view.family.logits_to_keep else tokens
    return Footprint(
        states=tokens * _state(view, spec),
        keys=int(passing.rows * stored * _cached(view, spec, len(spec.attention))),
        scores=edges * score_bytes(item) * spec.head_count * eager,
        masks=edges * min(passing.masks, MASKS_IN_MEMORY) * item * (spec.head_count if passing.heads else 1),
        logits=places * view.vocab_size * LOGITS * max(item, 4),
    )


def _earlier(view: ModelView, prompt: Prompt) -> Iterator[Footprint]:
    """The stages that run before the decoder, and the decoder's keys outside its sequence."""
    eager, decoder = view.attention_implementation == "eager", view.stage()
    outside = sum(tokens.outside for tokens in prompt.rows)
    if outside and decoder.cross:
        edges = prompt.width * outside
        yield Footprint(
            keys=int(outside * _cached(view, decoder, len(decoder.cross))),
            scores=edges * score_bytes(item_bytes(view)) * decoder.head_count * eager,
        )
    for name in view.family.stages:
        apart = name in ("decoder", VISION)  # the tower is counted by its pictures
        maps = [tokens.stage(name) for tokens in prompt.rows if not apart and name in dict(tokens.stages)]
        if maps:
            spec = view.stage(name)
            queries, keys = len(maps) * len(maps[0].tokens), len(maps[0].tokens) + maps[0].outside
            scores = queries * keys * score_bytes(item_bytes(view)) * spec.head_count * eager
            yield Footprint(states=queries * _state(view, spec), scores=scores)


def _state(view: ModelView, spec: StageSpec) -> int:
    """Bytes that a token takes while a layer runs."""
    config = view.config_of(spec.stage)
    experts = _setting(config, "num_experts_per_tok") or 0
    inner = _widest(_setting(config, "intermediate_size") or 4 * spec.width)
    widest = max(inner, experts * _widest(_setting(config, "moe_intermediate_size") or 0))
    return int((STATES * spec.width * spec.streams + INNER * widest) * item_bytes(view))


def _widest(sizes: int | list[int]) -> int:
    """A size; the largest where a configuration names one for every layer, or for every kind of experts."""
    return max(sizes) if isinstance(sizes, list) else sizes


def _cached(view: ModelView, spec: StageSpec, layers: int) -> float:
    """Bytes of a token's keys and values in so many layers."""
    config = view.config_of(spec.stage)
    key_heads = _setting(config, "num_key_value_heads") or spec.head_count
    head_width = _setting(config, "head_dim") or spec.width / spec.head_count
    return float(2 * head_width * key_heads * layers * item_bytes(view))


def _setting(config: Any, name: str) -> Any:
    """A setting of a model; of one that differs from layer to layer the common value; None where there is none."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # by which transformers says that it differs
        return vars(config).get(name)
