"""The report: the paper's claims, measured on a model, as a table and a folder.

`write_report` runs the recipes, decides the claims (`claims`) and writes frames, figures and a
summary. A report that was interrupted is taken up where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..identity import model_digest
from ..recipes.journal import FORMAT
from ..recipes.work import Work
from ..remote.model_call import Remote
from . import folder as files
from .claims import judge
from .figures import draw
from .study import QUERY, ReportConfig, gather, known_model, load, picture_names, steps
from .summary import markdown

__all__ = ["Report", "write_report"]

NO_NUMBER = ("rows", "chunk", "remote")
"""Settings on which no number depends: a report may be taken up with others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a report found.

    Attributes:
        folder: where it lies.
        claims: the table of the claims, see `claims.judge`.
        frames: the summed-up frame of every recipe, by name.
    """

    folder: Path
    claims: pd.DataFrame
    frames: dict[str, pd.DataFrame]


def write_report(
    out: str | Path,
    *,
    model: str = "shapes",
    images: str | None = None,
    query: str = QUERY,
    scenes: int = 24,
    seed: int = 0,
    objects: Sequence[str] = (),
    max_new_tokens: int = 32,
    rows: int = 64,
    fresh: bool = False,
    progress: bool = True,
    chunk: int = 4,
    remote: Remote = False,
) -> Report:
    """Measure the three claims of "What's in the Image?" (arXiv 2411.17491) on a model.

    Args:
        out: folder for the report; one that holds an unfinished report with the same settings is
            finished.
        model: what `nv.load` takes, as a name.
        images: folder of pictures; default synthetic scenes, whose objects are known.
        query: what the model is asked about every picture.
        scenes: how many synthetic scenes.
        seed: of the scenes and of every random control.
        objects: names that count as objects in a description; default those of the synthetic
            world, and every content word for a folder of pictures.
        max_new_tokens: length of the descriptions.
        rows: how many descriptions are generated in one batch; fewer need less memory.
        fresh: throw away what an earlier report left in the folder.
        progress: show progress bars.
        chunk: how many pictures are measured, and kept, together; on a server, in one job.
        remote: where the model runs, see `nv.run`; an interrupted report fetches what was sent.

    Raises:
        SpecError: before the model is loaded: no pictures, a folder that cannot be written to or
            that holds another report, numbers out of range.
    """
    request = ReportConfig(
        model=model,
        images=images,
        query=query,
        scenes=scenes,
        seed=seed,
        objects=tuple(objects),
        max_new_tokens=max_new_tokens,
        rows=rows,
        chunk=chunk,
        remote=remote,
    ).checked()
    known_model(request.model)
    place = Path(out)
    asked = {name: value for name, value in asdict(request).items() if name not in NO_NUMBER}
    files.prepare(place, {**asked, "pictures": list(picture_names(request)), "format": FORMAT}, fresh=fresh)
    loaded = load(request.model, request.remote)
    study = gather(loaded, request)
    return _write(place, loaded, request, steps(loaded, study, request), study, progress)


def _write(place: Path, model: Any, request: ReportConfig, todo: Any, study: Any, progress: bool) -> Report:
    _require_same_model(place, model)
    per_image: dict[str, pd.DataFrame] = {}
    frames: dict[str, pd.DataFrame] = {}
    for step in todo:
        work = Work(journal=place / "parts" / step.name, progress=progress, chunk=request.chunk)
        per_image[step.name] = step.run(work)
        frames[step.name] = step.sum_up(per_image[step.name])
        files.write_both(per_image[step.name], place / "frames" / f"{step.name}_per_image")
        files.write_both(frames[step.name], place / "frames" / step.name)
    claims = judge(per_image, seed=request.seed)
    files.write_both(claims, place / "claims")
    figures = draw(model, study, frames, claims, request.remote)
    for name, figure in figures.items():
        files.write_figure(figure, place / "figures" / f"{name}.png")
    files.write_text(place / "report.md", markdown(request, claims, frames, per_image, list(figures)))
    return Report(folder=place, claims=claims, frames=frames)


def _require_same_model(place: Path, model: Any) -> None:
    """Refuse to go on with a report that was begun on another model of the same name, such as other weights.

    Raises:
        SpecError: naming what to write.
    """
    digest, path = model_digest(model), place / "parts" / "model.txt"
    if path.exists() and path.read_text(errors="replace").strip() != digest:
        raise SpecError(
            f"{place} holds a report on other weights, or another configuration, of this model; write --fresh "
            "(fresh=True) to replace it, or choose another folder with --out"
        )
    files.write_text(path, digest + "\n")
