"""Which cases run together: full batches of answers, shared prefixes, and a reason for whatever is not shared."""

from __future__ import annotations

import pytest
import tiny
import zoo

import nnsight_vlm as nv
from nnsight_vlm.specs.interventions import CLEAN
from nnsight_vlm.sweeping.divergence import divergence_of
from nnsight_vlm.sweeping.schedule import schedule_answers, schedule_sweep
from nnsight_vlm.sweeping.sharing import answers_per_batch, prefix_sharers, sharing

LATE = nv.Knockout("image", "last", layers=1)
EARLY = nv.Ablate("image", layers=1)
QUESTIONS = ("what is the red square ?", "what is red ?", "where is the blue square ?")


@pytest.fixture(scope="module")
def model():
    return tiny.load("sdpa")


@pytest.fixture(scope="module")
def prompts(model):
    return [nv.encode(model, QUESTIONS[number % 3], tiny.picture(number)) for number in range(10)]


def at_most(rows):
    """Says that so many cases share a batch, whichever they are."""
    return lambda *_: rows


def numbers(schedule):
    return [batch.numbers for batch in schedule.batches]


def test_ten_prompts_with_four_rows_are_batches_of_four_four_and_two(model, prompts):
    schedule = schedule_answers(model, [(prompt, CLEAN) for prompt in prompts], at_most(4), False)
    assert numbers(schedule) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert not any(batch.shares_prefix for batch in schedule.batches)


def test_two_conditions_a_prompt_fill_batches_too(model, prompts):
    cases = [(prompt, case) for prompt in prompts[:5] for case in (CLEAN, LATE)]
    assert numbers(schedule_answers(model, cases, at_most(4), False)) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


def test_many_conditions_on_a_prompt_begin_behind_its_prefix_and_others_fill_up(model, prompts):
    several = [LATE, CLEAN, EARLY, nv.Knockout("query", "last", layers=0)]
    cases = [(prompts[0], CLEAN), *((prompts[1], case) for case in several), (prompts[2], CLEAN)]
    schedule = schedule_answers(model, cases, at_most(8), False)
    shared = [batch for batch in schedule.batches if batch.shares_prefix]
    assert [batch.numbers for batch in shared] == [(1, 2, 4)]  # number 3 changes the image
    assert numbers(schedule) == [(0, 3, 5), (1, 2, 4)]
    assert shared[0].position == min(schedule.divergences[number].position for number in (1, 2, 4))
    one_by_one = [nv.generate(model, prompt, case, max_new_tokens=5).tokens for prompt, case in cases]
    assert [answer.tokens for answer in nv.generations(model, cases, max_new_tokens=5, rows=8)] == one_by_one


def test_answers_come_in_order_as_soon_as_they_are_there(model, prompts, monkeypatch):
    from nnsight_vlm.sweeping import answers

    ran, right = [], answers.decode
    monkeypatch.setattr(answers, "decode", lambda *given, **named: ran.append(len(given[1])) or right(*given, **named))
    told = nv.generations(model, [(prompt, None) for prompt in prompts], max_new_tokens=2, rows=4)
    next(told)
    assert ran == [4]
    list(told)
    assert ran == [4, 4, 2]


def test_nothing_begins_behind_a_prefix_on_a_server(model, prompts):
    schedule = schedule_answers(model, [(prompts[0], LATE)] * 6, at_most(4), True)
    assert numbers(schedule) == [(0, 1, 2, 3), (4, 5)] and not any(batch.shares_prefix for batch in schedule.batches)
    reason = sharing(model, prompts[0], divergence_of(model, prompts[0], LATE, donors=False), True)
    assert "server" in reason.prefix and "server" in reason.image and not reason.packed


@pytest.mark.parametrize(
    "case, prefix, packed",
    [
        (LATE, "", ""),
        (CLEAN, "", ""),
        (EARLY, "changes image tokens", "changes image tokens"),
        (nv.Knockout("first", "query", layers=0), "", ""),
        (nv.Ablate("image", site="features"), "changes image tokens", "changes image tokens"),
    ],
)
def test_whatever_is_not_shared_has_a_reason(model, prompts, case, prefix, packed):
    reason = sharing(model, prompts[0], divergence_of(model, prompts[0], case, donors=False), False)
    assert bool(reason.prefix) == bool(prefix) and prefix in reason.prefix
    assert bool(reason.packed) == bool(packed) and packed in reason.packed


def test_one_case_alone_is_not_worth_a_prefix(model, prompts):
    one = [sharing(model, prompts[0], divergence_of(model, prompts[0], LATE, donors=False), False)]
    assert prefix_sharers(one) == [] and prefix_sharers(one * 2) == [0, 1]


def test_a_model_with_edits_runs_one_case_at_a_time(model, prompts):
    edited = nv.install(model, prompts[0], LATE)
    assert answers_per_batch(edited, 8, False) == 1 and answers_per_batch(model, 8, False) == 8
    assert [batch.way for batch in schedule_sweep(edited, prompts[0], [CLEAN, LATE], "auto", False).batches] == [
        "single"
    ]
    with pytest.raises(nv.SpecError, match='execution="single"'):
        schedule_sweep(edited, prompts[0], [CLEAN, LATE], "packed", False)
    schedule = schedule_answers(edited, [(prompts[0], LATE)] * 3, at_most(1), False)
    assert numbers(schedule) == [(0,), (1,), (2,)] and not any(batch.shares_prefix for batch in schedule.batches)


def test_packing_is_refused_with_the_familys_reason():
    model, prompt = zoo.load("qwen3_5", "sdpa"), zoo.prompt("qwen3_5", "sdpa")
    with pytest.raises(nv.SpecError, match=r'qwen3_5.*shared prefix.*execution="rows"'):
        schedule_sweep(model, prompt, [CLEAN, nv.Knockout("image", "last", layers="attention")], "packed", False)
