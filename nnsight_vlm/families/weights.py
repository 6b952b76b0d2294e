"""Weights that do not match the model they are loaded into: an error here, where transformers writes a line to its log.

A model is built from the config of a checkpoint and then filled from its files. transformers draws at random what it
does not find there, and drops what it has no place for; what such a model says looks like an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any
from unittest.mock import patch

from ..errors import SpecError
from .model_view import Model

NAMES_SHOWN = 3
"""How many weights of each kind a refusal names."""
_LOADING = RLock()
"""One model is loaded at a time: `matching_weights` stands in for a function that all threads see."""


class _MismatchError(Exception):
    """What `matching_weights` raises inside transformers.

    It is no ValueError and no RuntimeError: a pipeline takes those for a fault of the precision, and reads all weights
    again in float32.
    """


@contextmanager
def matching_weights(checkpoint: str) -> Iterator[None]:
    """Within it, a model that is loaded gets all of its weights from its files, and they have no others.

    The files are read once: transformers' `from_pretrained` is asked for what it found out about their names.

    Raises:
        SpecError: weights are missing, unexpected or of another shape; tied weights and those that the model's class
            declares to be ignored are neither.
    """
    from transformers import PreTrainedModel

    plain, here, inside = PreTrainedModel.from_pretrained.__func__, get_ident(), False

    def compared(cls: Any, *args: Any, **options: Any) -> Any:
        nonlocal inside
        if inside or get_ident() != here:  # a part that is loaded by itself and filled afterwards; another thread
            return plain(cls, *args, **options)
        inside = True
        try:
            asked = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
            model, found = plain(cls, *args, **asked)
        finally:
            inside = False
        if differences := _differences(found):
            raise _MismatchError(differences)
        return model

    with _LOADING, patch.object(PreTrainedModel, "from_pretrained", classmethod(compared)):
        try:
            yield
        except _MismatchError as error:
            raise SpecError(
                f"the weights in {checkpoint!r} are not those of the model that its config describes: {error}. "
                "Weights that are missing would be random numbers, and those without a place would be dropped. Give a "
                "checkpoint in transformers' own layout (on the hub its name often ends in -hf), or load the model "
                "yourself and write nv.load(module, processor=processor)"
            ) from None


def load_weights(model: Model) -> None:
    """Load the weights of a model that was loaded without (`dispatch=False`) and is about to run on this machine.

    nnsight would do so itself, for the copy that runs, again in each run and whatever it found.

    Raises:
        SpecError: see `matching_weights`.
    """
    if not getattr(model, "dispatched", True):
        with matching_weights(str(model.repo_id)):
            model.dispatch()


def _differences(found: Mapping[str, Iterable[Any]]) -> str:
    """What transformers found out about the weights, in words; empty where all of them match."""
    others = found["mismatched_keys"]
    shapes = [f"{name} {list(file)} in the files, {list(own)} in the model" for name, file, own in others]
    kinds = {
        "missing": found["missing_keys"],
        "without a place in the model": found["unexpected_keys"],
        "of another shape": shapes,
    }
    return "; ".join(f"{_listed(names)} {kind}" for kind, names in kinds.items() if names)


def _listed(names: Iterable[str]) -> str:
    """The number of weights and the first of their names."""
    every = sorted(names)
    more = ", ..." if len(every) > NAMES_SHOWN else ""
    return f"{len(every)} ({', '.join(every[:NAMES_SHOWN])}{more})"
