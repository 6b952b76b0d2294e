"""The vision tower of each family, from the family table: `nnsight-vlm families --towers` and docs/vision.md."""

from __future__ import annotations

from collections.abc import Iterable

from .columns import Family, Stage
from .options import TowerLayout
from .part_columns import TowerSpec

TOKENS: dict[TowerLayout, str] = {
    "rows": "a row for each picture or tile",
    "rows of crops": "a row for each crop",
    "rows with padding": "a row for each tile, padded",
    "rows of whole patches": "a row for each tile, padded",
    "shaped rows": "a row for each tile, padded",
    "located rows": "a row for each picture, padded",
    "tiles in one row": "a row for each picture, of all tiles",
    "line, merged": "one line, merged patches side by side",
    "line, merged windows": "one line, window by window",
    "line, row by row": "one line",
    "line, sized": "one line",
}
"""How the tokens of a tower lie, in words."""


def towers_markdown(families: Iterable[Family]) -> str:
    """The table of towers as docs/vision.md has it."""
    columns = ("family", "layers", "tokens", "groups", "taken", "missing")
    lines = [columns, ("---",) * len(columns), *(_line(family) for family in families)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(family: Family) -> tuple[str, ...]:
    """The line of one family."""
    stage = family.tower
    if stage is None or stage.tower is None:
        return family.name, "", "", "", "", f"no stage: {family.limitation('vision')}"
    tokens = f"{TOKENS[stage.tower.sequences]}{', windows in some layers' if stage.tower.full else ''}"
    tower = stage.tower
    own = (("cls", tower.cls), ("registers", tower.registers), ("filling", tower.filled))
    groups = ", ".join(["image", *(group for group, there in own if there)])
    return family.name, f"`{stage.layers}`", tokens, groups, _taken(stage.tower), _missing(family, stage)


def _taken(tower: TowerSpec) -> str:
    """Which layers are taken: the names in the config that say it."""
    states = tower.taken if tower.taken is None else tower.taken[:1] or ("the last",)
    named = [*(states or ()), *((tower.taps,) if tower.taps else ()), *(tower.taken or ())[1:]]
    return ", ".join(name if name == "the last" else f"`{name}`" for name in named)


def _missing(family: Family, stage: Stage) -> str:
    """What is not there, and why."""
    reasons = dict.fromkeys(stage.lacks.values())
    notes = [f"{', '.join(what for what, its in stage.lacks.items() if its == why)}: {why}" for why in reasons]
    if family.towers:
        notes.append(f"towers that are not {' or '.join(family.towers)}")
    return "; ".join(notes)
