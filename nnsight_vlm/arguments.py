"""What a user hands over, looked at where it comes in: each function returns it as the package takes it, or refuses it.

A refusal says what was given, what was expected and what to write. Numbers of numpy and torch are taken for Python's,
so that one kind travels on. Errors are imported when one is raised, because the synthetic world draws without nnsight.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
W = TypeVar("W", bound=str)
PLAIN = (str, bytes, int, float, complex, type(None), range, slice)
"""Types whose values a message spells."""
LONGEST = 60
"""Most letters of a value in a message."""


def refuse(name: str, given: Any, kind: str, write: str) -> NoReturn:
    """Refuse an argument.

    Args:
        name: of the argument.
        given: its value.
        kind: what it should have been: `"a whole number"`.
        write: what to write instead.

    Raises:
        SpecError: always.
    """
    from .errors import SpecError

    raise SpecError(f"{name}={spelled(given)} is no {kind}; write {write}")


def spelled(given: Any) -> str:
    """A value as a message shows it: short ones as they are written, others by their type, size and shape.

    >>> spelled("4GB"), spelled([1, None]), spelled([object()]), spelled(object())
    ("'4GB'", '[1, None]', 'a list of object', 'a value of type object')
    """
    if isinstance(given, PLAIN) or getattr(given, "shape", None) == ():
        return _shortened(repr(given))
    if isinstance(given, (list, tuple, set, frozenset, dict)):
        parts = [*given, *given.values()] if isinstance(given, dict) else list(given)
        if all(isinstance(part, PLAIN) for part in parts):
            return _shortened(repr(given))
        return f"a {type(given).__name__} of {', '.join(dict.fromkeys(type(part).__name__ for part in parts))}"
    shape = getattr(given, "shape", None)
    return f"a value of type {type(given).__name__}{f' and shape {tuple(shape)}' if isinstance(shape, tuple) else ''}"


def meant(given: str, known: Iterable[str], write: Callable[[str], str] = repr) -> str:
    """`; did you mean 'image'?` where one of the names that are known is spelt much like what was given, or nothing.

    >>> meant("imge", ["query", "image"]), meant("layer", ["layers"], "{}=".format), meant("ring", ["image"])
    ("; did you mean 'image'?", '; did you mean layers=?', '')
    """
    close = get_close_matches(given, list(known), n=1)
    return f"; did you mean {write(close[0])}?" if close else ""


def known_names(called: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of arguments that something that is called has not got."""
    from .errors import SpecError

    names = list(known)
    for name in given:
        if name not in names:
            nearest = meant(name, names, "{}=".format) or f"; it has {', '.join(names)}"
            raise SpecError(f"{called} has no argument {name}={nearest}")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


# numbers and words ------------------------------------------------------------------------------------


def is_bool(given: Any) -> bool:
    """Whether a value is true or false, in Python, numpy or torch."""
    return isinstance(given, bool) or str(getattr(given, "dtype", "")).removeprefix("torch.") == "bool"


def as_index(given: Any) -> int | None:
    """A whole number as Python's; None for anything else, floats and bools too."""
    if type(given) is int:
        return given
    try:
        return None if is_bool(given) or getattr(given, "shape", ()) != () else operator.index(given)
    except (TypeError, ValueError, RuntimeError):  # torch has an error of its own for each kind of tensor
        return None


def whole_number(
    name: str, given: Any, *, least: int | None = None, most: int | None = None, kind: str = "whole number"
) -> int:
    """A whole number, Python's or of another library.

    Args:
        name: of the argument.
        given: its value.
        least, most: its limits.
        kind: what the number is: `"number of rows"`.

    >>> import numpy as np
    >>> whole_number("rows", np.int64(3), least=1)
    3
    """
    number = as_index(given)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        from_to = ("" if least is None else f" from {least}") + (" on" if most is None and least is not None else "")
        refuse(name, given, kind, f"a whole number{from_to}{'' if most is None else f' up to {most}'}")
    return number


def number(
    name: str,
    given: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    kind: str = "number",
    finite: bool = True,
    write: str = "",
) -> float:
    """A number within its limits, never NaN.

    Args:
        name: of the argument.
        given: its value.
        least, most: its limits.
        above, below: limits that it does not reach.
        kind: what the number is.
        finite: whether infinity is refused.
        write: what to write instead; by default follows from the limits.
    """
    value = _as_float(given)
    bounds = ((least, "from", operator.ge), (most, "up to", operator.le), (above, "above", operator.gt))
    limits = [*bounds, (below, "below", operator.lt)]
    if (
        math.isnan(value)
        or (finite and math.isinf(value))
        or not all(limit is None or holds(value, limit) for limit, _, holds in limits)
    ):
        said = " and ".join(f"{word} {limit:g}" for limit, word, _ in limits if limit is not None)
        refuse(name, given, kind, write or f"a number {said}".rstrip())
    return value


def _as_float(given: Any) -> float:
    """A number as Python's, NaN for what is none."""
    if is_bool(given) or isinstance(given, (str, bytes)) or getattr(given, "shape", ()) != ():
        return math.nan
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def numbers(name: str, given: Any, *, least: int = 1, write: str = "") -> np.ndarray:
    """So many numbers at least, as an array `[number]` of float64; NaN is one of them, and True is 1."""
    plain = given.tolist() if hasattr(given, "tolist") else given
    try:
        array = np.asarray(plain if isinstance(plain, (list, tuple)) else "none")
    except ValueError:  # lists of different length
        array = np.asarray("none")
    if array.ndim != 1 or len(array) < least or array.dtype.kind not in "biuf":
        refuse(name, given, "list of numbers", write or f"{name}=[0.1, 0.5, ...]")
    return array.astype(float)


def flag(name: str, given: Any) -> bool:
    """True or False."""
    if isinstance(given, bool):
        return given
    if not is_bool(given) or getattr(given, "shape", None) != ():
        refuse(name, given, "choice", f"{name}=True or {name}=False")
    return bool(given)


def one_of(name: str, given: Any, words: Sequence[W], kind: str | None = None) -> W:
    """One of some words."""
    if not isinstance(given, str) or given not in words:
        from .errors import SpecError

        asked = kind or name
        space = "" if asked.endswith("=") else " "  # "no ablation how='average'", and "no reduction 'sum'"
        raise SpecError(f"no {asked}{space}{spelled(given)}: write one of {', '.join(words)}")
    return given  # type: ignore[return-value]


def text(name: str, given: Any, write: str = "") -> str:
    """A text."""
    if not isinstance(given, str):
        refuse(name, given, "text", write or f'{name}="..."')
    return given


# lists and things ---------------------------------------------------------------------------------------


def listed(name: str, given: Any, write: str, *, kind: type | tuple[type, ...] | None = None) -> tuple[Any, ...]:
    """The members of a list, or of anything else that is gone through once: a generator, a Series.

    A text is no list of letters, and a mapping no list of its keys.

    Args:
        name: of the argument.
        given: its value.
        write: what to write instead.
        kind: what its members must be.
    """
    wrong = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
    if wrong or getattr(given, "ndim", 1) != 1 or isinstance(given, (set, frozenset)):
        refuse(name, given, "list", write)
    members = tuple(given)
    for number, member in enumerate(members if kind is not None else ()):
        if not isinstance(member, kind):  # type: ignore[arg-type]
            refuse(f"{name}[{number}]", member, _called(kind), write)
    return members


def words_given(name: str, given: Any, words: Sequence[W], kind: str) -> tuple[W, ...]:
    """Some of some words, at least one; `kind` is what one of them is called."""
    write = f"{name}=[{', '.join(map(repr, words))}], or some of them"
    chosen = listed(name, given, write)
    if not chosen:
        refuse(name, given, "list of one word or more", write)
    return tuple(one_of(name, word, words, kind) for word in chosen)


def instance(name: str, given: T, kind: type | tuple[type, ...], write: str) -> T:
    """A value of some class, or of one of several."""
    if not isinstance(given, kind):
        refuse(name, given, _called(kind), write)
    return given


def _called(kind: type | tuple[type, ...] | None) -> str:
    return getattr(kind, "__name__", None) or " or ".join(each.__name__ for each in kind or ())  # type: ignore[union-attr]


def function(name: str, given: Any, write: str) -> Callable[..., Any]:
    """Something that can be called and is no class."""
    if not callable(given) or isinstance(given, type):
        refuse(name, given, "function", write)
    called: Callable[..., Any] = given
    return called


def frame_given(name: str, given: Any, columns: Sequence[str] = (), of: str = "") -> pd.DataFrame:
    """A pandas frame that has some columns.

    Args:
        name: of the argument.
        given: its value.
        columns: what it needs.
        of: what gives such a frame.
    """
    import pandas as pd

    write = (
        f"the frame of {of}" if of else f"a pandas DataFrame with the columns {', '.join(columns) or 'of your data'}"
    )
    if not isinstance(given, pd.DataFrame):
        refuse(name, given, "frame", write)
    missing = [column for column in columns if column not in given.columns]
    if missing:
        refuse(name, list(map(str, given.columns)), f"frame with the column {missing[0]!r}", write)
    return given


def path(name: str, given: Any) -> Path:
    """A path, as text or as `Path`."""
    if not isinstance(given, (str, os.PathLike)) or not str(given):
        refuse(name, given, "path", f'{name}="a/folder"')
    return Path(given)


def folder(name: str, given: Any) -> Path:
    """The path of a folder, which need not be there yet."""
    found = path(name, given)
    if found.exists() and not found.is_dir():
        refuse(name, str(given), "folder, but a file", f'{name}="a/folder"')
    return found
