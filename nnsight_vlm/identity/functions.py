"""What makes two functions or classes the same: the name by which a later process finds them, and their code.

A function of this package is its name. One of the user's is its name, its bytecode, its defaults, and what it reads
from its module: other functions and classes with their code, plain values with their content, and what it reads from
other modules of the user's (`helpers.clean`) in the same way. A class of the user's is its methods and its plain
attributes. An edited function is therefore another one. Installed modules count by name. Not seen are changes inside
objects that a function reads from its module (a loaded parser counts by its class), inside libraries, and in files.
Bytecode differs between versions of Python, so a journal is begun anew under another one.
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

from ..errors import SpecError

PACKAGE = __name__.partition(".")[0]

INSTALLED = ("site-packages", "dist-packages")
"""Folders in which installers put libraries."""

Spell = Callable[[Any, None], Iterator[bytes]]
"""Spells any value; `values` hands its own, so that this file need not know of that one."""


class _Walk(threading.local):
    """What the digest under way has spelled so far, so that a table may hold the function that reads it."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()


_WALK = _Walk()


class _HiddenImport(SpecError):
    """A function that a digest must not take for an object of unknown content."""


def name_of(value: Any) -> str:
    """The module and qualified name of a function or class.

    >>> name_of(SpecError)
    'nnsight_vlm.errors.SpecError'
    """
    return f"{module_of(value)}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def function_pieces(function: Any, spell: Spell) -> Iterator[bytes]:
    """What a function is.

    Raises:
        SpecError: no later process would find it by its name: a lambda, a nested function, a bound method.
    """
    _require_found_by_name(function)
    yield from (b"function", name_of(function).encode())
    if isinstance(function, FunctionType) and not _is_ours(function):
        if function.__closure__:
            raise SpecError(
                f"the function {name_of(function)} holds values of the function that made it (a closure); "
                "write it at the top of a module, without a decorator"
            )
        with _walking() as seen:
            pieces = (
                [] if id(function) in seen or is_installed(module_of(function)) else list(_body(function, spell, seen))
            )
        yield from pieces


def class_pieces(cls: type, spell: Spell) -> Iterator[bytes]:
    """What a class is: its name, and for one of the user's its methods and attributes and those that it inherits.

    Raises:
        SpecError: no later process would find it by its name.
    """
    _require_found_by_name(cls)
    yield from (b"class", name_of(cls).encode())
    with _walking() as seen:
        pieces = list(_members(cls, spell, seen))
    yield from pieces


@contextmanager
def _walking() -> Iterator[set[Any]]:
    """What was spelled so far; what the block adds to it is forgotten afterwards.

    The order of a set's elements, which differs between processes, then does not decide which of them is spelled out.
    """
    outer = _WALK.seen
    _WALK.seen = set(outer)
    try:
        yield _WALK.seen
    finally:
        _WALK.seen = outer


def _require_found_by_name(value: Any) -> None:
    found: Any = sys.modules.get(module_of(value))
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise SpecError(
            f"{name_of(value)} is no function or class that a later process finds by its name (a lambda, a nested "
            "function, a bound method); write def at the top of a module and give that function"
        )


def module_of(value: Any) -> str:
    """The module of a function or class; for a method of a built-in type, that of the type."""
    owner = value.__objclass__ if isinstance(value, MethodDescriptorType) else value
    return str(getattr(owner, "__module__", None) or "builtins")


def _is_ours(value: Any) -> bool:
    return module_of(value).partition(".")[0] == PACKAGE


def is_installed(module: str) -> bool:
    """Whether a module belongs to Python or to an installed library, so that its name and not its code counts."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in sys.builtin_module_names:
        return True
    places = [getattr(sys.modules.get(package), "__file__", None), *getattr(sys.modules.get(package), "__path__", ())]
    if package not in sys.modules and (spec := find_spec(package)) is not None:
        places = [spec.origin, *(spec.submodule_search_locations or ())]
    return any(place and not set(INSTALLED).isdisjoint(Path(place).parts) for place in places)


def _body(function: FunctionType, spell: Spell, seen: set[Any]) -> Iterator[bytes]:
    """The code, the defaults, and the values that a function reads from its module; each function once."""
    seen.add(id(function))
    _refuse_hidden_imports(function)
    yield from _code(function.__code__, spell)
    for default in (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())):
        yield from spell(default, None)
    names = _names(function.__code__)
    for name in sorted(names & function.__globals__.keys()):
        yield name.encode()
        yield from _read_value(function.__globals__[name], names, spell, seen)


def _refuse_hidden_imports(function: FunctionType) -> None:
    """Refuse a function that imports a module of the user's when it runs: its globals do not show what it reads there.

    Raises:
        SpecError: naming the module.
    """
    for module in _imports(function.__code__, str(function.__globals__.get("__package__") or "")):
        if module.partition(".")[0] != PACKAGE and not is_installed(module):
            raise _HiddenImport(
                f"the function {name_of(function)} imports {module!r} when it runs, so its digest cannot hold what it "
                "reads there; write that import at the top of the function's module"
            )


def _imports(code: CodeType, package: str) -> Iterator[str]:
    """The modules that a function and the functions inside it import when they run."""
    stack: list[Any] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":  # after the level (0: from the top) and the names that are taken
            relative = len(stack) > 1 and isinstance(stack[-2], int) and stack[-2] > 0
            yield f"{package}.{instruction.argval}" if relative else instruction.argval
        stack.append(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant, package)


def _read_value(value: Any, names: set[str], spell: Spell, seen: set[Any]) -> Iterator[bytes]:
    """A value that a function reads from its module.

    Args:
        value: the value.
        names: all names in the function's code; where the value is a module, those that it may read from there.
        spell: spells any other value.
        seen: what was spelled already.
    """
    if isinstance(value, FunctionType) and not _is_ours(value) and not is_installed(module_of(value)):
        if id(value) not in seen:
            yield from _body(value, spell, seen)
    elif isinstance(value, type):
        yield name_of(value).encode()
        yield from _members(value, spell, seen)
    elif isinstance(value, ModuleType):
        yield from (b"module", value.__name__.encode())
        yield from _read_module(value, names, spell, seen)
    elif isinstance(value, (FunctionType, BuiltinFunctionType)):
        yield name_of(value).encode()
    else:
        try:
            pieces = list(spell(value, None))
        except _HiddenImport:
            raise
        except SpecError:
            pieces = [b"object", name_of(type(value)).encode()]
        yield from pieces


def _read_module(module: ModuleType, names: set[str], spell: Spell, seen: set[Any]) -> Iterator[bytes]:
    """What a function may read from a module of the user's."""
    visit = (id(module), frozenset(names))
    if visit in seen or module.__name__.partition(".")[0] == PACKAGE or is_installed(module.__name__):
        return
    seen.add(visit)
    for name in sorted(names & vars(module).keys()):
        yield name.encode()
        yield from _read_value(vars(module)[name], names, spell, seen)


def _members(cls: type, spell: Spell, seen: set[Any]) -> Iterator[bytes]:
    """The methods and attributes of a class and of its bases; of those of libraries the names."""
    for base in cls.__mro__:
        if base is object or _is_ours(base) or id(base) in seen:
            continue
        seen.add(id(base))
        if is_installed(module_of(base)):
            yield name_of(base).encode()
            continue
        for name, attribute in sorted(vars(base).items(), key=lambda entry: entry[0]):
            method = _function_in(attribute)
            if isinstance(method, FunctionType):
                if id(method) not in seen:
                    yield name.encode()
                    yield from _body(method, spell, seen)
            elif not (name.startswith("__") and name.endswith("__")):  # Python's own notes on the class
                yield name.encode()
                yield from _read_value(attribute, set(), spell, seen)


def _function_in(attribute: Any) -> Any:
    """The function of a property, a cached property, a class method or a static method; else the attribute itself."""
    for place in ("fget", "__func__", "func"):
        if isinstance(getattr(attribute, place, None), FunctionType):
            return getattr(attribute, place)
    return attribute


def _code(code: CodeType, spell: Spell) -> Iterator[bytes]:
    """Bytecode with its constants and names; not where in a file it stands."""
    yield from (code.co_code, code.co_exceptiontable)
    yield from spell([code.co_names, code.co_varnames, code.co_freevars, code.co_flags], None)
    for constant in code.co_consts:
        yield from _code(constant, spell) if isinstance(constant, CodeType) else spell(constant, None)


def _names(code: CodeType) -> set[str]:
    """Names that a function and the functions inside it may read from their module."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_names(each) for each in inner))
