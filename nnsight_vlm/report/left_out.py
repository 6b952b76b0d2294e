"""What a report could not measure, and why, with the items that it concerns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ..questions.item_lists import Items
from .chosen import chosen_parts
from .config import ReportConfig
from .sections import SECTIONS
from .study import Study

WHOLE, DESCRIPTIONS, GROUNDING = "the report", "claims 1 and 2", "claims 3a and 3b"
NAMED = {"knockout_answers": "the knockout of answers", "query_patching": "interchange patching"}
NAMED |= {"attention_share": "attention shares", "prompt_ablation": "the ablation of the prompt"}
NAMED |= {section.name: f'"{section.title}"' for section in SECTIONS}
"""What a reader calls the parts that may be left out as a whole."""
HOW = (
    "--annotations (annotations=) takes a COCO file or a table of boxes, and a table of items may have a column of "
    "boxes or masks"
)


class Note(NamedTuple):
    """Something that was left out.

    Attributes:
        section: of what.
        ids: of the items or files; none where it is the whole section.
        why: in words; may hold text of others.
    """

    section: str
    ids: tuple[str | int, ...]
    why: str


def notes_on(
    config: ReportConfig, study: Study, per_image: Mapping[str, pd.DataFrame], refused: Mapping[str, str]
) -> list[Note]:
    """All that was left out.

    Args:
        config: the settings.
        study: what was to be measured.
        per_image: the rows of every recipe that ran.
        refused: why recipes that were wanted did not run, by the name of their frames.
    """
    whole = [*config.left_out, *study.left_out]
    notes = [Note(WHOLE, (each[0],), each[1]) for each in whole]
    chosen = chosen_parts(config.only, config.without)
    notes += _of_descriptions(study, per_image.get("knockout_windows"), refused)
    if "patch_grounding" in chosen:
        notes += _of_grounding(study, per_image.get("patch_grounding"), refused)
    known = {each[0] for each in study.left_out}
    for name, section in NAMED.items():
        if name in refused:
            notes.append(Note(section, (), refused[name]))
        left_out = per_image[name].attrs.get("left_out", ()) if name in per_image else ()
        notes += [Note(section, (_named(study, each[0]),), str(each[1])) for each in left_out if each[0] not in known]
    return notes


def _named(study: Study, each: str | int) -> str | int:
    """What a question is called: items have names, and those about scenes have numbers."""
    return each if isinstance(study.asked, Items) else f"question {each}"


def _of_descriptions(study: Study, rows: pd.DataFrame | None, refused: Mapping[str, str]) -> Iterator[Note]:
    if "knockout_windows" in refused:
        yield Note(DESCRIPTIONS, (), refused["knockout_windows"])
    if rows is None:
        return
    own = rows[rows["form"] == "clean"]
    nameless = sorted(set(own.loc[own["objects"] == 0, "image"].astype(int)))
    if nameless:
        yield Note(DESCRIPTIONS, _called(study.ids, nameless), "the model's own description names no object")


def _of_grounding(study: Study, rows: pd.DataFrame | None, refused: Mapping[str, str]) -> Iterator[Note]:
    if not study.knows_objects:
        yield Note(GROUNDING, (), f"nothing says where the objects of the pictures are; {HOW}")
    without = {number: why for number, why in enumerate(study.patches) if why}
    for why in dict.fromkeys(without.values()):
        concerned = [number for number, own in without.items() if own == why]
        yield Note(GROUNDING, () if len(concerned) == len(study.ids) else _called(study.ids, concerned), why)
    if "patch_grounding" in refused:
        yield Note(GROUNDING, (), refused["patch_grounding"])
    if rows is None or not study.knows_objects:
        return
    measured = [number for number in range(len(study.ids)) if number not in without]  # in the order of the rows
    found = set() if rows.empty else {measured[int(image)] for image in rows["image"]}
    empty = [number for number in measured if number not in found]
    if empty:
        why = "the description names none of the objects that the picture is known to show"
        yield Note(GROUNDING, _called(study.ids, empty), why)


def _called(ids: Sequence[str | int], numbers: Sequence[int]) -> tuple[str | int, ...]:
    return tuple(ids[number] for number in numbers)


def as_frame(notes: Sequence[Note]) -> pd.DataFrame:
    """`section, id, why`, a row for each item; `id` is empty where it is the whole section."""
    rows = [
        {"section": note.section, "id": str(each), "why": note.why} for note in notes for each in (note.ids or ("",))
    ]
    return pd.DataFrame(rows, columns=["section", "id", "why"])
