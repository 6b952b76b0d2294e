"""What a report says, in pieces of Markdown: report.md and index.html are put together of the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..questions.item_lists import Items
from ..showing import escaped_markdown, for_markdown
from ..statistics import FEWEST
from ..studies.labels import AGREEMENT, Condition
from ..studies.words import Vocabulary
from .chosen import NAMES, chosen_parts
from .config import ReportConfig
from .left_out import NAMED, WHOLE, Note
from .numbers import digits_of, with_interval
from .results import Results
from .sections import SECTIONS
from .study import Study

FIGURE_TITLES = {
    "claims": "The claims: number, 95 % interval and threshold; controls in grey",
    "routes": "Descriptions with a route cut in all layers",
    "windows": "Descriptions with a route cut (block) or open only (allow) in a window of layers",
    "answers": "Answers with a route cut in a window of layers",
    "attention": "Attention mass by token group, and entropy over the image",
    "patching": "Interchange patching between two pictures",
    "grounding": "Do generated object words attend to their object?",
    "ablation": "Descriptions with parts of the prompt dropped",
    "overlays": "Which patches object words attend to: middle half of the layers, mean over heads, before the word",
    **{section.figure: section.title for section in SECTIONS},
}


NO_NAMES = (
    "Neither --objects nor boxes or masks name objects, so every content word of a description counts as an object "
    "(for the models inside the package, every colour with a shape)."
)
SEVERAL = (
    "A description is searched for each name once, while the truth counts every object: three dogs of which the "
    'description says "dogs" are one hit of three.'
)
HALVED = "Interchange patching and the ablation of the prompt are of half of the scenes, at least 8."
OF_ALL = ("knockout_windows", "attention_share", "prompt_ablation")
"""The parts that measure every picture."""
MOST_IDS = 20
"""Most items that one line names; left-out.csv has all."""


SOURCE = (
    "The claims are those of Kaduri, Bagon and Dekel, "
    '"What\'s in the Image?" (arXiv 2411.17491). Intervals are 95 % intervals over images.'
)
READING = (
    "An arrow is a route of attention: with `image->generated` cut, the words that the model writes cannot attend to "
    "the tokens of the image. `query` is the text after the image, `text` all tokens that are not the image's, and a "
    "patch is the piece of the picture that an image token stands for. F1 says how well the objects that a description "
    "names agree with those of the model's own description without a cut, whose F1 is 1.\n\n"
    "A claim *holds* where the whole interval lies above the criterion, *does not hold* where the whole interval "
    f"lies below it, and is *not decided at this sample size* otherwise, always with fewer than {FEWEST} images. "
    "The criteria and their reasons are fixed in `nnsight_vlm/report/claims.py`. In a control, what the claim is "
    "about was taken out: there it should not hold; where it is *not decided*, its interval lies on both sides of "
    "the criterion.\n\n"
    "A knockout shows what the model *can* do without a route, interchange patching what it *does*; attention is "
    "not causation. In the frames, `control` is `none` for the measurement and names the control otherwise."
)
QUALITY = "The model's descriptions"
QUALITY_HEADINGS = ("description", "precision", "recall", "F1", "objects named")


class ClaimLine(NamedTuple):
    """One claim or control as people read it.

    Attributes:
        key: the claim's key; empty for a control, which follows its claim.
        statement: what is claimed, or what the control is.
        measured: the number with its interval and unit.
        criterion: above which the claim holds.
        verdict: whether it does.
        control: whether it is a control.
    """

    key: str
    statement: str
    measured: str
    criterion: str
    verdict: str
    control: bool


class QualityRow(NamedTuple):
    """One line of the table that says how good the model's descriptions are.

    Attributes:
        title: what was compared.
        condition: the rows of the frame that it shows.
        suffix: of the measures: `_true` for the comparison with the truth.
    """

    title: str
    condition: Condition
    suffix: str


def spread(row: pd.Series) -> str:
    """A claim's value with its interval and unit."""
    if math.isnan(row["value"]):
        return ""
    unit = f" {row['unit']}" if row["unit"] else ""
    return with_interval(row["value"], row["low"], row["high"], row["threshold"]) + unit


def claim_lines(claims: pd.DataFrame) -> list[ClaimLine]:
    """Every claim and control, in the order of the table; a claim and its control show their criterion alike."""
    digits: dict[str, int] = {}
    for _, row in claims.iterrows():
        own = digits_of(row["low"], row["high"], row["threshold"])
        digits[row["claim"]] = max(own, digits.get(row["claim"], 0))
    return [
        ClaimLine(
            key="" if row["control"] else str(row["claim"]),
            statement=f"control: {row['statement']}" if row["control"] else str(row["statement"]),
            measured=spread(row),
            criterion=f"> {round(row['threshold'], digits[row['claim']]):g}",
            verdict=str(row["verdict"]),
            control=bool(row["control"]),
        )
        for _, row in claims.iterrows()
    ]


def title(config: ReportConfig) -> str:
    """The heading of the whole."""
    return f"What's in the image? Model {for_markdown(config.model)}"


def about(results: Results) -> str:
    """Which pictures, and what was asked of them."""
    config, study = results.config, results.study
    images, prompts = _counted(study, results.per_image)
    called = "files" if config.items is None else "rows"
    copies = f" ({prompts} {called}; those about one picture are one image)" if prompts > images else ""
    query = "each row's own question" if config.query is None else for_markdown(config.query)
    names = ", ".join(map(for_markdown, study.objects.names if isinstance(study.objects, Vocabulary) else ()))
    counted = f" What counts as an object: {names}." if names else ""
    return (
        f"{images} image{'s' * (images != 1)}{copies}: {_source(config, study)}. Query: {query}; "
        f"greedy answers of at most {config.max_new_tokens} tokens.{counted}"
    )


def _counted(study: Study, per_image: Mapping[str, pd.DataFrame]) -> tuple[int, int]:
    """How many images and prompts the parts about descriptions had; where none ran, how many prompts there are."""
    for name in OF_ALL:
        if name in per_image and not per_image[name].empty:
            rows = per_image[name]
            return int(rows["cluster"].nunique()), int(rows["image"].nunique())
    return len(study.ids), len(study.ids)


def _source(config: ReportConfig, study: Study) -> str:
    if study.table:
        source = f"the rows of {for_markdown(study.table)}"
    elif config.images is not None:
        source = f"the pictures in {for_markdown(config.images)}"
    else:
        return f"synthetic scenes (seed {config.seed})"
    beside = config.annotations
    named = for_markdown(str(beside)) if isinstance(beside, (str, Path)) else "a table of boxes"
    return source if beside is None else f"{source}, with the objects of {named}"


def definitions(claims: pd.DataFrame) -> str:
    """What the number of each claim is."""
    return "\n".join(
        f"- **{row['claim']}**: {row['measured']}; holds above {row['threshold']:.2g}."
        for _, row in claims[~claims["control"]].iterrows()
    )


def quality_lines(frames: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    """How good the model's descriptions are: claims about a model that cannot describe pictures mean little."""
    if "knockout_windows" not in frames:
        return []
    frame, lines = frames["knockout_windows"], list[list[str]]()
    for row in _quality_rows(frame):
        measures = frame[frame["form"] == row.condition].set_index("measure")
        cells = [_cell(measures, f"{name}{row.suffix}") for name in AGREEMENT]
        lines.append([row.title, *cells, _cell(measures, "objects")])
    return lines


def quality_notes(results: Results) -> list[str]:
    """How the objects of a description were counted."""
    frames, study = results.frames, results.study
    if isinstance(study.asked, Items) and study.objects is None:
        return [NO_NAMES]
    is_known = (frames["knockout_windows"]["measure"] == "f1_true").any()
    return [SEVERAL] if is_known and isinstance(study.objects, Vocabulary) else []


def _quality_rows(frame: pd.DataFrame) -> list[QualityRow]:
    rows = [QualityRow("blind (no text sees the image), against its own un-cut description", "blind", "")]
    if (frame["measure"] == "f1_true").any():
        rows.append(QualityRow("un-cut, against the truth", "clean", "_true"))
        rows.append(QualityRow("blind, against the truth", "blind", "_true"))
    return rows


def _cell(measures: pd.DataFrame, measure: str) -> str:
    if measure not in measures.index:
        return ""
    row = measures.loc[measure]
    return with_interval(row["mean"], row["low"], row["high"])


def figures_apart(results: Results) -> list[str]:
    """The names of the figures that stand in no section."""
    elsewhere = {section.figure for section in SECTIONS}
    return [name for name in results.figures if name not in elsewhere]


def not_wanted(config: ReportConfig) -> str:
    """Which parts were not asked for; empty where all were."""
    chosen = chosen_parts(config.only, config.without)
    dropped = [name for name in NAMES if name not in chosen]
    return f"Not asked for: {', '.join(f'`{name}`' for name in dropped)}." if dropped else ""


def missing_lines(results: Results) -> list[str]:
    """What could not be measured, and why."""
    lines = [f"{FIGURE_TITLES[name]}: left out, because {_sentence(why)}" for name, why in results.missing.items()]
    in_figures = NAMED.values()  # a section that is left out as a whole lacks its figure, which says so above
    return lines + [_note(note) for note in results.notes if note.ids or note.section not in in_figures]


def _note(note: Note) -> str:
    if not note.ids:
        return f"Left out: {note.section}, because {_sentence(note.why)}"
    named = ", ".join(for_markdown(str(each)) for each in note.ids[:MOST_IDS])
    more = f" and {len(note.ids) - MOST_IDS} more (see left-out.csv)" if len(note.ids) > MOST_IDS else ""
    of = "" if note.section == WHOLE else f" of {note.section}"
    return f"Left out{of}: {named}{more}, because {_sentence(note.why)}"


def _sentence(why: str) -> str:
    return escaped_markdown(why).rstrip(".") + "."


def file_lines(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """What lies in the folder."""
    return [
        "`index.html`: this report as one page for a browser, with pictures to point at and all frames as tables",
        "`claims.csv`, `claims.parquet`: the table of the claims",
        *(
            f"`frames/{name}.csv`, `.parquet`: {len(frame)} rows of means; `{name}_per_image.*`: the rows behind them"
            for name, frame in frames.items()
        ),
        "`left-out.csv`, `.parquet`: what was not measured, item by item, and why",
        "`report-settings.json`: the settings; `parts/`: finished work, from which an interrupted report continues",
    ]
