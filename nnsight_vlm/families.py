"""One row per family of vision-language models: where each part lives.

Differences between models are rows of data, never branches. A row names module paths as nnsight
spells them, and functions by name (`grid`); the rest of the package reads the row. Adding a family
is one row here and one tiny config in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import SpecError

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family keeps its parts.

    Attributes:
        model_type: the name in the model's config.
        decoder: path of the module that holds the decoder layers and is handed the cache.
        layers: path of the list of decoder layers.
        attention: name of the self-attention in a layer.
        attention_call: name of the attention function's call inside it, as `.source` lists it.
        mlp: name of the feed-forward module in a layer.
        projector: path of the module whose output is the image features that enter the decoder.
        grid: name of the function in `grids` that places image tokens.
        packable: whether no text can change the rows before it, so that variants may share a prefix.
    """

    model_type: str
    decoder: str = "model.language_model"
    layers: str = "model.language_model.layers"
    attention: str = "self_attn"
    attention_call: str = "attention_interface_1"
    mlp: str = "mlp"
    projector: str = "model.multi_modal_projector"
    grid: str = "square"
    packable: bool = True


FAMILIES: dict[str, Family] = {row.model_type: row for row in (Family(model_type="llava"),)}


def family(model: Any) -> Family:
    """The row of an nnsight model.

    Raises:
        SpecError: the model has no row, or runs an attention that hides its mask.
    """
    config = model._module.config
    check_attention(config.get_text_config()._attn_implementation)
    return row_of(config.model_type)


def row_of(model_type: str) -> Family:
    """The row of a kind of model.

    Raises:
        SpecError: there is none.
    """
    if model_type not in FAMILIES:
        raise SpecError(
            f"no row for models of type {model_type!r}; there are rows for {', '.join(sorted(FAMILIES))}. "
            "A new family is one row in nnsight_vlm/families.py (CONTRIBUTING.md, 'How to add a family')."
        )
    return FAMILIES[model_type]


def check_attention(implementation: str) -> None:
    """Refuse attention whose mask cannot be edited.

    Raises:
        SpecError: saying what to load instead.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise SpecError(
            f"{implementation!r} attention hides the mask that a knockout edits; "
            'load the model with nv.load(..., attn_implementation="sdpa") or "eager".'
        )


def layer_count(model: Any) -> int:
    """How many decoder layers the config names."""
    return int(model._module.config.get_text_config().num_hidden_layers)


def attention_span(model: Any, layer: int) -> int | None:
    """How many keys back from itself a query of this layer sees; None without a sliding window."""
    config = model._module.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def head_count(model: Any) -> int:
    """How many query heads an attention layer has."""
    return int(model._module.config.get_text_config().num_attention_heads)


def hidden_width(model: Any) -> int:
    """Width of the residual stream."""
    return int(model._module.config.get_text_config().hidden_size)
