"""How recipes go about their work (journal, progress bar, chunks, memory), and one condition that they measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import flag, folder, whole_number
from ..errors import SpecError
from ..execution.memory import check_memory
from ..specs.interventions import Intervention


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a recipe goes about its work; its numbers do not depend on this.

    A journal is tied to the model (all weights), the prompts and the settings, and is refused where one of these cannot
    be told apart from another in a later process: a model with hooks or edits, a lambda or closure as `objects=`.

    Attributes:
        journal: folder in which finished chunks are kept, so that an interrupted recipe goes on where it stopped; None
            keeps nothing.
        progress: show a progress bar.
        chunk: how many images are measured and kept together; on a server, in one job.
        ahead: how many chunks a server is sent at a time, so that they wait in its queue together.
        memory: bytes that each sweep and each batch of answers may take beside the weights, see `nv.sweep` and
            `nv.generations`; default a quarter of what is free.
    """

    journal: Path | None = None
    progress: bool = True
    chunk: int = 4
    ahead: int = 1
    memory: int | None = None

    def __post_init__(self) -> None:
        check_memory(self.memory)
        plain: dict[str, Any] = {name: whole_number(name, getattr(self, name)) for name in ("chunk", "ahead")}
        if min(plain.values()) < 1:
            raise SpecError(
                f"chunk={self.chunk} and ahead={self.ahead} must be 1 or more; write Work(chunk=4, ahead=1)"
            )
        plain["progress"] = flag("progress", self.progress)
        plain["journal"] = None if self.journal is None else folder("journal", self.journal)
        for name, value in plain.items():
            object.__setattr__(self, name, value)


PLAIN = Work()
"""The default: no journal, and a progress bar."""


def one_for_each(prompts: Sequence[Any], **lists: Sequence[Any] | None) -> None:
    """Refuse lists that do not have one element for each prompt.

    Args:
        prompts: of the recipe.
        lists: each under the name of its argument; None where it was not given.

    Raises:
        SpecError: naming the list.
    """
    for name, given in lists.items():
        if given is not None and len(given) != len(prompts):
            raise SpecError(f"{len(given)} {name} for {len(prompts)} prompts; give one for each")


def refuse_beside(chosen: str, **others: Any) -> None:
    """Refuse arguments that would not be used beside another one.

    Args:
        chosen: the argument that was given.
        others: those that do not go with it, None where they were not given.

    Raises:
        SpecError: naming both.
    """
    for name, given in others.items():
        if given is not None:
            raise SpecError(f"{name}= is not used where {chosen}= are given; leave one of them out")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One condition under which an image is measured.

    Attributes:
        labels: what the table's columns say of it.
        intervention: what is changed; None changes nothing.
        overlap: of a random control, the share of its positions that lie in the group it stands for; NaN elsewhere.
    """

    labels: Mapping[str, str]
    intervention: Intervention | None
    overlap: float = float("nan")
