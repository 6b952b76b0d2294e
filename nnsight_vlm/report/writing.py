"""The whole report: run the recipes, decide the claims, and write frames, figures and a summary.

A report that was interrupted continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from ..errors import SpecError
from ..families import Model
from ..identity import model_digest
from ..remote.client import place_of
from ..remote.model_call import Remote
from ..studies.journal import FORMAT
from ..studies.work import Work
from . import folder as files
from .claims import judge
from .config import QUERY, SCENES, LeftOut, ReportConfig, check_model_name, load_by_name, picture_names
from .figures import draw, missing
from .study import Step, Study, gather, steps
from .summary import markdown

RESUMABLE = ("rows", "chunk", "left_out")
"""Settings on which no number depends: an interrupted report may continue with other values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What `write_report` wrote.

    Attributes:
        folder: where it is.
        claims: the table of the claims, see `judge`.
        frames: the means of every recipe, by name.
        left_out: the files of the pictures' folder that cannot be opened, and why.
    """

    folder: Path
    claims: pd.DataFrame
    frames: dict[str, pd.DataFrame]
    left_out: tuple[LeftOut, ...] = ()


def write_report(
    out: str | Path,
    *,
    model: str = "shapes",
    images: str | None = None,
    query: str = QUERY,
    scenes: int | None = None,
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
        out: the folder to write; an unfinished report with the same settings that is there is finished.
        model: the name of a model, as `nv.load` takes it.
        images: a folder of pictures; default synthetic scenes, whose objects are known. Files that cannot be opened are
            left out, and report.md names them.
        query: what the model is asked about every picture.
        scenes: how many synthetic scenes, 24 unless told otherwise; not beside a folder of pictures.
        seed: of the scenes and of every random control.
        objects: names that count as objects in a description. Default: the parser of the synthetic world for scenes,
            every content word for a folder of pictures.
        max_new_tokens: length of the descriptions in tokens.
        rows: how many descriptions are generated in one batch; fewer need less memory.
        fresh: delete what an earlier report left in the folder.
        progress: show progress bars.
        chunk: how many pictures are measured, and kept, together; on a server, how many are in one job.
        remote: where the model runs, see `nv.run`. An interrupted report fetches the jobs that it sent, and is only
            continued at the same place: a server may compute in another dtype.

    Raises:
        SpecError: before the model is loaded: scenes beside pictures, no pictures, a folder that cannot be written to
            or that holds another report, numbers out of range.
    """
    if images is not None and scenes is not None:
        raise SpecError(
            "--images (images=) is a folder of pictures, and --scenes (scenes=) how many synthetic ones are drawn; "
            "give one of them"
        )
    config = ReportConfig(
        model=model,
        images=images,
        query=query,
        scenes=SCENES if scenes is None else scenes,
        seed=seed,
        objects=tuple(objects),
        max_new_tokens=max_new_tokens,
        rows=rows,
        chunk=chunk,
        remote=remote,
    ).checked()
    check_model_name(config.model)
    folder = Path(out)
    settings = {name: value for name, value in asdict(config).items() if name not in RESUMABLE}
    settings |= {"remote": place_of(config.remote), "pictures": list(picture_names(config)), "format": FORMAT}
    files.prepare(folder, settings, fresh=fresh)
    loaded = load_by_name(config.model, config.remote)
    study = gather(loaded, config)
    return _write(folder, loaded, config, steps(loaded, study, config), study, progress)


def _write(
    folder: Path, model: Model, config: ReportConfig, recipes: Sequence[Step], study: Study, progress: bool
) -> Report:
    _check_same_weights(folder, model)
    per_image: dict[str, pd.DataFrame] = {}
    frames: dict[str, pd.DataFrame] = {}
    for step in recipes:
        work = Work(journal=folder / "parts" / step.name, progress=progress, chunk=config.chunk)
        per_image[step.name] = step.run(work)
        frames[step.name] = step.sum_up(per_image[step.name])
        frames[step.name].attrs = dict(per_image[step.name].attrs)  # where the means come from: the call of their rows
        files.write_both(per_image[step.name], folder / "frames" / f"{step.name}_per_image")
        files.write_both(frames[step.name], folder / "frames" / step.name)
    claims = judge(per_image, seed=config.seed)
    files.write_both(claims, folder / "claims")
    figures = draw(model, study, frames, claims, config.remote)
    for name, figure in figures.items():
        files.write_figure(figure, folder / "figures" / f"{name}.png")
    text = markdown(config, claims, frames, per_image, list(figures), missing(frames, figures))
    files.write_text(folder / "report.md", text)
    return Report(folder=folder, claims=claims, frames=frames, left_out=config.left_out)


def _check_same_weights(folder: Path, model: Model) -> None:
    """Refuse to continue a report that was begun on other weights of the same name."""
    digest, path = model_digest(model), folder / "parts" / "model.txt"
    if path.exists() and path.read_text(errors="replace").strip() != digest:
        raise SpecError(
            f"{folder} holds a report on other weights, or another configuration, of this model; write --fresh "
            "(fresh=True) to replace it, or choose another folder with --out"
        )
    files.write_text(path, digest + "\n")
