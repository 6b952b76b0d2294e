"""Random batches, sweeps and answers to many prompts, in every family, against the reference, one by one."""

from __future__ import annotations

import pytest

from fuzz.suite import asked, parameters


@pytest.mark.float64
@pytest.mark.parametrize("name, mode, seed", parameters("batch", "sweep", "generations"))
def test_many_at_once_are_answered_as_the_reference_answers_one_by_one(name, mode, seed):
    asked(name, mode, seed)
