"""How recipes go about their work, and the conditions that they measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..prompts.prompt import Prompt
from ..specs.interventions import Intervention


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a recipe goes about its work; no number depends on it.

    Attributes:
        journal: folder that keeps finished chunks, or None.
        progress: show a progress bar.
        chunk: images that are measured, and kept, together; on a server, in one job.
        ahead: chunks that a server is sent at a time, so that they wait in its queue together.
    """

    journal: Path | None = None
    progress: bool = True
    chunk: int = 4
    ahead: int = 1

    def __post_init__(self) -> None:
        if min(self.chunk, self.ahead) < 1:
            raise SpecError(f"chunk={self.chunk} and ahead={self.ahead} must be 1 or more")


PLAIN = Work()
"""Nothing is kept, and a progress bar is shown."""


def one_for_each(prompts: Sequence[Prompt], **lists: Sequence[Any] | None) -> None:
    """Refuse lists, given by name, that are not as long as the prompts.

    Raises:
        SpecError: naming the list.
    """
    for name, given in lists.items():
        if given is not None and len(given) != len(prompts):
            raise SpecError(f"{len(given)} {name} for {len(prompts)} prompts; give one for each")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One condition of one image: what a table says of it, and what to do."""

    labels: Mapping[str, str]
    intervention: Intervention | None
    overlap: float = float("nan")
