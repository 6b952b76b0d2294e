"""What becomes of a bad value: which error it ends in, whether its message names it, and whether the model ran."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

from . import (
    of_ablation,
    of_heads,
    of_pairs,
    of_plots,
    of_prompts,
    of_recipes,
    of_rooms,
    of_routes,
    of_runs,
    of_statistics,
    of_values,
    of_viewing,
    of_words,
)
from .calls import Entry, world

TABLES = (
    of_values,
    of_runs,
    of_prompts,
    of_recipes,
    of_ablation,
    of_heads,
    of_routes,
    of_pairs,
    of_words,
    of_statistics,
    of_rooms,
    of_plots,
    of_viewing,
)

REFUSED = "refused"
FIRST = 8
"""How many members of a long list are looked for in a message."""


class Outcome(NamedTuple):
    """What became of one bad value.

    Attributes:
        given: the call, argument and value.
        ended: `REFUSED`, or what happened instead.
    """

    given: str
    ended: str


@functools.cache
def entries_of(table: ModuleType) -> dict[str, Entry]:
    """The entries of a table, by name."""
    made: dict[str, Entry] = table.entries()
    return made


def tables() -> dict[str, Entry]:
    """All tables."""
    found: dict[str, Entry] = {}
    for table in TABLES:
        made = entries_of(table)
        assert not set(made) & set(found)
        found |= made
    return found


def outcomes(name: str, entry: Entry) -> Iterator[Outcome]:
    """Every bad value of an entry, each in place of its argument's good one."""
    for argument, values in entry.bad.items():
        for value in values:
            merged = value if argument in ("options", "kwargs") else {argument: value}
            yield Outcome(f"{name}({argument}={shown(value)})", ended(entry, argument, value, {**entry.good, **merged}))


def ended(entry: Entry, argument: str, value: Any, given: Mapping[str, Any]) -> str:
    """What a call with a bad value ends in."""
    ran: list[Any] = []
    hook = view_of(world().model).module.register_forward_pre_hook(lambda module, _: ran.append(module))
    try:
        with warnings.catch_warnings(), patch("nnsight_vlm.remote.job.JobClient", no_server):
            warnings.simplefilter("ignore")
            entry.call(**given)
    except nv.SpecError as error:
        message = str(error)
        words = [*names_of(argument, value), *entry.among]
        if ran:
            return "refused after the model ran"
        return REFUSED if any(word in message for word in words) else f"a message that names neither: {message}"
    except Exception as error:
        return type(error).__name__
    finally:
        hook.remove()
    return "accepted"


def no_server(*_: Any, **__: Any) -> Any:
    """Stands in for the connection to a server."""
    raise ConnectionError("a server was asked")


def names_of(argument: str, value: Any) -> Iterator[str]:
    """Words of which a message must have one: the argument's name, or what was given, or a part of it."""
    yield argument
    if isinstance(value, np.ndarray) and value.dtype == bool:
        yield "mask"
    for part in parts_of(value):
        yield from (type(part).__name__, shown(part))
        if isinstance(part, str) and len(part) > 2:
            yield part


def parts_of(value: Any) -> Iterator[Any]:
    """A value and what is in it."""
    yield value
    if isinstance(value, Mapping):
        for part in (*value, *value.values()):
            yield from parts_of(part)
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        yield from parts_of(value.tolist())
    elif isinstance(value, (list, tuple, set, range, pd.DataFrame)):
        for part in islice(value, FIRST):
            yield from parts_of(part)


def shown(value: Any) -> str:
    """A value as a message shows it, without its end where that is long."""
    return repr(value)[:60] if type(value).__module__ == "builtins" else type(value).__name__


def public_callables() -> dict[str, Callable[..., Any]]:
    """Every public function, and every public class and method that a user calls, by a name for messages."""
    found: dict[str, Callable[..., Any]] = {}
    for space in (nv, nv.recipes, nv.remote, nv.shapes, nv.plots):
        for name in space.__all__:
            value = getattr(space, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                found[f"{space.__name__}.{name}"] = value
    for name, value in vars(nv.statistics).items():
        if inspect.isfunction(value) and value.__module__.startswith(nv.statistics.__name__):
            found[f"nnsight_vlm.statistics.{name}"] = value
    for name, value in list(found.items()):
        if inspect.isclass(value):
            found |= {f"{name}.{method}": function for method, function in methods(value)}
    return found


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class, those of this package, and its operators."""
    ours = [owner for owner in reversed(kind.__mro__) if owner.__module__.startswith("nnsight_vlm")]
    for name, value in {name: value for owner in ours for name, value in vars(owner).items()}.items():
        function = value.__func__ if isinstance(value, classmethod) else value
        if inspect.isfunction(function) and (not name.startswith("_") or name in ("__getitem__", "__or__")):
            yield name, function


def arguments(function: Callable[..., Any]) -> Sequence[str]:
    """The names of a callable's arguments, without `self` and `cls`."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
