"""The report in words: the table of the claims, and what lies in the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from .claims import FEWEST
from .study import ReportConfig

FIGURE_TITLES = {
    "claims": "The claims: number, 95 % interval and threshold; controls in grey",
    "routes": "Descriptions with a route cut in all layers",
    "windows": "Descriptions with a route cut (block) or open only (allow) in a window of layers",
    "answers": "Answers with a route cut in a window of layers",
    "attention": "Attention mass by token group, and entropy over the image",
    "patching": "Interchange patching between two pictures",
    "grounding": "Do generated object words look at their object?",
    "ablation": "Descriptions with parts of the prompt dropped",
    "overlays": "Where object words look: middle half of the layers, mean over heads, at the predicting position",
}


def number(value: float) -> str:
    """A number of the table, empty where there is none."""
    return "" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def spread(row: pd.Series) -> str:
    """A value with its interval: `0.62 [0.55, 0.70]`."""
    if math.isnan(row["value"]):
        return ""
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]{unit}"


def claim_lines(claims: pd.DataFrame) -> list[tuple[str, str, str, str, str, bool]]:
    """`(claim, statement, number, criterion, verdict, control)` of every row, as people read them."""
    found = []
    for _, row in claims.iterrows():
        label = "" if row["control"] else str(row["claim"])
        statement = f"control: {row['statement']}" if row["control"] else str(row["statement"])
        found.append(
            (label, statement, spread(row), f"> {row['threshold']:.2g}", str(row["verdict"]), bool(row["control"]))
        )
    return found


def markdown(
    request: ReportConfig,
    claims: pd.DataFrame,
    frames: Mapping[str, pd.DataFrame],
    per_image: Mapping[str, pd.DataFrame],
    figures: Sequence[str],
) -> str:
    """The whole `report.md`."""
    blocks = [
        _head(request, per_image),
        _table(claims),
        _definitions(claims),
        _quality(frames, request),
        _figures(figures),
        _files(frames),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _head(request: ReportConfig, per_image: Mapping[str, pd.DataFrame]) -> str:
    images = int(per_image["knockout_windows"]["image"].nunique())
    source = f"the pictures in `{request.images}`" if request.images else f"synthetic scenes (seed {request.seed})"
    return (
        f"# What's in the image? Model `{request.model}`\n\n"
        f"{images} images: {source}. Query: *{request.query}* "
        f"Greedy answers of at most {request.max_new_tokens} tokens.\n\n"
        "The claims are those of Kaduri, Bagon and Dekel, "
        '"What\'s in the Image?" (arXiv 2411.17491). Intervals are 95 % bootstrap intervals over images.'
    )


def _table(claims: pd.DataFrame) -> str:
    lines = ["| claim | | measured [95 % interval] | criterion | verdict |", "|---|---|---|---|---|"]
    for label, statement, value, criterion, verdict, control in claim_lines(claims):
        shown = f"*{statement}*" if control else f"**{statement}**"
        lines.append(f"| {label} | {shown} | {value} | {criterion} | {verdict} |")
    return "\n".join(lines)


def _definitions(claims: pd.DataFrame) -> str:
    real = claims[~claims["control"]]
    told = "\n".join(
        f"- **{row['claim']}**: {row['measured']}; holds above {row['threshold']:.2g}." for _, row in real.iterrows()
    )
    return (
        "## How to read it\n\n"
        f"{told}\n\n"
        "A claim *holds* where the whole interval lies above the criterion, *does not hold* where it lies below, "
        f"and is *not decided at this sample size* otherwise, always with fewer than {FEWEST} images. The criteria "
        "are fixed in `nnsight_vlm/report/claims.py`, with their reasons. In a control, what the claim speaks of was "
        "taken out: there it should not hold.\n\n"
        "A knockout shows what the model *could* do without a route, interchange patching what it *does*; attention "
        "is not causation. In the frames, `control` is `none` for the measurement and names the control otherwise."
    )


def _quality(frames: Mapping[str, pd.DataFrame], request: ReportConfig) -> str:
    """How good the model is at all: without that, no claim about it means much."""
    frame = frames["knockout_windows"]
    lines = ["| description | precision | recall | F1 | objects named |", "|---|---|---|---|---|"]
    for title, form, suffix in _quality_rows(frame):
        chosen = frame[frame["form"] == form].set_index("measure")
        cells = [_cell(chosen, f"{name}{suffix}") for name in ("precision", "recall", "f1")] + [
            _cell(chosen, "objects")
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    note = (
        ""
        if request.objects or not request.images
        else ("\n\nNo vocabulary of objects was given, so every content word of a description counts as an object.")
    )
    return "## The model's descriptions\n\n" + "\n".join(lines) + note


def _quality_rows(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    rows = [("blind (no text sees the image), against its own un-cut description", "blind", "")]
    if (frame["measure"] == "f1_true").any():
        rows += [("un-cut, against the truth", "clean", "_true"), ("blind, against the truth", "blind", "_true")]
    return rows


def _cell(chosen: pd.DataFrame, measure: str) -> str:
    if measure not in chosen.index:
        return ""
    row = chosen.loc[measure]
    return f"{row['mean']:.2f} [{number(row['low'])}, {number(row['high'])}]"


def _figures(figures: Sequence[str]) -> str:
    return "## Figures\n\n" + "\n\n".join(
        f"{FIGURE_TITLES[name]}\n\n![{FIGURE_TITLES[name]}](figures/{name}.png)" for name in figures
    )


def _files(frames: Mapping[str, pd.DataFrame]) -> str:
    listed = "\n".join(
        f"- `frames/{name}.csv`, `.parquet`: {len(frame)} rows of means; `{name}_per_image.*`: the rows behind them"
        for name, frame in frames.items()
    )
    return (
        f"## Files\n\n- `claims.csv`, `claims.parquet`: the table above\n{listed}\n"
        "- `report-settings.json`: what was asked for; `parts/`: finished work; an interrupted report goes on from it"
    )
