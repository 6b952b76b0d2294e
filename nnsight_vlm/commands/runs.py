"""One recipe, measured on a table of questions and written to a folder: frame, figure, citation.

A run that was interrupted continues where it stopped.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import plots
from ..citing.paragraph import cite
from ..errors import SpecError, reason_of
from ..families import Model
from ..questions.item_lists import Items
from ..questions.making import items as items_of
from ..remote.model_call import Remote
from ..report.config import check_model_name, load_by_name
from ..report.folder import Contents, interruptible, prepare, write_both, write_figure, write_text
from ..studies.provenance import safe_place
from ..studies.registry import Recipe
from ..studies.work import Work
from .flags import in_options

JOURNAL = "journal"
RUN = Contents(
    called="a run",
    settings="run-settings.json",
    parts=JOURNAL,
    ours=(
        *(JOURNAL, "run-settings.json", "figure.png", "cite.txt", "frame.csv", "frame.parquet"),
        *("frame_per_image.csv", "frame_per_image.parquet"),
    ),
)
FIGURES = {"knockout_windows": ("knockout_windows", "answer_windows", "knockout_routes")}
"""The figures of a recipe whose frames are of several kinds; the first that fits is drawn. Others have one, of the
recipe's name."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for.

    Attributes:
        recipe: what is run.
        model: a name, as `nv.load` takes it.
        items: the path of a table, see `nv.items`.
        out: the folder to write.
        columns, question, pictures, annotations, leave_out: how the table is read.
        options: arguments of the recipe.
        typed: the same as they were typed, by option.
        usual: those of `only_correct`, `per_image` and `seed` that the recipe takes.
        chunk, memory: how it goes about its work.
        remote: where the model runs.
        fresh: delete what an earlier run left.
        progress: show a progress bar.
    """

    recipe: Recipe
    model: str
    items: str
    out: Path
    columns: Mapping[str, Any] = field(default_factory=dict)
    question: str | None = None
    pictures: Path | None = None
    annotations: Path | None = None
    leave_out: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    typed: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    chunk: int = 4
    memory: int | None = None
    remote: Remote = False
    fresh: bool = False
    progress: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """What a run wrote.

    Attributes:
        folder: where it is.
        files: their names.
        frame: of the recipe.
        citation: see `nv.cite`.
        left_out: items that were not measured, and why.
        no_figure: why there is no figure; empty where there is one.
    """

    folder: Path
    files: Sequence[str]
    frame: pd.DataFrame
    citation: str
    left_out: Sequence[tuple[str, str]]
    no_figure: str = ""


def carry_out(request: Request) -> Done:
    """Measure, and write the folder.

    Raises:
        SpecError: before the model is loaded: no such model, a table that cannot be read, a folder that cannot be
            written to or holds another run. Then whatever the recipe refuses; a run that is refused when it is
            begun leaves no settings behind, so that it can be asked for in another way.
    """
    check_model_name(request.model)
    work = Work(journal=request.out / JOURNAL, progress=request.progress, chunk=request.chunk, memory=request.memory)
    items = _items(request)
    _check_taken(request, items)
    begun = (request.out / RUN.settings).exists() and not request.fresh
    prepare(request.out, settings_of(request), fresh=request.fresh, contents=RUN)
    with interruptible(request.out, begun=begun, fresh=request.fresh, contents=RUN):
        try:
            model = load_by_name(request.model, request.remote)
            frame = _measured(request, model, items, work, per_image=False)
            rows = _measured(request, model, items, work, per_image=True) if request.usual.get("per_image") else None
        except SpecError:
            if not begun:  # parts of the journal are named by what they are of, so other settings may find them
                (request.out / RUN.settings).unlink()
            raise
        return _written(request, frame, rows)


def _items(request: Request) -> Items:
    """The questions of the table.

    Raises:
        SpecError: see `nv.items`.
    """
    try:
        return items_of(
            request.items,
            columns=dict(request.columns) or None,
            question=request.question,
            folder=request.pictures,
            objects=request.annotations,
            unusable="leave out" if request.leave_out else "error",
        )
    except SpecError as error:
        raise SpecError(in_options(str(error))) from error


def settings_of(request: Request) -> dict[str, Any]:
    """All on which the numbers depend, as a file keeps it; the table counts by its content."""
    table = Path(request.items)
    settings: dict[str, Any] = {
        "recipe": request.recipe.name,
        "--model": request.model,
        "--items": table.name,
        "the table's content": hashlib.sha256(table.read_bytes()).hexdigest()[:16],
        "--columns": dict(request.columns),
        "--question": request.question,
        "--pictures": None if request.pictures is None else str(request.pictures),
        "--annotations": None if request.annotations is None else str(request.annotations),
        "--leave-out": request.leave_out,
        "--remote": safe_place(request.remote),
    }
    settings |= {f"--{name.replace('_', '-')}": value for name, value in request.usual.items() if name != "per_image"}
    return settings | dict(request.typed)


def needs_pairs(recipe: Recipe) -> bool:
    """Whether a recipe compares two pictures in every row."""
    taken = inspect.signature(recipe.function).parameters
    return "pairs" in taken and "prompts" not in taken


def _check_taken(request: Request, items: Items) -> None:
    """Refuse a table that lacks what the recipe measures."""
    if needs_pairs(request.recipe) and not items.has_pairs:
        raise SpecError(
            f"{request.recipe.name} compares two pictures, and {request.items} has one in each row; give it columns "
            "answer, other_image and other_answer, or say which they are, --columns other_image=file2,other_answer=a2"
        )


def _measured(request: Request, model: Model, items: Items, work: Work, *, per_image: bool) -> pd.DataFrame:
    """The recipe's frame."""
    function = request.recipe.function
    taken = inspect.signature(function).parameters
    usual = {**request.usual, "per_image": per_image} if "per_image" in taken else dict(request.usual)
    given = {**usual, **request.options, "remote": request.remote}
    frame: pd.DataFrame = function(model, items=items, work=work, **given)
    return frame


# the folder -------------------------------------------------------------------------------------------


def _written(request: Request, frame: pd.DataFrame, rows: pd.DataFrame | None) -> Done:
    """Write frame, figure and citation."""
    folder = request.out
    write_both(frame, folder / "frame")
    files = ["frame.csv", "frame.parquet"]
    if rows is not None:
        write_both(rows, folder / "frame_per_image")
        files += ["frame_per_image.csv", "frame_per_image.parquet"]
    no_figure = ""
    try:
        write_figure(figure_of(request.recipe.name, frame), folder / "figure.png")
        files.append("figure.png")
    except SpecError as error:
        no_figure = reason_of(error)
    citation = cite(frame)
    write_text(folder / "cite.txt", citation + "\n")
    left_out = [(str(name), str(why)) for name, why in frame.attrs["left_out"]]
    return Done(
        folder=folder,
        files=[*files, "cite.txt"],
        frame=frame,
        citation=citation,
        left_out=left_out,
        no_figure=no_figure,
    )


def figure_of(name: str, frame: pd.DataFrame) -> Any:
    """The figure of a recipe's frame.

    Raises:
        SpecError: nothing in the frame can be drawn, or there is no figure of this recipe.
    """
    why = f"there is no figure of {name}"
    for figure in FIGURES.get(name, (name,)):
        if figure not in plots.__all__:
            continue
        try:
            drawn = getattr(plots, figure)(frame)
        except SpecError as error:
            why = str(error)
            continue
        first = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
        return getattr(first, "figure", None) or first
    raise SpecError(why)
