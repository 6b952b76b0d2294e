"""Which names of inputs a model can read at all: a misspelt one would be dropped without a word.

Forwards of transformers hand on what they do not know (`**kwargs`), so that a name is known if any method of any of the
model's modules takes an argument of that name, or spells it in its code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch

from ..arguments import meant
from ..errors import SpecError
from ..families import Model, view_of


def refuse_unknown(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse entries of an encoding that no module of the model, and no processor of its, knows by name.

    Raises:
        SpecError: naming the entry, and the name that it is close to.
    """
    view = view_of(model)
    family = view.family
    known = {*family.inputs, *family.needs, family.tokens, family.image_mask, "input_ids", "attention_mask"}
    known |= {name for stage in family.stages.values() for name in (stage.text, stage.text_mask)}
    known |= set(getattr(view.processor, "model_input_names", None) or ())
    doubtful = [name for name in given if name not in known]
    if not doubtful:
        return
    read = set[str]()
    for part in view.module.modules():
        kind: Any = type(part)
        read |= _names_of(kind)
        replaced = vars(part).get("forward")
        read |= set(_names_in(replaced)) if replaced is not None else set()
    for name in doubtful:
        if name not in read:
            instead = meant(name, known | read) or "; leave it out"
            raise SpecError(f"the inputs have {name!r}, which no part of this model reads{instead}")


@lru_cache(maxsize=1024)
def _names_of(kind: Any) -> frozenset[str]:
    """The names that the methods of a class, and of the classes that it extends, take and spell."""
    owners = [owner for owner in kind.__mro__ if issubclass(owner, torch.nn.Module) and owner is not torch.nn.Module]
    return frozenset(name for owner in owners for method in vars(owner).values() for name in _names_in(method))


def _names_in(method: Any) -> Iterator[str]:
    """The names that a function takes and spells."""
    function = inspect.unwrap(getattr(method, "__func__", method)) if callable(method) else None
    if isinstance(function, FunctionType):
        yield from _names_in_code(function.__code__)


def _names_in_code(code: CodeType) -> Iterator[str]:
    yield from code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _names_in_code(constant)
