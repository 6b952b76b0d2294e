"""The sizes of one stage: how many layers, heads and streams it has, how wide it is, which layers attend.

All of it follows from a model's config and its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .columns import Stage, config_value
from .lookup import RECURRENT
from .options import LayerSet
from .part_columns import AttentionSpec, Gate

LAYER_SETS: dict[LayerSet, Callable[[Any, int], bool]] = {
    "every": lambda _config, _layer: True,
    "none": lambda _config, _layer: False,
    "typed": lambda config, layer: config.layer_types[layer] not in RECURRENT,
    "crossing": lambda config, layer: layer in config.cross_attention_layers,
    "not crossing": lambda config, layer: layer not in config.cross_attention_layers,
    "at intervals": lambda config, layer: layer % config.cross_attention_frequency == 0,
}
"""Whether a layer belongs to a set: a function of the stage's config and the layer number."""


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """The sizes of one stage.

    Attributes:
        stage: module paths of its parts.
        layer_count: how many layers it has.
        head_count: how many query heads an attention layer has.
        key_heads: for each layer, how many heads have keys and values of their own.
        head_dim: for each layer, the width of a head's queries and keys.
        value_dim: for each layer, the width of its values and of what it gives.
        width: width of a module's output; the residual stream is `streams` of them side by side.
        streams: how many parallel residual streams of that width there are.
        has_layer_inputs: whether each layer has an input of its own, of which it adds what the residual stream lets
            through: a part that is neither attention nor feed-forward.
        attention, cross: the layers that have self-attention and cross-attention.
        gated: for each site with a gate, the layers that have it.
        head_gates: for `"attention"` and `"cross"`, the call that gives the gate before the output projection, or "".
        clipped: of these two, those whose output projection clips what it takes and gives.
        scale: by what each layer multiplies the outputs of attention and the feed-forward part.
        recurrent: whether some layers carry a state through the sequence instead of attending.
        cache_layer: for each layer, the layer whose cache gives its offset: itself, the layer it shares keys with, or
            the nearest one that attends.
        taken: of a vision tower, the layers whose outputs are taken from it, -1 for what enters the first layer; empty
            for every other stage.
        registers: of a vision tower, how many register tokens each of its sequences has.
    """

    stage: Stage
    layer_count: int
    head_count: int
    key_heads: tuple[int, ...]
    head_dim: tuple[int, ...]
    value_dim: tuple[int, ...]
    width: int
    streams: int
    has_layer_inputs: bool
    attention: tuple[int, ...]
    cross: tuple[int, ...]
    gated: Mapping[str, tuple[int, ...]]
    head_gates: Mapping[str, str]
    clipped: tuple[str, ...]
    scale: float
    recurrent: bool
    cache_layer: tuple[int, ...]
    taken: tuple[int, ...] = ()
    registers: int = 0

    def gate(self, site: str, layer: int) -> Gate | None:
        """The gate between a site and the residual stream in a layer; None where there is none."""
        return self.stage.gates[site] if layer in self.gated.get(site, ()) else None

    def factor(self, site: str) -> float:
        """By what each layer multiplies the output of a site's module before it adds it to the residual stream."""
        return self.scale if site in ("attention", "mlp") else 1.0


def stage_spec(config: Any, stage: Stage) -> StageSpec:
    """The sizes of a stage of a model with this config."""
    part = config_value(config, stage.config)
    layer_count = int(getattr(part, stage.layer_count)) if stage.layer_count else 1
    attentions = {"attention": stage.attention, "cross": stage.cross}
    attention, head_count = _layers_with(stage.attention, part, layer_count), int(getattr(part, stage.head_count))
    width = int(getattr(part, stage.width))
    by_layer = [_of_layer(part, layer) for layer in range(layer_count)]
    head_dim = tuple(int(_size(layer, stage.head_dim) or width // head_count) for layer in by_layer)
    return StageSpec(
        stage=stage,
        layer_count=layer_count,
        head_count=head_count,
        key_heads=tuple(int(_size(layer, stage.key_heads) or head_count) for layer in by_layer),
        head_dim=head_dim,
        value_dim=tuple(int(_size(layer, stage.value_dim)) for layer in by_layer) if stage.value_dim else head_dim,
        width=width,
        streams=int(getattr(part, stage.streams)) if stage.streams else 1,
        has_layer_inputs=bool(stage.layer_inputs and getattr(part, stage.layer_inputs)),
        attention=attention,
        cross=_layers_with(stage.cross, part, layer_count),
        gated={site: _layers_with(gate, part, layer_count) for site, gate in stage.gates.items()},
        head_gates={name: _head_gate(which, part) for name, which in attentions.items() if which is not None},
        clipped=tuple(name for name, which in attentions.items() if which and _is_clipped(which, part)),
        scale=float(getattr(part, stage.scale)) if stage.scale else 1.0,
        recurrent=bool(RECURRENT.intersection(getattr(part, "layer_types", None) or ())),
        cache_layer=_cache_layers(part, stage, attention, layer_count),
        taken=_taken(config, stage, layer_count),
        registers=_registers(part, stage),
    )


def _taken(config: Any, stage: Stage, layer_count: int) -> tuple[int, ...]:
    """See `StageSpec.taken`."""
    if stage.tower is None:
        return ()
    paths, taps = stage.tower.taken, config_value(config, stage.tower.taps) if stage.tower.taps else ()
    states = (-1,) if paths == () else (state for path in paths or () for state in _numbers(config_value(config, path)))
    from_states = (state % (layer_count + 1) - 1 for state in states)
    return tuple(sorted({*from_states, *(tap % layer_count for tap in taps)}))


def _numbers(value: Any) -> tuple[int, ...]:
    """The numbers of hidden states in a config's value: a number, several, or pairs that each begin with one."""
    listed = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    return tuple(int(each[0] if isinstance(each, (list, tuple)) else each) for each in listed)


def _registers(part: Any, stage: Stage) -> int:
    """See `StageSpec.registers`."""
    named = 0 if stage.tower is None else stage.tower.registers
    return int(getattr(part, named)) if isinstance(named, str) else named


def _of_layer(part: Any, layer: int) -> Any:
    """The config of one layer, where layers have configs of their own; else that of all."""
    return part.per_layer_config[layer] if getattr(part, "is_heterogeneous", False) else part


def _size(part: Any, name: str) -> Any:
    """A size in a config; None where it has none."""
    return getattr(part, name, None)


def _layers_with(what: AttentionSpec | Gate | None, part: Any, layer_count: int) -> tuple[int, ...]:
    """The layers that have an attention or a gate."""
    if what is None:
        return ()
    has_it = LAYER_SETS[what.layers]
    return tuple(layer for layer in range(layer_count) if has_it(part, layer))


def _head_gate(which: AttentionSpec, part: Any) -> str:
    """The call that gives the gate between the heads and the output projection; empty where there is none."""
    return which.gate if not which.gate_when or getattr(part, which.gate_when) else ""


def _cache_layers(part: Any, stage: Stage, attending: tuple[int, ...], layer_count: int) -> tuple[int, ...]:
    """See `StageSpec.cache_layer`. A stage that runs once per prompt has no cache: each layer stands for itself."""
    if not stage.entry:
        return tuple(range(layer_count))
    first_shared = layer_count - (getattr(part, "num_kv_shared_layers", None) or 0)
    layer_types = getattr(part, "layer_types", None) or [None] * layer_count
    with_keys = [layer for layer in attending if layer < first_shared]
    cache_layers = []
    for layer, layer_type in enumerate(layer_types):
        same_type = [other for other in with_keys if layer_types[other] == layer_type]
        cache_layers.append(layer if layer in with_keys else (same_type or with_keys)[-1])
    return tuple(cache_layers)


def _is_clipped(which: AttentionSpec, part: Any) -> bool:
    """Whether an attention's output projection clips."""
    return bool(which.clipped_when) and bool(getattr(part, which.clipped_when, False))
