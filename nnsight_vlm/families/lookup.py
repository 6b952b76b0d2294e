"""From a config to its family, and what to say where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import versions
from ..errors import SpecError, reason_of
from .columns import Family, config_value
from .stages import FINAL_NORMS, PROJECTIONS
from .table import FAMILIES

if TYPE_CHECKING:
    from torch import nn

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
RECURRENT = {"linear_attention", "conv"}
"""Layer types without attention, which carry a state through the sequence instead."""
LAYER_TYPES = RECURRENT | {"full_attention", "sliding_attention", "chunked_attention"}


def family_of(config: Any, module: nn.Module | None = None) -> Family:
    """The family of a model, from its config.

    Args:
        config: of a transformers model.
        module: the model itself where it is there: a draft of a missing family is then made from it.

    Raises:
        SpecError: no family fits, it does not run with this transformers, or the config has a value that it was never
            tested with.
    """
    fitting = [
        family
        for family in FAMILIES.values()
        if family.model_type == config.model_type and _has_values(config, family.when)
    ]
    if not fitting:
        raise SpecError(
            f"no family for models of type {config.model_type!r}; the families are {', '.join(sorted(FAMILIES))}. "
            f"{_advice(module if module is not None else config)}"
        )
    family = max(fitting, key=lambda family: len(family.when))
    _check_version(family)
    _check_assumptions(family, config)
    return _with_tower(_with_names(family, config), config)


def _with_tower(family: Family, config: Any) -> Family:
    """The family with the tower that the model has, where the family takes any, and with what it hands on of it."""
    if family.handed == "patches" and config_value(config, "vision_feature_select_strategy") == "full":
        family = replace(family, handed="tokens")
    if not family.towers:
        return family
    kind = config_value(config, "vision_config.model_type")
    if family.towers.get(kind, family.tower) != family.tower:
        return replace(family, tower=family.towers[kind])
    if kind in family.towers:
        return family
    reason = f"its vision tower is of type {kind!r}, and the known ones are {', '.join(family.towers)}"
    return replace(family, tower=None, limitations={**family.limitations, "vision": reason})


def _with_names(family: Family, config: Any) -> Family:
    """The family with the names that the output projection and the final norm have in its decoder."""
    stage = family.decoder
    decoder = config_value(config, f"{stage.config}.model_type" if stage.config else "model_type")
    if decoder in PROJECTIONS:
        attention = replace(stage.attention, projection=PROJECTIONS[decoder])
        family = replace(family, stages={**family.stages, "decoder": replace(stage, attention=attention)})
    if decoder in FINAL_NORMS:
        family = replace(family, unembedding=replace(family.unembedding, norms=(FINAL_NORMS[decoder],)))
    return family


def _advice(model: Any) -> str:
    """What to do where there is no family: a draft of one, if transformers says enough about the model."""
    from .drafting import draft, source

    try:
        drafted = source(draft(model))
    except SpecError as error:
        return f"No family can be drafted: {error}."
    except Exception as error:  # what the code of an unknown model raises says nothing about what was asked
        return f"No family can be drafted: its parts cannot be looked at ({reason_of(error)})."
    return (
        "A new family is one entry in nnsight_vlm/families/table.py; docs/adding-a-family.md says how to test it. "
        f"A draft of the entry:\n\n{drafted}\n"
    )


def _has_values(config: Any, values: Any) -> bool:
    return all(config_value(config, path) == value for path, value in values.items())


def _check_version(family: Family) -> None:
    """Refuse a version of transformers with which the family does not run."""
    found = versions.installed("transformers") if family.transformers else None
    if family.transformers and not versions.lies_in(found, family.transformers):
        raise SpecError(
            f"models of type {family.name!r} run with transformers{family.transformers}, and here is {found}; "
            f'write pip install "transformers{versions.within(family.transformers)}"'
        )


def _check_assumptions(family: Family, config: Any) -> None:
    """Refuse config values and layer types that the family was never tested with."""
    for path, tested in family.assumes.items():
        if config_value(config, path) not in tested:
            raise SpecError(
                f"the config has {path}={config_value(config, path)!r}, but models of type {family.name!r} were tested "
                f"only with {', '.join(map(repr, tested))}; results may be wrong. To test this value and add it, see "
                "docs/adding-a-family.md"
            )
    unknown = set(getattr(config.get_text_config(), "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        raise SpecError(
            f"the decoder has layers of type {', '.join(sorted(unknown))}; the known layer types are "
            f"{', '.join(sorted(LAYER_TYPES))}"
        )


def check_attention(implementation: str, stage: str = "decoder") -> None:
    """Refuse an attention implementation of a stage whose mask cannot be edited.

    Raises:
        SpecError: saying what to load instead.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        of = "" if stage == "decoder" else f" of the {stage}"
        raise SpecError(
            f"{implementation!r} attention{of} does not take the mask that a knockout edits; "
            'load the model with nv.load(..., attn_implementation="sdpa") or "eager"'
        )
