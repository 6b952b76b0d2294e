"""The batches of a run, made ahead of time by other processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .packing import Batch, Batches


class _Steps(Dataset[Batch]):
    """The batches, as PyTorch's loader takes them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step]


def _same(batch: Any) -> Any:
    return batch


def feed(batches: Batches, first: int, workers: int) -> Iterator[Batch]:
    """The batches from a step on, made ahead of time by other processes; arrays come through pipes, in order."""
    loader = DataLoader(
        _Steps(batches),
        batch_size=None,
        sampler=range(first, first + 10**9),
        num_workers=workers,
        collate_fn=_same,
        prefetch_factor=3 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    return iter(loader)
