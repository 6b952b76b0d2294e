"""What the recipes share: work that survives an interruption.

Every recipe measures one image at a time, in chunks. The rows of a finished chunk can be kept in a
folder (`journal`), under a name that is a digest of the model, the prompts and every setting: a
recipe that is started again takes up what it finds, and other settings never meet old rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..errors import SpecError
from ..files import whole
from ..interventions import Intervention
from ..prompts import Prompt
from ..wire import Remote, together
from ..wire.news import listening
from ..wire.records import recorded

FORMAT = 1
"""Raise when the meaning of a recipe's rows changes, so that old journals are not read."""

NONE = "none"
"""In the column `control`: the measurement itself. Every other word there names a control."""


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


def measured(
    name: str,
    model: Any,
    prompts: Sequence[Prompt],
    settings: Mapping[str, Any],
    measure: Callable[[range], Iterable[Mapping[str, Any]]],
    work: Work,
    remote: Remote = False,
) -> pd.DataFrame:
    """The rows that `measure` gives for every image, in chunks, kept and taken up from the journal.

    Raises:
        SpecError: no prompts.
    """
    if not prompts:
        raise SpecError(f"{name} was given no prompts; give a list of prompts from nv.encode, one an image")
    several = [number for number, prompt in enumerate(prompts) if len(prompt) > 1]
    if several:
        raise SpecError(
            f"prompt {several[0]} has {len(prompts[several[0]])} rows and a recipe takes one image "
            "a prompt; write prompt.row(0)"
        )
    mark = digest(name, model, prompts, settings)
    chunks = [range(first, min(first + work.chunk, len(prompts))) for first in range(0, len(prompts), work.chunk)]
    bar = tqdm(total=len(prompts), desc=name, unit="image", disable=not work.progress)
    jobs = None if work.journal is None else work.journal / f"{name}-{mark}.jobs"  # what was sent is fetched

    def finished(chunk: range) -> pd.DataFrame:
        frame = _kept(work.journal, f"{name}-{mark}-{chunk.start:05d}-{chunk.stop:05d}.parquet", chunk, measure)
        bar.update(len(chunk))
        return frame

    frames = list[pd.DataFrame]()
    with bar, listening(bar.set_postfix_str), recorded(jobs):
        for first in range(0, len(chunks), work.ahead):
            some = [partial(finished, chunk) for chunk in chunks[first : first + work.ahead]]
            frames += together(some, remote, apart=True)
    if jobs is not None:
        shutil.rmtree(jobs, ignore_errors=True)
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def _kept(
    journal: Path | None, name: str, chunk: range, measure: Callable[[range], Iterable[Mapping[str, Any]]]
) -> pd.DataFrame:
    if journal is None:
        return pd.DataFrame(list(measure(chunk)))
    if (journal / name).exists():
        return pd.read_parquet(journal / name)
    frame = pd.DataFrame(list(measure(chunk)))
    write_frame(frame, journal / name)
    return frame


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet or CSV (by the ending), as a whole or not at all."""
    with whole(path) as fresh:
        if path.suffix == ".csv":
            frame.to_csv(fresh, index=False)
        else:
            frame.to_parquet(fresh, index=False)


def one_for_each(prompts: Sequence[Prompt], **lists: Sequence[Any] | None) -> None:
    """Refuse lists, given by name, that are not as long as the prompts.

    Raises:
        SpecError: naming the list.
    """
    for name, given in lists.items():
        if given is not None and len(given) != len(prompts):
            raise SpecError(f"{len(given)} {name} for {len(prompts)} prompts; give one for each")


def digest(name: str, model: Any, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> str:
    """A short name for a model, prompts and settings: equal only where the rows would be equal."""
    told = json.dumps([FORMAT, name, {key: spelled(value) for key, value in settings.items()}], sort_keys=True)
    found = hashlib.sha256(told.encode())
    found.update(model_digest(model).encode())
    for prompt in prompts:
        found.update(str(prompt.rows[0].tokens).encode())
        for key in sorted(prompt.inputs):
            if isinstance(prompt.inputs[key], torch.Tensor):
                found.update(prompt.inputs[key].detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def model_digest(model: Any) -> str:
    """A short name for a model's configuration and (from a few numbers of every matrix) its weights."""
    found = hashlib.sha256(model._module.config.to_json_string().encode())
    for name, parameter in model._module.named_parameters():
        found.update(name.encode())
        if parameter.device.type != "meta":
            found.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def spelled(value: Any) -> Any:
    """A setting as JSON can hold it; functions by name, pictures and masks by their bytes."""
    if isinstance(value, Mapping):
        return {str(key): spelled(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [spelled(part) for part in value]
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if hasattr(value, "__dataclass_fields__"):
        return {key: spelled(getattr(value, key)) for key in value.__dataclass_fields__}
    return getattr(
        value, "__qualname__", value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One condition of one image: what a table says of it, and what to do."""

    labels: Mapping[str, str]
    intervention: Intervention | None
    overlap: float = float("nan")
