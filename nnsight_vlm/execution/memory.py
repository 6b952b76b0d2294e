"""How much memory there is, what is refused for want of it, and what is done where it runs out all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from ..arguments import as_index, spelled
from ..errors import SpecError
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from .footprint import Footprint, footprint_of, with_graph

SHARE = 0.25
"""The share of the free memory that a forward of several cases may take, unless told otherwise."""
CERTAIN = 0.75
"""The share of an estimate that a run takes in any case: what decides where a call has no `memory=` to overrule it."""
LITTLE = 2**26
"""A run that takes no more than this is not held against what is free, which takes a while to find out."""
GROUPS = Path("/sys/fs/cgroup")

T = TypeVar("T")


# what there is ------------------------------------------------------------------------------------


def check_memory(memory: Any) -> int | None:
    """A budget as a number of bytes; None is what is free.

    Raises:
        SpecError: it is no such number.
    """
    if memory is None:
        return None
    size = as_index(memory)
    if size is None or size < 1:
        raise SpecError(
            f"memory={spelled(memory)} is no number of bytes; write memory=4 * 2**30 for 4 GiB, or leave it out for a "
            "share of what is free"
        )
    return size


def free_bytes(model: Model) -> int:
    """What is free on the device that the model is on: of a GPU's memory also what torch holds and does not use."""
    device = view_of(model).device
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min([int(psutil.virtual_memory().available), *_group_rooms()])


def _group_rooms() -> Iterator[int]:
    """What the control groups that this process is in (a container, a batch job) let it take still."""
    for line in own_groups():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (GROUPS / "memory", _OLD_NAMES) if controllers else (GROUPS, _NAMES)
        for group in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
            yield from _room_of(group, *names)
            if group == top:
                break


def own_groups() -> list[str]:
    """The control groups of this process, as Linux lists them; none elsewhere."""
    listed = Path("/proc/self/cgroup")
    return listed.read_text().splitlines() if listed.exists() else []


_NAMES = ("memory.max", "memory.current", "inactive_file")
_OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _room_of(group: Path, limit: str, usage: str, given_back: str) -> Iterator[int]:
    """What one group lets its processes take still; files that it has read are given back when memory is needed."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if most != "max":
        yield max(0, int(most) - used + int(counts.get(given_back, 0)))


# what is refused ----------------------------------------------------------------------------------


def refuse_what_cannot_fit(
    model: Model, needed: Footprint, remote: Remote, memory: int | None, whose: str, *, plain: bool = False
) -> None:
    """Refuse a run that does not fit into its budget, or into what is free, before it begins.

    Args:
        model: an nnsight model.
        needed: what its smallest piece takes.
        remote: see `nv.run`; what is free on a server is not known.
        memory: the budget, which counts in place of what is free; None where there is none.
        whose: what does not fit, in words.
        plain: whether the call has no `memory=`, so that an estimate which is too high must not stop it.

    Raises:
        SpecError: saying what takes the memory, and what to write.
    """
    if memory is None and (needed.total <= LITTLE or remote is not False or view_of(model).device.type == "meta"):
        return
    there = free_bytes(model) if memory is None else memory
    if (CERTAIN if plain else 1) * needed.total <= there:
        return
    what, size = needed.largest()
    room = f"{spell(there)} are free" if memory is None else f"memory={memory} permits {spell(there)}"
    eager = needed.scores and 'load the model with attn_implementation="sdpa", '
    option = f"write memory={needed.total} or more"
    write = option if memory is not None else "free some memory" if plain else f"{option} to try all the same"
    raise SpecError(
        f"{whose} would take about {spell(needed.total)} beside the weights, {spell(size)} of it for {what}, and "
        f"{room}; give it smaller or fewer pictures or a shorter text, {eager or ''}or {write}"
    )


def refuse_large_prompt(
    model: Model,
    prompt: Prompt,
    remote: Remote,
    *,
    memory: int | None = None,
    whose: str = "this run",
    graph: bool = False,
    **more: Any,
) -> None:
    """Refuse a prompt of which one run, or one that keeps its graph, cannot fit; `more` is that of `footprint_of`.

    Raises:
        SpecError: see `refuse_what_cannot_fit`.
    """
    needed = footprint_of(model, prompt, **more)
    needed = with_graph(model, needed) if graph else needed
    refuse_what_cannot_fit(model, needed, remote, memory, whose, plain=memory is None)


def spell(size: int) -> str:
    """A number of bytes as people read it.

    >>> spell(3 * 2**30), spell(5 * 2**20)
    ('3.0 GiB', '5.0 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


# where it runs out --------------------------------------------------------------------------------


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that there was no memory, on a GPU or on the CPU."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message or "allocate memory" in message


def in_portions(
    numbers: Sequence[int], size: int, run: Callable[[Sequence[int]], T]
) -> Iterator[tuple[Sequence[int], T]]:
    """Run cases so many at a time, and half as many from where memory runs out.

    Raises:
        RuntimeError: it runs out with a single case too; a note says what to do.
    """
    left = numbers
    while left:
        some = left[:size]
        try:
            result = run(some)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(some) == 1:
                error.add_note(
                    "not even one case at a time fits into memory: give smaller or fewer pictures, a shorter text, or "
                    'load the model with attn_implementation="sdpa" or in half precision'
                )
                raise
            size = len(some) // 2
            continue
        yield some, result
        left = left[len(some) :]
