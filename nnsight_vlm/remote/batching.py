"""Several computations that ask a model side by side: the calls that all of them wait for are sent as one job.

A computation is plain code that calls `ask` wherever it needs the answer to a model call. With `remote=False`, `ask`
runs the model at once. For a server, `together` runs each computation up to its next call, sends all these calls as one
job, and resumes each computation with its answer; that is one round. Computations may call `together` themselves. They
are coroutines (greenlets, as in nnsight) that take turns in one thread, so their order is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from greenlet import getcurrent, greenlet

from ..arguments import flag, function, listed
from ..errors import SpecError
from ..families.locks import one_thread
from . import unpacking
from .job import ServerJob
from .model_call import ModelCall, PendingCall, Remote, check_remote
from .packing import RowPool
from .simulate import SimulatedJob
from .watching import give_up_if_left

T = TypeVar("T")

COMPUTATIONS = "functions without arguments, [lambda: nv.run(model, prompt), ...]"
MAX_PAYLOAD_BYTES = 64 * 2**20
"""Bytes of input tensors in one job; further calls go into the next."""


class Computation(greenlet):  # type: ignore[misc]
    """A coroutine that yields lists of `PendingCall` to its parent and is resumed with the list of their answers."""


class JobContent(NamedTuple):
    """What one job asks: calls of one model, to be run in one place."""

    model: Any
    calls: list[ModelCall]
    remote: Remote


def ask(model: Any, call: ModelCall, remote: Remote) -> Any:
    """The answer to a model call."""
    give_up_if_left()
    if remote is False:
        with one_thread(model):
            return call.task(model, call.inputs, *call.rest)
    return answers([PendingCall(model, call, remote)])[0]


def together(computations: Sequence[Callable[[], T]], remote: Remote, *, apart: bool = False) -> list[T]:
    """Run computations side by side and return what each returns, in order.

    With `remote=False` they run one after the other. For a server, the calls that they wait for at one time are sent as
    one job.

    Args:
        computations: functions without arguments, such as `lambda: nv.run(model, prompt, cut, remote=True)`.
        remote: where they run; the same as in the calls inside them.
        apart: send a job of its own for each computation. The jobs still wait on the server side by side.
    """
    check_remote(remote)
    apart = flag("apart", apart)
    given = listed("computations", computations, COMPUTATIONS)
    computations = [function("computations", each, COMPUTATIONS) for each in given]
    if remote is False:
        return [compute() for compute in computations]
    workers = [Computation(compute) for compute in computations]
    # of each worker the calls that it waits for, and once it is done what it returned
    state = [worker.switch() for worker in workers]
    while waiting := [number for number, worker in enumerate(workers) if not worker.dead]:
        pending = [call._replace(lane=number) if apart else call for number in waiting for call in state[number]]
        received = iter(answers(pending))
        for number in waiting:
            state[number] = workers[number].switch([next(received) for _ in state[number]])
    return state


def answers(pending: Sequence[PendingCall]) -> list[Any]:
    """The answers to calls, in order: from the computation's parent inside `together`, else from the server."""
    current = getcurrent()
    if isinstance(current, Computation):
        received: list[Any] = current.parent.switch(list(pending))
        return received
    return run_jobs(pending)


def run_jobs(pending: Sequence[PendingCall]) -> list[Any]:
    """Send calls in as few jobs as their lanes and sizes permit, and wait for the answers, in order.

    Raises:
        RemoteError: the server or the connection failed for good; answers received so far are in the open job store.
        SpecError: see `split_into_jobs`.
    """
    jobs = [make_job(content) for content in split_into_jobs(pending)]
    for job in jobs:
        job.poll()  # sends all jobs before the first is waited for
    return [answer for job in jobs for answer in job.wait()]


def make_job(content: JobContent) -> ServerJob | SimulatedJob:
    """A job on a server, or a simulated one for `remote="local"`."""
    return (SimulatedJob if content.remote == "local" else ServerJob)(*content)


def split_into_jobs(pending: Sequence[PendingCall]) -> Iterator[JobContent]:
    """Split calls, in order, into jobs of one model, server and lane each, of limited payload and answer.

    Raises:
        SpecError: one call would bring back more than a job may.
    """
    content, pool, answer_bytes = None, RowPool(), 0
    last: PendingCall | None = None
    for current in pending:
        model, call, remote, lane = current
        call_bytes = 4 * call.numbers
        _check_answer_size(call_bytes)
        pool.add_all([call])
        full = pool.nbytes > MAX_PAYLOAD_BYTES or answer_bytes + call_bytes > unpacking.MAX_ANSWER_BYTES
        fits = last is not None and last.model is model and (last.remote, last.lane) == (remote, lane) and not full
        if content is None or not fits:
            if content is not None:
                yield content
            content, pool, answer_bytes = JobContent(model, [], remote), RowPool(), 0
            pool.add_all([call])
        content.calls.append(call)
        answer_bytes, last = answer_bytes + call_bytes, current
    if content is not None:
        yield content


def _check_answer_size(size: int) -> None:
    limit = unpacking.MAX_ANSWER_BYTES
    if size > limit:
        raise SpecError(
            f"this would bring {size / 2**20:.0f} MiB back from the server, and one job may bring {limit / 2**20:.0f}; "
            'read fewer layers or positions at a time, or reduce on the server (nv.Attention(..., reduce="mean"))'
        )
