"""The number whose gradient is taken: the logit of an answer, the difference of two, or a function of the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..arguments import refuse, spelled
from ..errors import InterventionError, SpecError
from ..execution.requests import logit_columns
from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.resolve import resolver
from ..prompts.where import Where, as_tuples, require_ascending
from ..remote.model_call import Remote
from ..sweeping.wanted import answer_token

WRITE = "a module-level function of torch operations, def metric(logits): return logits[-1, 77] - logits[-1, 78]"
Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is differentiated.

    Attributes:
        answer, against: tokens; the logit of the first, less that of the second where there is one.
        function: takes the logits `[position, word]` in their place.
        positions: where logits are taken; None for the prompt's last token.
    """

    answer: int | None
    against: int | None
    function: Function | None
    positions: Where | None

    def places(self, layout: Layout) -> tuple[int, ...]:
        """Where logits are taken in a layout of one row.

        Raises:
            SpecError: at no token.
        """
        [placement] = layout.placements
        last = placement.place(placement.tokens.stop - 1)
        if self.positions is None:
            return (last,)
        places = resolver(layout.prompt.model, placement).places(self.positions).positions(last + 1)
        if not places:
            raise SpecError(f"there is no token at positions={self.positions!r} to take logits at")
        return places

    def plain(self, layout: Layout) -> tuple[Any, ...]:
        """As `device.gradients.measured` takes it."""
        places = self.places(layout)
        columns = logit_columns(layout, places)
        return tuple(columns[place] for place in places), self.answer, self.against, self.function

    def words(self) -> str:
        """The metric's unit."""
        if self.function is not None:
            return str(getattr(self.function, "__name__", "metric"))
        return "logit" if self.against is None else "logit difference"


def metric_given(
    model: Model, answer: Any, against: Any, function: Any, positions: Where | None, remote: Remote
) -> Metric:
    """What a user asks for, checked.

    Raises:
        SpecError: neither an answer nor a function, or both; a function that gives no number with a gradient; one that
            would have to travel.
    """
    if function is not None and (answer is not None or against is not None):
        raise SpecError("metric= takes the place of answer= and against=; give the one or the other")
    if answer is None and function is None:
        raise SpecError('nothing to differentiate; write answer=" red", or metric= for a function of the logits')
    if positions is not None and function is None:
        raise SpecError(
            "positions= are of the logits that metric= is handed; an answer is what the last token predicts"
        )
    positions = as_tuples(positions)
    require_ascending(positions)
    if function is not None:
        _require_gradient(function, view_of(model).vocab_size)
        if remote is not False:
            raise SpecError(
                "metric= is a function of yours, and runs where the model is, on this machine only; give answer= and "
                "against= for a server"
            )
        return Metric(answer=None, against=None, function=function, positions=positions)
    other = None if against is None else answer_token(model, against)
    return Metric(answer=answer_token(model, answer), against=other, function=None, positions=None)


def _require_gradient(function: Any, words: int) -> None:
    """Try a metric on logits of zero.

    Raises:
        SpecError: it gives no number, or one without a gradient.
    """
    if not callable(function) or isinstance(function, type):
        refuse("metric", function, "function", WRITE)
    try:
        value = function(torch.zeros(1, words, requires_grad=True))
    except Exception as error:
        raise SpecError(
            f"metric= could not be computed from logits [1, {words}] ({type(error).__name__}: {error}); write {WRITE}"
        ) from error
    if not isinstance(value, torch.Tensor) or value.dim() or not value.requires_grad:
        raise SpecError(f"metric= gave {spelled(value)} and not a number with a gradient; write {WRITE}")


def require_finite(values: Sequence[torch.Tensor], whose: Sequence[str]) -> None:
    """Refuse gradients of what is no number.

    Raises:
        InterventionError: naming the run.
    """
    for value, run in zip(values, whose, strict=True):
        if not bool(torch.isfinite(value)):
            raise InterventionError(
                f"the metric of the {run} is {float(value)}, so it has no gradient; choose an answer whose logit is a "
                "number, or load the model in a precision that holds its states (dtype=bfloat16 or float32)"
            )
