"""A recipe's frame as a paragraph of a methods section."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, get_args

import pandas as pd

from ..arguments import one_of
from ..errors import SpecError
from ..showing import escaped_markdown, for_markdown, visible
from ..studies.labels import NONE
from ..studies.papers import KADURI, NNSIGHT
from ..studies.registry import Recipe
from .by_default import rows_of_main, told_by_default
from .kinds import what_is_shown
from .numbers_told import MEANS, OVERLAP, OVERLAPS, Told, chosen_rows, told_rows
from .record import Record, record_of
from .references import bibtex, reference

Style = Literal["text", "markdown", "bibtex"]
STYLES: tuple[Style, ...] = get_args(Style)
INTERVALS = (
    "Numbers are means over images, each image being the mean of its prompts, with 95 % intervals: exact (Clopper and "
    "Pearson) where every image gave 0 or 1, Student's t for fewer than 8 images, and else at each end the wider of "
    "Student's t and the studentised bootstrap; those of shares are no wider than exact ones."
)
WHICH_PAIRS = (
    "a pair counts where the model tells its two answers apart, and has a control where a third picture has others"
)
QUOTED = re.compile(r"'[^']*'")
"""What a reason quotes: reasons that differ in this alone are told as one."""
MOST_REASONS = 5
"""Most reasons that are told."""
LONGEST_LIST = 12
"""Most prompts that are named one by one as left out."""


def cite(frame: pd.DataFrame, rows: Any = None, *, style: Style = "text") -> str:
    """Method, numbers and papers of a recipe's frame, as a paragraph of a methods section.

    It says what was done, on which model (revision, dtype, attention implementation), with which versions, on how many
    prompts and images, what was left out and why, how intervals were made, which seed the random controls had, and what
    such a result can show. All of this is read from `frame.attrs`, which Parquet files keep and CSV files do not.

    Args:
        frame: as a recipe returned it, or read back from a Parquet file.
        rows: the numbers to tell: for some columns the value or values that are wanted, such as
            `{"route": "image->last", "measure": "f1"}`, or True and False for each row. Default, of the recipe's main
            measure the greatest and the least mean with their controls.
        style: `text`; `markdown`; or `bibtex`, the papers alone as BibTeX entries.

    Returns:
        The paragraph, then the references, one a line.

    Raises:
        SpecError: no recipe's frame, several frames in one, an unknown style, rows that are not there or too many for a
            paragraph, rows of a frame without means.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "what color is the ring ?", nv.shapes.scene(3).image)
    >>> frame = nv.recipes.patch_knockout(model, prompt, answer="red", size=3)
    >>> nv.cite(frame).startswith("We asked: Which patches does an answer need")
    True
    """
    record, style = record_of(frame), one_of("style", style, STYLES)
    _refuse_joined(frame)
    papers = list(dict.fromkeys([*record.recipe.papers, KADURI, NNSIGHT]))
    numbers, cited = _numbers(frame, record, rows)  # rows= is looked at for BibTeX too
    if style == "bibtex":
        return bibtex(papers)
    sentences = [
        _asked(record),
        _method(record),
        _model(record),
        *_counts(record),
        *numbers,
        *_of_fewer(cited, record),
        what_is_shown(record.recipe, cited),
    ]
    references = [reference(paper) for paper in papers]
    call = visible(str(record.said["call"]))
    if style == "text":
        return "\n".join([visible(" ".join(sentences)), "", f"Call: {call}", "", "References:", *references])
    listed = [f"- {escaped_markdown(each)}" for each in references]
    return "\n".join(
        [escaped_markdown(" ".join(sentences)), "", f"Call: {for_markdown(call)}", "", "References:", "", *listed]
    )


def _refuse_joined(frame: pd.DataFrame) -> None:
    """Refuse frames that were put together: pd.concat keeps what they say of themselves where it is equal.

    Raises:
        SpecError: two rows are of the same.
    """
    numbers = {"mean", "low", "high", "images", "p", "survives"}
    labels = [column for column in frame.columns if column not in numbers]
    doubled = set(MEANS) <= set(frame.columns) and frame.astype(dict.fromkeys(labels, str)).duplicated(labels).any()
    if doubled or not frame.index.is_unique:
        raise SpecError(
            "frame= has two rows of the same, so it was put together from several frames, and what it says of prompts "
            "and images is true of one of them; cite each, or measure all prompts in one call"
        )


def _asked(record: Record) -> str:
    version = record.said["versions"].get("nnsight_vlm")
    built = "" if KADURI in record.recipe.papers else f" for the questions of {KADURI.cited}"
    made = f"nnsight_vlm {version}, which is built on nnsight ({NNSIGHT.cited}){built}"
    return f"We asked: {record.recipe.asks} (recipe {record.recipe.name} of {made})."


def _method(record: Record) -> str:
    cited = "; ".join(paper.cited for paper in record.recipe.papers)
    caveat = f" {record.recipe.caveat}" if record.recipe.caveat else ""
    return f"{str(record.said['method']).rstrip('.')}. This analysis is after {cited}.{caveat}"


def _model(record: Record) -> str:
    """The model, how it was loaded, where it ran, and with which versions."""
    said = record.said
    name = f"{said['model']} ({said['architecture']})" if said["model"] != said["architecture"] else said["model"]
    more = [f"revision {said['revision']}"] if said["revision"] else ["revision not known"]
    more += [f"weights {said['weights']}"] if said["weights"] and not _is_unknown(said["weights"]) else []
    more += [f"with the adapter {said['adapter']}"] if said["adapter"] else []
    more += [f"with {said['edits']} installed edits"] if said["edits"] else []
    known = {part: how for part, how in said["attention"].items() if not _is_unknown(how)}
    attention = " and ".join(f"{how} attention ({part})" for part, how in known.items())
    versions = ", ".join(
        f"{package} {version}"
        for package, version in said["versions"].items()
        if package not in ("nnsight_vlm", "server")
    )
    if _is_unknown(said["dtype"]):
        place = f"ran on the server {said['remote']}, whose dtype, device and versions are not known here, and"
    else:
        simulated = ", as a simulation of a server" if said["remote"] != "here" else ""
        place = f"ran in {said['dtype']} on {said['device']}{simulated},"
    return f"The model {name}, {', '.join(more)}, {place} with {attention}; versions: {versions}."


def _is_unknown(value: Any) -> bool:
    return str(value).startswith("unknown")


def _counts(record: Record) -> list[str]:
    """How many prompts and images there were, and which were left out."""
    said = record.said
    thing = "pair" if _takes_pairs(record.recipe) else "prompt"
    measured = f"{_many(said['prompts'], thing)} about {_many(said['images'], 'image')}"
    sentences = [f"{measured} {_were(said['prompts'])} measured; {_left_out(said['left_out'])}."]
    if said["seed"] is not None:
        sentences.append(f"Random controls were drawn with seed {said['seed']}.")
    return sentences


def _takes_pairs(recipe: Recipe) -> bool:
    taken = inspect.signature(recipe.function).parameters
    return "pairs" in taken and "prompts" not in taken


def _of_fewer(cited: pd.DataFrame, record: Record) -> list[str]:
    """Why numbers are of fewer images than were measured."""
    images = record.said["images"]
    if "images" not in cited or not (cited["images"] < images).any():
        return []
    why = f": {WHICH_PAIRS}" if _takes_pairs(record.recipe) else ""
    return [f"Where a number is over fewer than the {_many(images, 'image')}, the others have no such number{why}."]


def _left_out(left_out: list[Any]) -> str:
    """How many were left out, why, and which."""
    if not left_out:
        return "none was left out"
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, why in left_out:
        alike.setdefault(QUOTED.sub("'...'", str(why)), []).append((str(name), str(why)))
    told = sorted(alike.items(), key=lambda item: -len(item[1]))
    parts = [_because(shared, each) for shared, each in told[:MOST_REASONS]]
    others = sum(len(each) for _, each in told[MOST_REASONS:])
    parts += [f"{others} for other reasons"] if others else []
    return f"{len(left_out)} {_were(len(left_out))} left out, {'; '.join(parts)}"


def _because(shared: str, each: list[tuple[str, str]]) -> str:
    """One reason, and the prompts that were left out for it; what reasons quote is told where they agree in it."""
    whys = {why for _, why in each}
    names = [name for name, _ in each]
    named = f"{', '.join(names[:LONGEST_LIST])}{', ...' if names[LONGEST_LIST:] else ''}"
    return f"{len(names)} because {whys.pop() if len(whys) == 1 else shared} ({named})"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _numbers(frame: pd.DataFrame, record: Record, rows: Any) -> tuple[list[str], pd.DataFrame]:
    """What the frame's numbers are, and some of them; and the rows that these are.

    Raises:
        SpecError: see `chosen_rows`; rows of a frame without means.
    """
    if not set(MEANS) <= set(frame.columns):
        if rows is not None:
            raise SpecError("rows= chooses means, and this frame has none; cite the frame without per_image=True")
        return [f"The frame has {_many(len(frame), 'row')} and no means, so no intervals were made."], frame
    if rows is not None:
        cited = chosen_rows(frame, rows)
        return [INTERVALS, *_with_overlaps(f"Measured were: {'; '.join(told_rows(cited, frame))}.")], cited
    names = [name for name in dict.fromkeys(frame["control"]) if name != NONE]
    controls = f"Controls: {', '.join(map(str, names))}." if names else "There were no controls."
    of_main = rows_of_main(frame, record.recipe)
    intro, told = told_by_default(of_main, frame)
    if not told:
        return [INTERVALS, controls, "No image gave a number."], of_main
    sentence = f"{intro}: {'; '.join(map(_with_controls, told))}."
    return [INTERVALS, controls, *_with_overlaps(sentence)], of_main


def _with_controls(told: Told) -> str:
    return told.words + (f", beside {' and '.join(told.beside)}" if told.beside else "")


def _with_overlaps(sentence: str) -> list[str]:
    """A sentence, and what an overlap is where it tells one."""
    return [sentence, OVERLAPS] if OVERLAP in sentence else [sentence]
