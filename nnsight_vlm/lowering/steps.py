"""Steps: what a plan is made of, and how the code that runs it takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .read_requests import AttentionRequest, ContributionRequest, ReadOfRow


class MaskSpec(NamedTuple):
    """What a kernel must know of the attention whose mask it edits, or of which it writes a part.

    Attributes:
        keyword: the name by which the attention module is handed its mask; or which part is written, see
            `device.attention_parts`; or the number by which a layer multiplies states before it adds them.
        outside: `(keys outside the sequence, queries that read them or None for all)` for cross-attention.
        packing: for copies behind a shared prefix, see `device.kernels.packed_mask`.
    """

    keyword: str | float
    outside: tuple[int, int | None] | None
    packing: tuple[Any, ...] | None


class Step(NamedTuple):
    """All writes at one site, and the kernel that does them.

    Attributes:
        layer: number of the layer.
        path: path of the module.
        place: `"inputs"` or `"output"` of that module, the name of a call inside it, or `"{call}.inputs"`.
        kernel: a function of `device.kernels` or beside it.
        writes: plain tuples, in the order in which they act.
        mask: for kernels that edit a mask or a part of an attention.
    """

    layer: int
    path: str
    place: str
    kernel: Callable[..., Any]
    writes: tuple[tuple[Any, ...], ...]
    mask: MaskSpec | None

    def plain(self) -> tuple[Any, ...]:
        """As `device.runner` takes it."""
        return (*self[:5], None if self.mask is None else tuple(self.mask))


LINE = "line"
"""Of an attention that is called once for every piece of its sequence, all pieces together, see `device.lines`."""


class StageExtent(NamedTuple):
    """Where a stage's queries and keys lie, as `device.runner` takes it.

    Attributes:
        entry: path of the module that is handed the decoder's sequence and cache; empty for a stage that runs once
            per prompt.
        length: how many positions such a stage has.
        causal: whether its queries see no later key; or where the pieces of a line end, `(layers, stops)`.
        cache_layers: `(layer, layer whose cache gives its offset)` for each layer concerned.
    """

    entry: str
    length: int
    causal: bool | tuple[Any, ...]
    cache_layers: tuple[tuple[int, int], ...]


class StageSteps(NamedTuple):
    """The steps of a stage that runs once per prompt."""

    extent: StageExtent
    steps: tuple[Step, ...]


class Skipped(NamedTuple):
    """Layers that do not run: their paths, and what stands in for the output of the last, `[row, place, width]`."""

    paths: tuple[str, ...]
    output: Any


class ReadStep(NamedTuple):
    """One layer of a readout.

    Attributes:
        stage, layer, rank: when the model reaches it.
        path, place: where, as in `Step`; of all pieces of a line, the names of its parts.
        readout: a function of `device.readouts`.
        requests: one for each placement.
        outside: as in `MaskSpec`, for reads of cross-attention.
        modules: paths of modules that the readout calls.
        gate: `(path of the layer, keyword of the rows' factors, call of the gate)` for states behind a gate, and
            `("", "", factor)` where all layers multiply by the same number.
    """

    stage: str
    layer: int
    rank: int
    path: str
    place: str
    readout: Callable[..., Any]
    requests: tuple[ReadOfRow, ...]
    outside: tuple[int, int | None] | None
    modules: tuple[str, ...] = ()
    gate: tuple[str, str, str | float] | None = None

    def plain(self, stage: int, changes: Mapping[tuple[str, str], tuple[Any, ...]]) -> tuple[Any, ...]:
        """As `device.runner.collect` takes it, which knows stages by number; `changes` are those of `Plan`."""
        place = LINE if " " in self.place else self.place
        requests = tuple(request.plain() for request in self._under(changes.get((self.path, place), ())))
        return stage, self.layer, self.path, self.place, self.readout, requests, self.outside, self.modules, self.gate

    def _under(self, changes: tuple[Any, ...]) -> Iterator[ReadOfRow]:
        """The requests; those of attention with what is done to it behind the softmax."""
        for request in self.requests:
            if isinstance(request, (AttentionRequest, ContributionRequest)):
                yield request._replace(changes=changes)
            else:
                yield request
