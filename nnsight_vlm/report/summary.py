"""The report as text: the table of the claims, how to read it, and what the folder holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ..showing import for_markdown
from ..statistics import FEWEST
from ..studies.labels import AGREEMENT, Condition
from .config import ReportConfig

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
}


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


def number(value: float, digits: int = 2) -> str:
    """A number of the table, empty where there is none."""
    if math.isnan(value):
        return ""
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else f"{value:+.0f}".replace("inf", "∞")


def digits_of(low: float, high: float, threshold: float = math.nan) -> int:
    """How many digits after the point tell the ends of an interval from each other and from a threshold; 2 to 6.

    >>> digits_of(0.55, 0.70), digits_of(-0.00024, 0.00219), digits_of(0.672, 0.866, threshold=2 / 3)
    (2, 4, 3)
    """
    width = high - low
    digits = min(max(2, 1 - math.floor(math.log10(width))), 6) if 0 < width < 0.01 else 2
    apart = [end for end in (low, high) if math.isfinite(end) and end != threshold]
    while digits < 6 and any(round(end, digits) == round(threshold, digits) for end in apart):
        digits += 1
    return digits


def with_interval(value: float, low: float, high: float, threshold: float = math.nan) -> str:
    """A number with its interval, `0.62 [0.55, 0.70]`, to as many digits as `digits_of` says.

    >>> with_interval(0.00016, -0.00024, 0.00219)
    '0.0002 [-0.0002, 0.0022]'
    >>> with_interval(3.5, 3.25, float("inf"))
    '3.50 [3.25, +∞]'
    """
    if math.isnan(low) and math.isnan(high):
        return f"{number(value)} (no interval)"
    digits = digits_of(low, high, threshold)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def spread(row: pd.Series) -> str:
    """A claim's value with its interval and unit."""
    if math.isnan(row["value"]):
        return ""
    unit = f" {row['unit']}" if row["unit"] else ""
    return with_interval(row["value"], row["low"], row["high"], row["threshold"]) + unit


def claim_lines(claims: pd.DataFrame) -> list[ClaimLine]:
    """Every claim and control, in the order of the table."""
    return [
        ClaimLine(
            key="" if row["control"] else str(row["claim"]),
            statement=f"control: {row['statement']}" if row["control"] else str(row["statement"]),
            measured=spread(row),
            criterion=f"> {round(row['threshold'], digits_of(row['low'], row['high'], row['threshold'])):g}",
            verdict=str(row["verdict"]),
            control=bool(row["control"]),
        )
        for _, row in claims.iterrows()
    ]


def markdown(
    config: ReportConfig,
    claims: pd.DataFrame,
    frames: Mapping[str, pd.DataFrame],
    per_image: Mapping[str, pd.DataFrame],
    figures: Sequence[str],
    missing: Mapping[str, str],
) -> str:
    """The text of `report.md`.

    Args:
        config: the settings.
        claims: see `judge`.
        frames, per_image: the means of every recipe, and the rows behind them.
        figures: the names of those that there are.
        missing: why there are no others, by name.
    """
    sections = [
        _head(config, per_image),
        _table(claims),
        _definitions(claims),
        _quality(frames, config),
        _figures(figures),
        _missing(missing, config),
        _files(frames),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(config: ReportConfig, per_image: Mapping[str, pd.DataFrame]) -> str:
    rows = per_image["knockout_windows"]
    images, prompts = int(rows["cluster"].nunique()), int(rows["image"].nunique())
    copies = f" ({prompts} files; those with equal pixels are one image)" if prompts > images else ""
    folder, names = for_markdown(config.images or ""), ", ".join(map(for_markdown, config.objects))
    source = f"the pictures in {folder}" if config.images else f"synthetic scenes (seed {config.seed})"
    counted = f" What counts as an object: {names}." if names else ""
    return (
        f"# What's in the image? Model {for_markdown(config.model)}\n\n"
        f"{images} image{'s' * (images != 1)}{copies}: {source}. Query: {for_markdown(config.query)}. "
        f"Greedy answers of at most {config.max_new_tokens} tokens.{counted}\n\n"
        "The claims are those of Kaduri, Bagon and Dekel, "
        '"What\'s in the Image?" (arXiv 2411.17491). Intervals are 95 % intervals over images.'
    )


def _table(claims: pd.DataFrame) -> str:
    lines = ["| claim | | measured [95 % interval] | criterion | verdict |", "|---|---|---|---|---|"]
    for line in claim_lines(claims):
        statement = f"*{line.statement}*" if line.control else f"**{line.statement}**"
        lines.append(f"| {line.key} | {statement} | {line.measured} | {line.criterion} | {line.verdict} |")
    return "\n".join(lines)


def _definitions(claims: pd.DataFrame) -> str:
    definitions = "\n".join(
        f"- **{row['claim']}**: {row['measured']}; holds above {row['threshold']:.2g}."
        for _, row in claims[~claims["control"]].iterrows()
    )
    return (
        "## How to read it\n\n"
        f"{definitions}\n\n"
        "A claim *holds* where the whole interval lies above the criterion, *does not hold* where the whole interval "
        f"lies below it, and is *not decided at this sample size* otherwise, always with fewer than {FEWEST} images. "
        "The criteria and their reasons are fixed in `nnsight_vlm/report/claims.py`. In a control, what the claim is "
        "about was taken out: there it should not hold; where it is *not decided*, its interval lies on both sides of "
        "the criterion.\n\n"
        "A knockout shows what the model *can* do without a route, interchange patching what it *does*; attention is "
        "not causation. In the frames, `control` is `none` for the measurement and names the control otherwise."
    )


def _quality(frames: Mapping[str, pd.DataFrame], config: ReportConfig) -> str:
    """How good the model's descriptions are: claims about a model that cannot describe pictures mean little."""
    frame = frames["knockout_windows"]
    lines = ["| description | precision | recall | F1 | objects named |", "|---|---|---|---|---|"]
    for title, condition, suffix in _quality_rows(frame):
        measures = frame[frame["form"] == condition].set_index("measure")
        cells = [_cell(measures, f"{name}{suffix}") for name in AGREEMENT] + [_cell(measures, "objects")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    without_names = config.images and not config.objects
    note = "No vocabulary of objects was given, so every content word of a description counts as an object."
    return "## The model's descriptions\n\n" + "\n".join(lines) + (f"\n\n{note}" if without_names else "")


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


def _figures(figures: Sequence[str]) -> str:
    return "## Figures\n\n" + "\n\n".join(
        f"{FIGURE_TITLES[name]}\n\n![{FIGURE_TITLES[name]}](figures/{name}.png)" for name in figures
    )


def _missing(missing: Mapping[str, str], config: ReportConfig) -> str:
    """What could not be measured, and why; empty where everything was."""
    lines = [f"- {FIGURE_TITLES[name]}: {why}." for name, why in missing.items()]
    lines += [f"- The file {for_markdown(name)} was left out: {for_markdown(why)}" for name, why in config.left_out]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def _files(frames: Mapping[str, pd.DataFrame]) -> str:
    listed = "\n".join(
        f"- `frames/{name}.csv`, `.parquet`: {len(frame)} rows of means; `{name}_per_image.*`: the rows behind them"
        for name, frame in frames.items()
    )
    return (
        f"## Files\n\n- `claims.csv`, `claims.parquet`: the table above\n{listed}\n"
        "- `report-settings.json`: the settings; `parts/`: finished work, from which an interrupted report continues"
    )
