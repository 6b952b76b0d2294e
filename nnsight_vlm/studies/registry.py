"""The recipes by name: what each asks, the papers that it follows, and what its numbers can show.

A recipe is registered where it is written:

    @can_run_in_background
    @recipe(papers=(KADURI,), asks="Which route carries the picture?", method="{routes} were closed.", shows="could")
    def knockout_windows(model, prompts, *, ...): ...

The frame that it gives then says where it comes from, in `frame.attrs`; see `provenance`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

import pandas as pd

from .methods import Method, Only, names_in
from .papers import Paper
from .provenance import provenance

F = TypeVar("F", bound=Callable[..., pd.DataFrame])

Shows = Literal["could", "does", "reads"]
"""What a recipe's numbers can show: what the model `could` do without something (a knockout or an ablation leaves
other ways open), what it `does` (states are interchanged, every way stays open), or what it holds (`reads` changes
nothing, so it shows no cause)."""

Kind = Literal[Shows, "estimates", "method"]
"""What single measures can show besides: an estimate by gradients of what a change `does`, or something of the
`method` alone, such as how many tokens a cut took."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe.

    Attributes:
        name: of its function.
        asks: the question that it answers, in one line.
        method: what it does, in the past tense, for a methods section: sentences, see `methods`.
        papers: those that it follows, the first one before all.
        shows: what kind of statement its numbers make.
        module: the module of its function.
        measures: the main ones, of which a citation tells the first that a frame has.
        shows_of: those measures that make another kind of statement, such as a cut beside what was read, or that say
            nothing of the model, such as how many tokens were cut.
        caveat: in what it may differ from the papers that it follows; a sentence, or empty.
    """

    name: str
    asks: str
    method: Method
    papers: tuple[Paper, ...]
    shows: Shows
    module: str
    measures: tuple[str, ...] = ()
    shows_of: Mapping[str, Kind] = field(default_factory=dict)
    caveat: str = ""

    @property
    def function(self) -> Callable[..., Any]:
        """The function, as it is called."""
        function: Callable[..., Any] = getattr(sys.modules[self.module], self.name)
        return function


RECIPES: dict[str, Recipe] = {}
"""The recipes by name; `nnsight_vlm.recipes` fills it when it is imported."""


def recipe(
    *,
    papers: Sequence[Paper],
    asks: str,
    method: str | Sequence[str | Only],
    shows: Shows,
    measures: Sequence[str] = (),
    shows_of: Mapping[str, Kind] | None = None,
    caveat: str = "",
) -> Callable[[F], F]:
    """Register a function as a recipe, and let its frames say where they come from.

    It stands below `@can_run_in_background`, so that a background job gives the same frame.

    Args:
        papers: see `Recipe`; at least one.
        asks: see `Recipe`.
        method: see `Recipe`; one text, or several, of which some are true of some calls `only`. A placeholder such as
            `{windows}` becomes the argument's value in words; where the recipe hands its settings to `Study.frame`,
            their values stand for defaults.
        shows: see `Shows`.
        measures: see `Recipe`; by default a citation tells the first measure of the frame.
        shows_of, caveat: see `Recipe`.

    Raises:
        TypeError: no papers, question or method, an unknown `shows`, a placeholder that is no argument, a function
            without `model`, or one that is decorated with `@can_run_in_background` already. It is raised where the
            recipe is defined.
    """

    def register(function: F) -> F:
        parameters = inspect.signature(function).parameters
        parts: Method = (method,) if isinstance(method, str) else tuple(method)
        unknown = names_in(parts) - set(parameters)
        kinds = {shows, *(shows_of or {}).values()}
        known = shows in get_args(Shows) and kinds <= set(get_args(Kind))
        if not papers or not known or unknown or "model" not in parameters:
            given = f"papers={papers}, shows={sorted(kinds)}"
            raise TypeError(f"{function.__name__}: {given}, no arguments {sorted(unknown)}")
        texts = [part if isinstance(part, str) else part.text for part in parts]
        if not asks.strip() or "\n" in asks or not texts or not all(text.strip() for text in texts):
            raise TypeError(f"{function.__name__}: asks={asks!r} must be one line, and method={method!r} a sentence")
        if hasattr(function, "__wrapped__"):
            raise TypeError(f"{function.__name__}: write @recipe below @can_run_in_background")
        entry = Recipe(
            name=function.__name__,
            asks=asks,
            method=parts,
            papers=tuple(papers),
            shows=shows,
            module=function.__module__,
            measures=tuple(measures),
            shows_of=dict(shows_of or {}),
            caveat=caveat,
        )
        if RECIPES.setdefault(entry.name, entry).module != entry.module:
            raise TypeError(f"there are two recipes {entry.name}, in {RECIPES[entry.name].module} and {entry.module}")

        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> pd.DataFrame:
            frame = function(*args, **kwargs)
            bound = inspect.signature(function).bind(*args, **kwargs)
            bound.apply_defaults()
            frame.attrs = provenance(entry.name, shows, parts, bound.arguments, parameters, frame.attrs)
            return frame

        return cast(F, recorded)

    return register
