"""The whole report: run the recipes, decide the claims, and write frames, figures and a summary.

A report that was interrupted continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import flag, listed, whole_number
from ..errors import InterventionError, SpecError
from ..families import Model
from ..identity import model_digest
from ..questions.item_lists import LeftOut
from ..remote.client import place_of
from ..remote.model_call import Remote
from ..studies.journal import FORMAT
from ..studies.work import Work
from . import folder as files
from .asked import Asked, asked_of
from .chosen import BASE, chosen_parts
from .claims import judge
from .config import SCENES, SECTION_IMAGES, ReportConfig, check_model_name, load_by_name, picture_names
from .figures import draw, missing
from .left_out import as_frame, notes_on
from .page import page
from .results import Results
from .steps import Step, steps
from .study import Study, gather
from .summary import markdown

PARTS = 'names of parts, ["knockout_windows", "ablation"]'
RESTS_ON = {("1", "2"): "knockout_windows", ("3a", "3b"): "patch_grounding"}
"""The part that each claim rests on."""
DECISIVE = ("model", "images", "query", "scenes", "seed", "objects", "max_new_tokens", "section_images")
"""Settings on which numbers depend, beside the pictures and questions themselves: `settings_of`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What `write_report` wrote.

    Attributes:
        folder: where it is.
        claims: the table of the claims, see `judge`.
        frames: the means of every recipe, by name.
        left_out: the files of the pictures' folder, or rows of the table, that were not measured at all, and why.
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
    items: Any = None,
    columns: Mapping[str, Any] | None = None,
    annotations: Any = None,
    pictures: str | Path | None = None,
    leave_out: bool = False,
    query: str | None = None,
    scenes: int | None = None,
    seed: int = 0,
    objects: Sequence[str] = (),
    max_new_tokens: int = 32,
    rows: int = 64,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    section_images: int = SECTION_IMAGES,
    fresh: bool = False,
    progress: bool = True,
    chunk: int = 4,
    remote: Remote = False,
) -> Report:
    """Measure the three claims of "What's in the Image?" (arXiv 2411.17491) on a model, and further analyses.

    What a model or its pictures do not permit is left out, and report.md says why.

    Args:
        out: the folder to write; an unfinished report with the same settings that is there is finished.
        model: the name of a model, as `nv.load` takes it.
        images: a folder of pictures; default synthetic scenes, whose objects are known. Files that cannot be opened are
            left out, and report.md names them.
        items: a table of questions about pictures in place of the folder, or `Items`, see `nv.items`. The model's
            answers to the questions are what is described. A column `answer` has the knockout of answers measured too,
            and columns `other_image` and `other_answer` interchange patching. What a table lacks is not measured, and
            report.md says so.
        columns: the names of the table's columns, see `nv.items`.
        annotations: boxes or masks of the objects, beside the table or the folder: a COCO file or a table of boxes, see
            `objects` of `nv.items`. The claims 3a and 3b need them, here or in a column of the table.
        pictures: where relative paths in the table begin; default the folder of the table's file.
        leave_out: go on without rows and pictures that cannot be used; report.md names them.
        query: what the model is asked about every picture, `describe the image.` unless told otherwise; with a table,
            in place of the rows' own questions, which are then asked for the knockout of answers only.
        scenes: how many synthetic scenes, 24 unless told otherwise; not beside pictures of your own.
        seed: of the scenes and of every random control.
        objects: names that count as objects in a description. Default: the parser of the synthetic world for scenes;
            for other pictures the names of their boxes or masks, and without these every content word.
        max_new_tokens: length of the descriptions in tokens.
        rows: how many descriptions are generated in one batch; fewer need less memory.
        only: the parts that are measured, by the names of their frames (see `chosen.NAMES`): `["knockout_windows",
            "patch_grounding"]` is the claims alone. Default all. More parts can be added to a report later.
        without: in its place, the parts that are not measured.
        section_images: how many pictures each further analysis takes, the first ones; default 8. The parts of `BASE`
            take all.
        fresh: delete what an earlier report left in the folder.
        progress: show progress bars.
        chunk: how many pictures are measured, and kept, together; on a server, how many are in one job.
        remote: where the model runs, see `nv.run`. An interrupted report fetches the jobs that it sent, and is only
            continued at the same place: a server may compute in another dtype.

    Raises:
        SpecError: before the model is loaded: scenes beside pictures, no pictures, a table with rows that cannot be
            used, a folder that cannot be written to or that holds another report, numbers out of range.
    """
    if (images is not None or items is not None) and scenes is not None:
        given = "--images (images=) is a folder of pictures" if items is None else "--items (items=) is a table"
        raise SpecError(f"{given}, and --scenes (scenes=) how many synthetic ones are drawn; give one of them")
    config = ReportConfig(
        model=model,
        images=images,
        items=items,
        columns=columns,
        annotations=annotations,
        pictures=pictures,
        leave_out=flag("leave_out", leave_out),
        query=query,
        scenes=SCENES if scenes is None else scenes,
        seed=seed,
        objects=tuple(objects),
        max_new_tokens=max_new_tokens,
        rows=rows,
        only=listed("only", only, PARTS, kind=str),
        without=listed("without", without, PARTS, kind=str),
        section_images=whole_number("section_images", section_images, least=1, kind="number of pictures"),
        chunk=chunk,
        remote=remote,
    ).checked()
    chosen_parts(config.only, config.without)
    check_model_name(config.model)
    folder = Path(out)
    asked = asked_of(config)
    files.check_writable(folder)
    begun = (folder / files.REPORT.settings).exists() and not fresh
    files.prepare(folder, settings_of(config, asked), fresh=fresh)
    with files.interruptible(folder, begun=begun, fresh=fresh):
        try:
            loaded = load_by_name(config.model, config.remote)
            study = gather(loaded, config, asked, progress=progress)
            parts = steps(loaded, study, config)
            _refuse_nothing(parts)
        except SpecError:
            if not begun:  # so that it can be asked for in another way
                (folder / files.REPORT.settings).unlink()
            raise
        return _write(folder, loaded, config, parts, study, progress)


def _refuse_nothing(parts: Sequence[Step]) -> None:
    """Refuse a report without a part that can be measured.

    Raises:
        SpecError: saying why the first of those that were wanted cannot.
    """
    if all(part.lacks for part in parts):
        why = f"{parts[0].name}: {parts[0].lacks}" if parts else "patch_grounding: nothing tells where patches are"
        raise SpecError(f"there is nothing to measure: {why}")


def settings_of(config: ReportConfig, asked: Asked | None) -> dict[str, Any]:
    """All on which the numbers depend, as a file keeps it; tables and annotations count by their content."""
    settings = {name: getattr(config, name) for name in DECISIVE}
    settings |= {"remote": place_of(config.remote), "pictures": list(picture_names(config)), "format": FORMAT}
    if asked is None or (config.items is None and config.annotations is None):
        return settings
    if config.items is None:
        return settings | {"content of the pictures and annotations": asked.digest}
    return settings | {"items": asked.called, "content of the table": asked.digest}


def _write(
    folder: Path, model: Model, config: ReportConfig, parts: Sequence[Step], study: Study, progress: bool
) -> Report:
    _check_same_weights(folder, model)
    per_image: dict[str, pd.DataFrame] = {}
    frames: dict[str, pd.DataFrame] = {}
    refused: dict[str, str] = {}
    for step in parts:
        work = Work(journal=folder / "parts" / step.name, progress=progress, chunk=config.chunk)
        try:
            if step.lacks:
                raise SpecError(step.lacks)
            per_image[step.name] = step.run(work)
            frames[step.name] = step.sum_up(per_image[step.name], work)
        except (SpecError, InterventionError) as error:
            refused[step.name] = str(error)
            continue
        if step.name in BASE:  # where the means come from: the call of their rows
            frames[step.name].attrs = dict(per_image[step.name].attrs)
        files.write_both(per_image[step.name], folder / "frames" / f"{step.name}_per_image")
        files.write_both(frames[step.name], folder / "frames" / step.name)
    if not frames:
        raise SpecError(f"no part of the report could be measured; {' '.join(map(': '.join, refused.items()))}")
    claims = _claims(per_image, config)
    files.write_both(claims, folder / "claims")
    notes = notes_on(config, study, per_image, refused)
    files.write_both(as_frame(notes), folder / "left-out")
    figures = draw(model, study, frames, claims, config.remote)
    for name, figure in figures.items():
        files.write_figure(figure, folder / "figures" / f"{name}.png")
    results = Results(
        config=config,
        study=study,
        claims=claims,
        frames=frames,
        per_image=per_image,
        figures=list(figures),
        missing=missing(frames, figures, refused, chosen_parts(config.only, config.without)),
        notes=notes,
    )
    files.write_text(folder / "report.md", markdown(results))
    files.write_text(folder / "index.html", page(results, model, folder))
    left_out = (*(LeftOut(*each) for each in config.left_out), *study.left_out)
    return Report(folder=folder, claims=claims, frames=frames, left_out=left_out)


def _claims(per_image: Mapping[str, pd.DataFrame], config: ReportConfig) -> pd.DataFrame:
    """The claims; those whose measurements were not wanted say so."""
    claims, chosen = judge(per_image, seed=config.seed), chosen_parts(config.only, config.without)
    for keys, part in RESTS_ON.items():
        if part not in chosen:
            claims.loc[claims["claim"].isin(keys), "verdict"] = f"not asked for ({part})"
    return claims


def _check_same_weights(folder: Path, model: Model) -> None:
    """Refuse to continue a report that was begun on other weights of the same name."""
    digest, path = model_digest(model), folder / "parts" / "model.txt"
    if path.exists() and path.read_text(errors="replace").strip() != digest:
        raise SpecError(
            f"{folder} holds a report on other weights, or another configuration, of this model; write --fresh "
            "(fresh=True) to replace it, or choose another folder with --out"
        )
    files.write_text(path, digest + "\n")
