"""What follows from a model's config and row: how many layers, which of them attend, how far they see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .lookup import RECURRENT, family, flag
from .row import Stage


def part_of(model: Any, stage: Stage) -> Any:
    """The part of a model's config that holds a stage's sizes."""
    return flag(model._module.config, stage.config)


def layer_count(model: Any, stage: Stage) -> int:
    """How many layers a stage has."""
    return int(getattr(part_of(model, stage), stage.layer_count)) if stage.layer_count else 1


def head_count(model: Any, stage: Stage) -> int:
    """How many query heads an attention layer has."""
    return int(getattr(part_of(model, stage), stage.head_count))


def width(model: Any, stage: Stage) -> int:
    """Width of what a module of the stage gives; `streams` of them make the residual stream."""
    return int(part_of(model, stage).hidden_size)


def stream_count(model: Any, stage: Stage) -> int:
    """How many residual streams of that width lie side by side."""
    return int(getattr(part_of(model, stage), stage.streams)) if stage.streams else 1


# which layers have an attention: by name, from the config's part and a layer number to yes or no ------


LAYER_SETS: dict[str, Callable[[Any, int], bool]] = {
    "every": lambda _config, _layer: True,
    "none": lambda _config, _layer: False,
    "typed": lambda config, layer: config.layer_types[layer] not in RECURRENT,
    "crossing": lambda config, layer: layer in config.cross_attention_layers,
    "not crossing": lambda config, layer: layer not in config.cross_attention_layers,
    "at intervals": lambda config, layer: layer % config.cross_attention_frequency == 0,
}


def layers_with(model: Any, stage: Stage, kind: str) -> tuple[int, ...]:
    """The layers that have `"attention"` or `"cross"`."""
    attends = getattr(stage, kind)
    if attends is None:
        return ()
    has, config = LAYER_SETS[attends.layers], part_of(model, stage)
    return tuple(layer for layer in range(layer_count(model, stage)) if has(config, layer))


def recurrent(model: Any, stage: Stage) -> bool:
    """Whether some layers carry a state through the sequence instead of attending."""
    return bool(RECURRENT.intersection(getattr(part_of(model, stage), "layer_types", None) or ()))


# how far a layer sees ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which keys a query of one layer may see, besides being causal.

    Attributes:
        span: keys back from itself, itself included; None for all.
        chunk: only keys of its own stretch of this many positions; None for all.
        blocks: whether the row's blocks are seen in both directions.
        whole: whether they are so beyond the span too.
    """

    span: int | None = None
    chunk: int | None = None
    blocks: bool = False
    whole: bool = False


def reach(model: Any, name: str, layer: int) -> Reach:
    """The reach of a layer of a stage."""
    row = family(model)
    if not row.stages[name].causal:
        return Reach(blocks=True, whole=True)
    config = part_of(model, row.stages[name])
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer] if kinds else "sliding_attention"
    return Reach(
        span=getattr(config, "sliding_window", None) if kind == "sliding_attention" else None,
        chunk=config.attention_chunk_size if kind == "chunked_attention" else None,
        blocks=row.blocks != "none" and (not row.block_layers or kind in row.block_layers),
        whole=row.blocks == "prompt",
    )


def cache_layers(model: Any, stage: Stage) -> tuple[int, ...]:
    """For each layer the one to ask the cache about: itself, or the one whose keys it shares or that stands in.

    A stage that runs once a prompt has no cache.

    Layers without attention keep no keys; any layer with them knows how many tokens came before.
    """
    if not stage.entry:
        return tuple(range(layer_count(model, stage)))
    config, attending = part_of(model, stage), layers_with(model, stage, "attention")
    first_shared = layer_count(model, stage) - (getattr(config, "num_kv_shared_layers", None) or 0)
    kinds = getattr(config, "layer_types", None) or [None] * layer_count(model, stage)
    own = [layer for layer in attending if layer < first_shared]
    found = []
    for layer, kind in enumerate(kinds):
        alike = [other for other in own if kinds[other] == kind]
        found.append(layer if layer in own else (alike or own)[-1])
    return tuple(found)


# all of it, for one stage -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of one stage.

    Attributes:
        stage: where its parts live.
        layer_count, head_count, width, streams: see the functions of these names.
        attention, cross: the layers that have self- and cross-attention.
        recurrent: whether some layers carry a state through the sequence.
        asks: for each layer the one to ask the cache about.
    """

    stage: Stage
    layer_count: int
    head_count: int
    width: int
    streams: int
    attention: tuple[int, ...]
    cross: tuple[int, ...]
    recurrent: bool
    asks: tuple[int, ...]


_KNOWN: WeakKeyDictionary[Any, dict[str, Shape]] = WeakKeyDictionary()


def shape(model: Any, name: str = "decoder") -> Shape:
    """The sizes of a stage of a model, looked up once."""
    stage, known = family(model).stages[name], _KNOWN.setdefault(model._module, {})
    if name not in known or known[name].stage is not stage:
        known[name] = _shape(model, stage)
    return known[name]


def _shape(model: Any, stage: Stage) -> Shape:
    return Shape(
        stage=stage,
        layer_count=layer_count(model, stage),
        head_count=head_count(model, stage),
        width=width(model, stage),
        streams=stream_count(model, stage),
        attention=layers_with(model, stage, "attention"),
        cross=layers_with(model, stage, "cross"),
        recurrent=recurrent(model, stage),
        asks=cache_layers(model, stage),
    )
