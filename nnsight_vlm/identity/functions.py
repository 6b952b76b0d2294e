"""What makes two functions or classes the same: the name by which a later process finds them, and their code.

A function of this package is its name. One of the user's is its name, its bytecode, its defaults, and what it reads
from its module: other functions and classes with their code, plain values with their content, modules by name. An
edited function is therefore another one. Not seen are changes inside objects that a function reads from its module (a
loaded parser counts by its class), inside libraries, and in files. Bytecode differs between versions of Python, so a
journal is begun anew under another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

from ..errors import SpecError

PACKAGE = __name__.partition(".")[0]

Spell = Callable[[Any, None], Iterator[bytes]]
"""Spells any value; `values` hands its own, so that this file need not know of that one."""


def name_of(value: Any) -> str:
    """The module and qualified name of a function or class.

    >>> name_of(SpecError)
    'nnsight_vlm.errors.SpecError'
    """
    return f"{_module_of(value)}.{getattr(value, '__qualname__', type(value).__qualname__)}"


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
        yield from _body(function, spell, set())


def class_pieces(cls: type, spell: Spell) -> Iterator[bytes]:
    """What a class is: its name, and for one of the user's the code of its methods and of those that it inherits.

    Raises:
        SpecError: no later process would find it by its name.
    """
    _require_found_by_name(cls)
    yield from (b"class", name_of(cls).encode())
    yield from _methods(cls, spell, set())


def _require_found_by_name(value: Any) -> None:
    found: Any = sys.modules.get(_module_of(value))
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise SpecError(
            f"{name_of(value)} is no function or class that a later process finds by its name (a lambda, a nested "
            "function, a bound method); write def at the top of a module and give that function"
        )


def _module_of(value: Any) -> str:
    """The module of a function or class; for a method of a built-in type, that of the type."""
    owner = value.__objclass__ if isinstance(value, MethodDescriptorType) else value
    return str(getattr(owner, "__module__", None) or "builtins")


def _is_ours(value: Any) -> bool:
    return _module_of(value).partition(".")[0] == PACKAGE


def _body(function: FunctionType, spell: Spell, seen: set[int]) -> Iterator[bytes]:
    """The code, the defaults, and the values that a function reads from its module; each function once."""
    seen.add(id(function))
    yield from _code(function.__code__, spell)
    for default in (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())):
        yield from spell(default, None)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield name.encode()
        yield from _read_value(function.__globals__[name], spell, seen)


def _read_value(value: Any, spell: Spell, seen: set[int]) -> Iterator[bytes]:
    """A value that a function reads from its module."""
    if isinstance(value, FunctionType) and not _is_ours(value):
        if id(value) not in seen:
            yield from _body(value, spell, seen)
    elif isinstance(value, type):
        yield name_of(value).encode()
        yield from _methods(value, spell, seen)
    elif isinstance(value, ModuleType):
        yield from (b"module", value.__name__.encode())
    elif isinstance(value, (FunctionType, BuiltinFunctionType)):
        yield name_of(value).encode()
    else:
        try:
            pieces = list(spell(value, None))
        except SpecError:
            pieces = [b"object", name_of(type(value)).encode()]
        yield from pieces


def _methods(cls: type, spell: Spell, seen: set[int]) -> Iterator[bytes]:
    for base in cls.__mro__:
        if base is object or _is_ours(base) or id(base) in seen:
            continue
        seen.add(id(base))
        for name, attribute in sorted(vars(base).items(), key=lambda entry: entry[0]):
            method = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
            if isinstance(method, FunctionType) and id(method) not in seen:
                yield name.encode()
                yield from _body(method, spell, seen)


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
