"""From a configuration to its row of the family table, and what to say where there is none."""

from __future__ import annotations

from functools import reduce
from typing import Any

from ..errors import SpecError
from .columns import Family
from .table import FAMILIES

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
RECURRENT = {"linear_attention", "conv"}
"""Layer types without attention: a state runs through the sequence instead."""
LAYER_TYPES = RECURRENT | {"full_attention", "sliding_attention", "chunked_attention"}


def family_of(config: Any) -> Family:
    """The row for a model's config.

    Raises:
        SpecError: there is none, or a flag is set that nobody has tried it with.
    """
    kind = config.model_type
    found = [row for row in FAMILIES.values() if row.model_type == kind and _is_for(row, config)]
    if not found:
        raise SpecError(
            f"no row for models of type {config.model_type!r}; there are rows for {', '.join(sorted(FAMILIES))}. "
            f"{_advice(config)}"
        )
    row = max(found, key=lambda row: len(row.when))
    _check_flags(row, config)
    return row


def _advice(config: Any) -> str:
    """What to do where there is no row: a draft of one, if transformers says enough about the model."""
    from .drafting import draft, source

    try:
        found = source(draft(config))
    except SpecError as error:
        return f"No row can be drafted: {error}."
    return (
        "A new family is one row, to be tried as docs/adding-a-family.md says. A draft for "
        f"nnsight_vlm/families/table.py:\n\n{found}\n"
    )


def _is_for(row: Family, config: Any) -> bool:
    return all(config_value(config, path) == value for path, value in row.when.items())


def config_value(config: Any, path: str) -> Any:
    """A value of the config by its dotted path; None where there is none."""
    return reduce(lambda part, name: getattr(part, name, None), path.split("."), config) if path else config


def _check_flags(row: Family, config: Any) -> None:
    for path, tried in row.assumes.items():
        if config_value(config, path) not in tried:
            raise SpecError(
                f"the config says {path}={config_value(config, path)!r}, and models of type {row.name!r} were tried with "
                f"{', '.join(map(repr, tried))} only; nothing is known to be right here (docs/adding-a-family.md)"
            )
    unknown = set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        raise SpecError(f"the decoder has layers of type {sorted(unknown)}; known are {', '.join(sorted(LAYER_TYPES))}")


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
