"""Frames as figures take them: of the right recipe, with rows, and with one number for each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..arguments import frame_given, refuse, spelled
from ..errors import SpecError

MEANS = ("measure", "control", "mean", "low", "high")
COLUMNS = {
    "ablation": (*MEANS, "tokens", "border", "how", "form"),
    "compressed_context": (*MEANS, "tokens", "kept"),
    "joint_routes": (*MEANS, "route", "condition"),
    "knockout_windows": (*MEANS, "route", "form", "window"),
    "attention_share": (*MEANS, "target", "source", "layer", "token"),
    "heads": (*MEANS, "what", "heads", "layer", "head", "split", "rank", "survives"),
    "image_lens": (*MEANS, "layer", "lens", "tokens"),
    "information_flow": (*MEANS, "edge", "centre", "width"),
    "query_patching": (*MEANS, "group", "layer"),
    "attribution_map": (*MEANS, "site", "layer", "group", "head", "source", "p", "survives"),
    "patching_map": (*MEANS, "layer", "p", "survives"),
    "causal_trace": (*MEANS, "layer", "p", "survives"),
    "object_score": (*MEANS, "scorer"),
    "pair_routes": (*MEANS, "route", "cut"),
    "patch_grounding": (*MEANS, "read_at", "layer"),
    "path_patching": (*MEANS, "sender", "receiver", "site", "layer", "head", "survives"),
    "patch_knockout of several prompts": (*MEANS, "region"),
    "patch_knockout": ("token", "tile", "x0", "y0", "x1", "y1", "hidden", "logprob_change"),
    "prompt_ablation": (*MEANS, "part", "access"),
    "nv.report.judge": ("claim", "control", "value", "low", "high", "threshold", "statement", "measured", "unit"),
}
"""The columns that are drawn, by what gives the frame."""


def frame_of(maker: str, frame: Any) -> None:
    """Refuse to draw what is not the frame of a recipe.

    Raises:
        SpecError: naming the recipe; or there are no rows, so there is nothing to draw.
    """
    frame_given("frame", frame, () if isinstance(frame, pd.DataFrame) and frame.empty else COLUMNS[maker], maker)
    if frame.empty:
        raise SpecError(f"there is nothing to draw: frame= has no rows; write the frame of {maker}")


def rows_of(frame: pd.DataFrame, measure: str, maker: str) -> pd.DataFrame:
    """The rows of one measure, of the frame of a recipe.

    Raises:
        SpecError: there are none, so there is nothing to draw; or it is another frame.
    """
    frame_of(maker, frame)
    known = list(dict.fromkeys(frame["measure"]))
    if not isinstance(measure, str) or measure not in known:
        raise SpecError(
            f"there is nothing to draw: the frame has no measure {spelled(measure)} (it has {', '.join(known)}). "
            "Descriptions are compared only where one names an object"
        )
    return frame[frame["measure"] == measure]


def any_frame(frame: Any) -> pd.DataFrame:
    """A frame of any columns, with rows.

    Raises:
        SpecError: it is none, or has no rows.
    """
    given = frame_given("frame", frame)
    if given.empty:
        raise SpecError("there is nothing to draw: frame= has no rows")
    return given.reset_index(drop=True)


def column_of(name: str, given: Any, frame: pd.DataFrame) -> str:
    """The name of a column of a frame, given as an argument."""
    if not isinstance(given, str) or given not in frame.columns:
        refuse(name, given, "column of the frame", f"{name}= one of {', '.join(map(str, frame.columns))}")
    return given


def numbers_of(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats.

    Raises:
        SpecError: it does not hold numbers.
    """
    try:
        return frame[column].astype(float)
    except (TypeError, ValueError) as error:
        raise SpecError(f"the column {column!r} holds no numbers, so it cannot be drawn; name another one") from error


def refuse_several(frame: pd.DataFrame, keys: Sequence[str], where: str) -> None:
    """Refuse a frame with several rows for one place: only one of them could be drawn.

    Args:
        frame: the rows.
        keys: the columns that say which place a row has.
        where: what a place is called: `"a line and layer"`.

    Raises:
        SpecError: naming the columns in which such rows differ.
    """
    repeated = frame[frame.duplicated(list(keys), keep=False)]
    if repeated.empty:
        return
    first = repeated[(repeated[list(keys)].astype(str) == repeated[list(keys)].iloc[0].astype(str)).all(axis=1)]
    others = [name for name in frame.columns if name not in keys and first[name].astype(str).nunique() > 1]
    place = ", ".join(f"{key}={spelled(first[key].iloc[0])}" for key in keys)
    told = [name for name in others if frame[name].dtype.kind not in "fc"] or others
    write = f"; they differ in {', '.join(map(repr, told))}: choose the rows of one value" if told else ""
    raise SpecError(f"frame= has {len(first)} rows for {where} ({place}), of which one can be drawn{write}")
