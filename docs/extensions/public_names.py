"""Every public name of the package: what it is, where it is defined, and what is said about it."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

PACKAGE = "nnsight_vlm"
Kind = Literal["function", "class", "module", "data"]
LIST = re.compile(r"^```\{public\}[ \t]*(?P<space>\w*)\n(?P<names>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of a page of the reference that lists names of the package, or of one of its public modules."""


class Public(NamedTuple):
    """A public name.

    Attributes:
        name: as a user writes it, `nnsight_vlm.recipes.heads`.
        home: the module in which it is defined.
        said: its docstring; of a constant, the string below it.
    """

    name: str
    value: Any
    kind: Kind
    home: str
    said: str

    @property
    def short(self) -> str:
        """Without the package: `recipes.heads`."""
        return self.name.removeprefix(f"{PACKAGE}.")

    @property
    def summary(self) -> str:
        """The first line of what is said."""
        return self.said.strip().partition("\n")[0]


@cache
def public_names() -> dict[str, Public]:
    """All public names of the package and of its public modules, by how they are called without the package."""
    package = import_module(PACKAGE)
    found = [_public(package, name) for name in package.__all__]
    for space in [each.value for each in found if each.kind == "module"]:
        found += [_public(space, name) for name in space.__all__]
    return {each.short: each for each in found}


def _public(space: ModuleType, name: str) -> Public:
    value = getattr(space, name)
    full = f"{space.__name__}.{name}"
    if isinstance(value, ModuleType):
        return Public(full, value, "module", value.__name__, inspect.getdoc(value) or "")
    if inspect.isclass(value) or inspect.isroutine(value):
        kind: Kind = "class" if inspect.isclass(value) else "function"
        return Public(full, value, kind, value.__module__, inspect.getdoc(value) or "")
    home = _imported_from(space, name)
    return Public(full, value, "data", home, _said_below(home, name))


def _imported_from(space: ModuleType, name: str) -> str:
    """The module that a namespace takes a constant from."""
    lazily = getattr(space, "_MODULE_OF", {})
    if name in lazily:
        return _imported_from(import_module(f"{space.__name__}.{lazily[name]}"), name)
    for node in ast.walk(_tree(space.__name__)):
        if isinstance(node, ast.ImportFrom) and any(each.name == name for each in node.names):
            return _imported_from(import_module("." * node.level + (node.module or ""), space.__name__), name)
    return space.__name__


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(str(import_module(module).__file__)).read_text())


def _said_below(module: str, name: str) -> str:
    """The string that stands below an assignment."""
    body = _tree(module).body
    for node, after in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if is_named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return inspect.cleandoc(str(after.value.value))
    return ""
