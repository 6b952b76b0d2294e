"""A sweep keeps within its memory, and goes on where memory runs out all the same."""

from __future__ import annotations

import pytest
import tiny
import torch

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
def test_more_cases_need_more_and_what_fits_is_within_the_budget(model, rows):
    needs = [needed_bytes(model, cases, 13, 33, rows=rows) for cases in range(1, 20)]
    assert needs == sorted(needs) and needs[0] > 0
    for budget in (needs[0], needs[6], needs[18]):
        fit = cases_that_fit(model, 19, 13, 33, budget, rows=rows)
        assert fit == 1 or needs[fit - 1] <= budget
    assert cases_that_fit(model, 19, 13, 33, needs[18], rows=rows) == 19
    assert cases_that_fit(model, 19, 13, 33, needs[18], rows=rows, heads=True) < 19
    assert cases_that_fit(model, 19, 13, 33, 0, rows=rows) == 1


@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_a_small_budget_takes_more_forwards_and_gives_the_same_numbers(model, fresh, forwards, execution):
    frame = nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution, memory=1)
    assert len(forwards) == 1 + len(VARIANTS)  # the prompt, and each variant
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("execution", ["packed", "rows"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_half_as_many_are_run_at_once(model, fresh, monkeypatch, execution, error):
    module, sizes = execute, []
    right = module.forward

    def small(model, layout, *rest):
        sizes.append(len(layout.placements))
        if len(layout.placements) > 2:
            raise error
        return right(model, layout, *rest)

    monkeypatch.setattr(module, "forward", small)
    frame = nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution)
    assert sizes[:3] == [8, 4, 2] and max(sizes[2:]) == 2 and sum(sizes[2:]) == len(VARIANTS)
    monkeypatch.undo()
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=1e-5, abs=1e-5)


def test_other_errors_are_raised_and_so_is_no_memory_for_a_single_case(model, fresh, monkeypatch):
    module = execute
    for error in (RuntimeError("shapes differ"), RuntimeError("CUDA out of memory")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(module, "forward", fail)
        with pytest.raises(RuntimeError, match=str(error)):
            nv.sweep(model, fresh, VARIANTS, answer=ANSWER)
    assert out_of_memory(error) and not out_of_memory(RuntimeError("shapes differ"))
