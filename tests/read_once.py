"""Sources of functions that travel are read once a process.

nnsight reads and parses the source of each of the package's functions again for every request, which takes far longer
than a tiny model. What it gets does not change while tests run.
"""

from __future__ import annotations

import functools
import inspect
from types import CodeType, FunctionType
from typing import Any

from nnsight.intervention import serialization


@functools.cache
def lines_of(code: CodeType, filename: str) -> tuple[list[str], int]:
    """The lines of a function, and the number of the first; kept by its code, which holds neither globals nor cells.

    Functions of two files may have equal code.
    """
    return inspect.getsourcelines(code)


class Inspect:
    """`inspect` as nnsight's serialization uses it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def getsourcelines(self, function: FunctionType) -> tuple[list[str], int]:
        code = inspect.unwrap(function).__code__
        lines, first = lines_of(code, code.co_filename)
        return list(lines), first

    def getsource(self, function: FunctionType) -> str:
        return "".join(self.getsourcelines(function)[0])


def install() -> None:
    """For the rest of the process."""
    serialization.inspect = Inspect()
    serialization._function_referenced_names = functools.cache(serialization._function_referenced_names)
