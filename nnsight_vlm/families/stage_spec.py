"""The sizes of one stage: how many layers, heads and streams it has, how wide it is, which layers attend.

All of it follows from a model's config and its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .columns import AttentionSpec, Gate, Stage, config_value
from .lookup import RECURRENT
from .options import LayerSet

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
        attention, cross: the layers that have self-attention and cross-attention.
        gated: for each site with a gate, the layers that have it.
        head_gates: for `"attention"` and `"cross"`, the call that gives the gate before the output projection, or "".
        scale: by what each layer multiplies the outputs of attention and the feed-forward part.
        recurrent: whether some layers carry a state through the sequence instead of attending.
        cache_layer: for each layer, the layer whose cache gives its offset: itself, the layer it shares keys with, or
            the nearest one that attends.
    """

    stage: Stage
    layer_count: int
    head_count: int
    key_heads: tuple[int, ...]
    head_dim: tuple[int, ...]
    value_dim: tuple[int, ...]
    width: int
    streams: int
    attention: tuple[int, ...]
    cross: tuple[int, ...]
    gated: Mapping[str, tuple[int, ...]]
    head_gates: Mapping[str, str]
    scale: float
    recurrent: bool
    cache_layer: tuple[int, ...]

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
    by_layer = [_of_layer(part, layer) for layer in range(layer_count)]
    head_dim = tuple(int(_size(layer, stage.head_dim) or part.hidden_size // head_count) for layer in by_layer)
    return StageSpec(
        stage=stage,
        layer_count=layer_count,
        head_count=head_count,
        key_heads=tuple(int(_size(layer, stage.key_heads) or head_count) for layer in by_layer),
        head_dim=head_dim,
        value_dim=tuple(int(_size(layer, stage.value_dim)) for layer in by_layer) if stage.value_dim else head_dim,
        width=int(part.hidden_size),
        streams=int(getattr(part, stage.streams)) if stage.streams else 1,
        attention=attention,
        cross=_layers_with(stage.cross, part, layer_count),
        gated={site: _layers_with(gate, part, layer_count) for site, gate in stage.gates.items()},
        head_gates={name: _head_gate(which, part) for name, which in attentions.items() if which is not None},
        scale=float(getattr(part, stage.scale)) if stage.scale else 1.0,
        recurrent=bool(RECURRENT.intersection(getattr(part, "layer_types", None) or ())),
        cache_layer=_cache_layers(part, stage, attention, layer_count),
    )


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
