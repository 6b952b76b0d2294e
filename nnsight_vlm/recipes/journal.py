"""What the recipes share: work that survives an interruption.

Every recipe measures one image at a time, in chunks. The rows of a finished chunk can be kept in a
folder (`journal`), under a name that is a digest of the model, the prompts and every setting: a
recipe that is started again takes up what it finds, and other settings never meet old rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ..errors import SpecError
from ..identity import journal_digest
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.events import listening
from ..remote.job_store import storing_jobs
from ..remote.model_call import Remote
from ..storage import write_frame
from .work import Work

FORMAT = 1
"""Raise when the meaning of a recipe's rows changes, so that old journals are not read."""


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
    mark = journal_digest(FORMAT, name, model, prompts, settings)
    chunks = [range(first, min(first + work.chunk, len(prompts))) for first in range(0, len(prompts), work.chunk)]
    bar = tqdm(total=len(prompts), desc=name, unit="image", disable=not work.progress)
    jobs = None if work.journal is None else work.journal / f"{name}-{mark}.jobs"  # what was sent is fetched

    def finished(chunk: range) -> pd.DataFrame:
        frame = _kept(work.journal, f"{name}-{mark}-{chunk.start:05d}-{chunk.stop:05d}.parquet", chunk, measure)
        bar.update(len(chunk))
        return frame

    frames = list[pd.DataFrame]()
    with bar, listening(bar.set_postfix_str), storing_jobs(jobs):
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
