"""Which modules of a model turn its decoder's states into logits, and by what these are changed on the way."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import SpecError
from ..versions import installed, lies_in
from .columns import Family, config_value


class HeadSettings(NamedTuple):
    """What is done between the modules, as `device.lenses` takes it.

    Attributes:
        merged: how many of the modules, the first, turn parallel residual streams into one.
        by_root: whether states are divided by the root of their width.
        divisor: what logits are divided by.
        cap: the number `c` where logits become `c * tanh(logits / c)`; 0 for none.
        unsaid: words that are never said, whose logits are the least there is.
    """

    merged: int
    by_root: bool
    divisor: float
    cap: float
    unsaid: tuple[int, ...]


class HeadCall(NamedTuple):
    """How to compute the logits of states.

    Attributes:
        paths: of the modules to call, in order; the head is the last.
        settings: what is done between them.
        words: how many logits a state has.
    """

    paths: tuple[str, ...]
    settings: HeadSettings
    words: int


def head_call(module: Any, config: Any, family: Family, streams: int, words: int) -> HeadCall:
    """How a model computes the logits of its decoder's states.

    Args:
        module: the transformers model, with or without weights.
        config: its config.
        family: its family.
        streams: how many parallel residual streams its decoder has.
        words: how many logits.

    Raises:
        SpecError: transformers does not say which module its head is.
    """
    spec, entry, names = family.unembedding, family.decoder.entry, dict(module.named_modules())
    part, found = config_value(config, family.decoder.config), module.get_output_embeddings()
    head = next((name for name, known in names.items() if known is found), None)
    if head is None:
        raise SpecError(
            f"a lens needs the model's head, and transformers names none for this {type(module).__name__}; load the "
            "class that generates text, with nv.load(name)"
        )
    merged = [f"{entry}.{spec.merge}.{number}" for number in range(streams - 1)] if spec.merge else []
    norms = [f"{entry}.{norm}" for norm in spec.norms if not spec.optional or f"{entry}.{norm}" in names]
    missing = [path for path in (*merged, *norms) if path not in names]
    if missing:
        raise SpecError(
            f"a lens needs what stands between the last layer and the head, and this {type(module).__name__} has no "
            f"module {missing[0]!r}; its entry in nnsight_vlm/families/table.py names another (unembedding=)"
        )
    vocabulary, beginning = spec.unsaid or ("", "")
    tokens = getattr(config, vocabulary).items() if vocabulary else ()
    settings = HeadSettings(
        merged=len(merged),
        by_root=bool(getattr(part, spec.by_root)) if spec.by_root else False,
        divisor=float(getattr(part, spec.divisor)) if spec.divisor else 1.0,
        cap=float(getattr(part, spec.cap, None) or 0) if spec.cap and _in_use(spec.capped_in) else 0.0,
        unsaid=tuple(sorted(number for name, number in tokens if name.startswith(beginning))),
    )
    return HeadCall((*merged, *norms, head), settings, words)


def _in_use(versions: str) -> bool:
    """Whether the transformers that is installed is one of these."""
    return not versions or lies_in(installed("transformers"), versions)
