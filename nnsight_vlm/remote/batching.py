"""Several computations that ask a model side by side: what all of them wait for is sent as one job.

A computation is plain code that calls `ask` wherever it needs an answer. Here that runs the model at once. For a
server, `together` runs each computation up to its question, sends all questions, and lets each go on with its answer:
a round. Computations may call `together` themselves. They take turns in one thread (greenlets, as nnsight's own), so
their order is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from .job import answer_all
from .model_call import Asked, ModelCall, Remote

T = TypeVar("T")


class Computation(greenlet):  # type: ignore[misc]
    """Code that hands its questions, a list of `Asked`, to whoever runs it, and goes on with a list of answers."""


def ask(model: Any, request: ModelCall, remote: Remote) -> Any:
    """The answer to a request."""
    if remote is False:
        return request.task(model, request.inputs, *request.rest)
    return answers([(model, request, remote, 0)])[0]


def together(computations: Sequence[Callable[[], T]], remote: Remote, *, apart: bool = False) -> list[T]:
    """What each computation gives. Here one after the other; for a server, all that they ask at a time is one job.

    Computations that are kept `apart` ask at a time, each a job of its own.
    """
    if remote is False:
        return [compute() for compute in computations]
    workers = [Computation(compute) for compute in computations]
    state = [worker.switch() for worker in workers]  # what each asks; of one that is done, what it gives
    while waiting := [number for number, worker in enumerate(workers) if not worker.dead]:
        asked = [(*about, number if apart else lane) for number in waiting for *about, lane in state[number]]
        told = iter(answers(asked))
        for number in waiting:
            state[number] = workers[number].switch([next(told) for _ in state[number]])
    return state


def answers(asked: Sequence[Asked]) -> list[Any]:
    """Answers to questions: from whoever runs this computation, or from the server."""
    here = getcurrent()
    found: list[Any] = here.parent.switch(list(asked)) if isinstance(here, Computation) else answer_all(asked)
    return found
