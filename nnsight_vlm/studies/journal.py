"""What the recipes share: work that survives an interruption.

Every recipe measures its images in chunks. With a journal (a folder, `Work(journal=...)`) the rows of each finished
chunk are kept there as a *part*: a Parquet file, named by a digest of the model, the prompts, every setting, and where
the model ran: a server may hold it in another dtype. A recipe that is started again reads the parts that are there and
measures the rest. Other settings give other names, so they never meet rows that are not theirs.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ..errors import reason_of
from ..execution.checking import require_model
from ..execution.memory import refuse_large_prompt
from ..identity import journal_digest, setting_digest
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.client import place_of
from ..remote.events import listening
from ..remote.job_store import storing_jobs
from ..remote.model_call import Remote
from ..showing import visible
from ..storage import atomic_write
from ..sweeping.kept_runs import reuse_in_one_call
from .item_prompts import ItemPrompts
from .work import Work

FORMAT = 6
"""Raise when the meaning of a recipe's rows, or of a part, changes, so that old journals are not read. Up to 2 the
place where the model ran was not part of the digest; up to 3 "another image" could be a copy of the same picture; up to
4 it was that of the next pair, also where a later one had the same words; up to 5 a mean of other pictures left out a
whole cluster."""
ABOUT = b"nnsight_vlm"
"""The key under which a part's Parquet file says what it is."""

Measure = Callable[[range], Iterable[Mapping[str, Any]]]
"""Measures the images with these numbers; gives the rows of the recipe's frame."""


def measured(
    name: str,
    model: Any,
    prompts: Sequence[Prompt],
    settings: Mapping[str, Any],
    measure: Measure,
    work: Work,
    remote: Remote = False,
) -> pd.DataFrame:
    """The rows that `measure` gives for all images; those that the journal holds are read from it.

    Args:
        name: of the recipe.
        model: an nnsight model from `load`.
        prompts: one an image, of one row each; those of items were checked when they were looked at first.
        settings: all on which the rows depend beside the model and the prompts.
        measure: measures some of the images.
        work: journal, progress bar and size of chunks.
        remote: see `nv.run`.

    Raises:
        SpecError: a prompt of another model, or one that does not fit into memory; or, where there is a journal,
            something without an identity that a later process would know, see `identity.journal_digest`.
    """
    for number, prompt in enumerate(() if isinstance(prompts, ItemPrompts) else prompts):
        require_model(model, prompt)
        refuse_large_prompt(model, prompt, remote, memory=work.memory, whose=f"prompt {number}")
    chunks = [range(first, min(first + work.chunk, len(prompts))) for first in range(0, len(prompts), work.chunk)]
    journal = None if work.journal is None else Journal.open(work.journal, name, model, prompts, settings, remote)
    bar = tqdm(total=len(prompts), desc=name, unit="image", disable=not work.progress)

    def finish(chunk: range) -> pd.DataFrame:
        frame = pd.DataFrame(list(measure(chunk))) if journal is None else journal.rows(chunk, measure)
        bar.update(len(chunk))
        return frame

    frames = list[pd.DataFrame]()
    # answers of a server are kept until the recipe is done, so that an interrupted one does not ask for them again
    stored = storing_jobs(journal.jobs if journal else None)
    with bar, listening(bar.set_postfix_str), stored, reuse_in_one_call(model):
        for first in range(0, len(chunks), work.ahead):
            sent_together = [partial(finish, chunk) for chunk in chunks[first : first + work.ahead]]
            frames += together(sent_together, remote, apart=True)
    if journal is not None:
        shutil.rmtree(journal.jobs, ignore_errors=True)
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The finished parts of one recipe on one model with certain prompts and settings.

    Attributes:
        folder: where the parts lie; other journals may lie there too.
        recipe: name of the recipe.
        digest: of the model, the prompts, the settings and the place where the model runs.
    """

    folder: Path
    recipe: str
    digest: str

    @classmethod
    def open(
        cls,
        folder: Path,
        recipe: str,
        model: Any,
        prompts: Sequence[Prompt],
        settings: Mapping[str, Any],
        remote: Remote = False,
    ) -> Journal:
        """The journal of a recipe in a folder.

        Raises:
            SpecError: see `identity.journal_digest`.
        """
        placed = {**settings, "remote": place_of(remote)}
        named = prompts.digests if isinstance(prompts, ItemPrompts) else prompts
        digest = journal_digest(FORMAT, recipe, model, named, placed)
        return cls(folder=folder, recipe=recipe, digest=digest)

    @property
    def jobs(self) -> Path:
        """The folder of jobs that were sent to a server and whose parts are not finished."""
        return self.folder / f"{self.recipe}-{self.digest}.jobs"

    def part(self, images: range) -> Path:
        """The file with the rows of some images."""
        return self.folder / f"{self.recipe}-{self.digest}-{images.start:05d}-{images.stop:05d}.parquet"

    def rows(self, images: range, measure: Measure) -> pd.DataFrame:
        """The rows of some images: read from their part, or measured and kept as one.

        Both ways give the same frame, because what was measured is read back from what was written. A part that is
        broken, or is that of other rows, is measured again, with a warning.
        """
        path = self.part(images)
        if path.exists():
            try:
                return _from_part(path.read_bytes(), self._about(images))
            except Exception as error:  # whatever a broken file makes a reader raise
                words = f"{path} cannot be used ({reason_of(error)}); images {images.start} to {images.stop - 1} are "
                warnings.warn(visible(f"{words}measured again and the file is replaced"), stacklevel=2)
        content = _as_part(pd.DataFrame(list(measure(images))), self._about(images))
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        return _from_part(content, self._about(images))

    def _about(self, images: range) -> dict[str, Any]:
        """What a part says of itself, beside the digest of its rows."""
        return {"recipe": self.recipe, "digest": self.digest, "images": [images.start, images.stop]}


def _as_part(frame: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """A frame as a Parquet file that says what it is and carries a digest of its rows."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    rows = setting_digest(_table_in(_parquet(table)).to_pandas())
    known = table.schema.metadata or {}
    return _parquet(table.replace_schema_metadata({**known, ABOUT: json.dumps({**about, "rows": rows}).encode()}))


def _parquet(table: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, write_page_checksum=True)
    return bytes(sink.getvalue())


def _table_in(content: bytes) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    return parquet.read_table(pa.BufferReader(content), page_checksum_verification=True)


def _from_part(content: bytes, about: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a part.

    Raises:
        ValueError: it is the part of something else, or its rows are not those that were written.
    """
    table = _table_in(content)
    said = json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))
    for name, value in about.items():
        if said.get(name) != value:
            raise ValueError(f"it says {name} {said.get(name)} where {value} belongs")
    frame: pd.DataFrame = table.to_pandas()
    if setting_digest(frame) != said.get("rows"):
        raise ValueError("its rows are not those that were written")
    return frame
