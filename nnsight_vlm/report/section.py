"""What a further analysis of a report is: one row of data, from what a recipe is given to what is told of its frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .. import recipes
from ..studies.labels import NONE
from ..studies.registry import RECIPES, Recipe

Of = Literal["descriptions", "questions", "pairs"]
"""What a section measures: what the model writes about pictures, questions with an answer of one token, or such
questions about two pictures with different answers."""


class Told(NamedTuple):
    """Some numbers of a frame that report.md tells, each beside its controls.

    Attributes:
        words: what a number is of, with columns of the frame in braces.
        measure: the measure.
        same: the columns in which a control has what the number has.
        where: for some columns the values that are told.
    """

    words: str
    measure: str
    same: tuple[str, ...]
    where: Mapping[str, Sequence[Any]] = {}

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows that are told."""
        chosen = (frame["measure"] == self.measure) & (frame["control"] == NONE) & frame["mean"].notna()
        for column, values in self.where.items():
            chosen &= frame[column].isin(list(values))
        return frame[chosen]

    def controls(self, frame: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
        """The rows of the controls of one of them."""
        chosen = (frame["measure"] == self.measure) & (frame["control"] != NONE) & frame["mean"].notna()
        return frame[np.logical_and.reduce([chosen, *(frame[column] == row[column] for column in self.same)])]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One further analysis.

    Attributes:
        name: of the recipe, and of the section's frames and figure.
        title: its heading.
        of: what it measures.
        options: arguments of the recipe.
        layers: whether the recipe is given `FEW_LAYERS` of the layers.
        takes: further arguments that it is given where they are known: `truths`, `answers`, `pairs`.
        told: the numbers that report.md tells.
        plot: draws its frame.
        drawn: the measures one of which the figure needs.
        reading: how the numbers are read, in a sentence or two.
        needs_gradients: whether a server that keeps the model apart from requests cannot run it.
        file: name of its figure, if it is not that of the recipe.
    """

    name: str
    title: str
    of: Of
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: bool = False
    takes: tuple[str, ...] = ()
    told: tuple[Told, ...]
    plot: Callable[[pd.DataFrame], Axes | np.ndarray]
    drawn: tuple[str, ...]
    reading: str
    needs_gradients: bool = False
    file: str = ""

    @property
    def figure(self) -> str:
        """The name of its figure."""
        return self.file or self.name

    @property
    def recipe(self) -> Recipe:
        """The recipe, as it is registered."""
        return RECIPES[self.name]

    @property
    def function(self) -> Callable[..., pd.DataFrame]:
        """The recipe's function."""
        function: Callable[..., pd.DataFrame] = getattr(recipes, self.name)
        return function
