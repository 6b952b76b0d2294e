"""A sweep keeps to its memory budget, and retries with fewer cases where memory runs out all the same."""

from __future__ import annotations

import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.sweeping import execute
from nnsight_vlm.sweeping.memory import cases_that_fit, needed_bytes, out_of_memory

ANSWER = 20
VARIANTS = [nv.Knockout("image", "query", layers=layer) for layer in range(4)] * 2


@pytest.fixture
def fresh(model):
    return nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(7))


def expected(model, prompt):
    return nv.sweep(model, prompt, VARIANTS, answer=ANSWER, execution="single")["logit"].tolist()


@pytest.mark.parametrize("rows", [True, False])
def test_more_cases_need_more_memory_and_those_that_fit_are_within_the_budget(model, rows):
    needed = [needed_bytes(model, cases, 13, 33, rows=rows) for cases in range(1, 20)]
    assert needed == sorted(needed) and needed[0] > 0
    for budget in (needed[0], needed[6], needed[18]):
        fitting = cases_that_fit(model, 19, 13, 33, budget, rows=rows)
        assert fitting == 1 or needed[fitting - 1] <= budget
    assert cases_that_fit(model, 19, 13, 33, needed[18], rows=rows) == 19
    assert cases_that_fit(model, 19, 13, 33, needed[18], rows=rows, heads=True) < 19
    assert cases_that_fit(model, 19, 13, 33, 0, rows=rows) == 1


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_a_small_budget_takes_more_forwards_and_gives_the_same_numbers(model, fresh, forwards, execution):
    frame = nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution, memory=1)
    assert len(forwards) == 1 + len(VARIANTS)  # one for the prompt, one for each variant
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=LIMIT, abs=LIMIT)


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_half_as_many_are_run_at_once(model, fresh, monkeypatch, execution, error):
    case_counts, real_forward = [], execute.run_forward

    def forward_of_two_at_most(model, layout, *rest):
        case_counts.append(len(layout.placements))
        if len(layout.placements) > 2:
            raise error
        return real_forward(model, layout, *rest)

    monkeypatch.setattr(execute, "run_forward", forward_of_two_at_most)
    frame = nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution)
    assert case_counts[:3] == [8, 4, 2]
    assert max(case_counts[2:]) == 2 and sum(case_counts[2:]) == len(VARIANTS)
    monkeypatch.undo()
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=LIMIT, abs=LIMIT)


def test_other_errors_are_raised_and_so_is_running_out_of_memory_with_a_single_case(model, fresh, monkeypatch):
    for error in (RuntimeError("shapes differ"), RuntimeError("CUDA out of memory")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(execute, "run_forward", fail)
        with pytest.raises(RuntimeError, match=str(error)):
            nv.sweep(model, fresh, VARIANTS, answer=ANSWER)
    assert out_of_memory(error) and not out_of_memory(RuntimeError("shapes differ"))
