"""A variant whose logits are infinite or not a number spoils no other, is named, and has no rank."""

from __future__ import annotations

import math
import warnings

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm import NonFiniteWarning
from nnsight_vlm.device.readouts import answer_scores
from nnsight_vlm.sweeping.non_finite import apart

ANSWER = 20
EXECUTIONS = ("packed", "rows", "single", "auto")


def states(value):
    return torch.full((1, tiny.WIDTH), value)


def variants(prompt):
    first, second, *rest = prompt["query"]
    blind = [nv.Knockout(position, rest, layers=layer) for position in (second,) for layer in range(2, 4)]
    return {
        "fine": nv.Knockout("image", "query", layers=1),
        "nan": nv.Patch("last", source=states(math.nan), layers=1),
        "zero": nv.Ablate("last", layers=2),
        "inf": nv.Patch(first, source=states(math.inf), layers=1),
        "minus inf": nv.Patch(second, source=states(-math.inf), layers=0),
        "cut": nv.Knockout("image", "last"),
        "great": nv.Patch(second, source=states(3e38), layers=1),
        "unread": nv.Patch(second, source=states(math.nan), layers=1) | blind[0] | blind[1],
    }


def swept(model, prompt, cases, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NonFiniteWarning)
        frame = nv.sweep(model, prompt, cases, answer=ANSWER, **options)
    return frame.set_index("variant"), [str(each.message) for each in caught]


@pytest.mark.float64
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_every_variant_beside_one_that_is_not_finite_scores_what_it_scores_alone(model, prompt, execution):
    cases, clean = variants(prompt), nv.run(model, prompt).logits
    frame, messages = swept(model, prompt, cases, execution=execution)
    lost = []
    for name, case in cases.items():
        logits, row = nv.run(model, prompt, case).logits, frame.loc[name]
        assert row["clean_logit"] == pytest.approx(float(clean[ANSWER]), rel=1e-9)
        if bool(torch.isnan(torch.log_softmax(logits, -1)[ANSWER])):
            lost.append(name)
            assert math.isnan(row["logprob"]) and math.isnan(row["rank"]) and not isinstance(row["top_token"], str)
        else:
            assert row["logit"] == pytest.approx(float(logits[ANSWER]), rel=1e-9)
            assert row["rank"] == int((logits > logits[ANSWER]).sum())
    assert {"nan", "inf", "minus inf"} <= set(lost) and {"fine", "zero", "cut"}.isdisjoint(lost)
    assert len(messages) == 1 and f"{len(lost)} of {len(cases)}" in messages[0]
    assert all((repr(name) in messages[0]) == (name in lost) for name in cases)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_half_precision_that_overflows_is_named_and_spoils_nothing(execution):
    model = nv.load(tiny.build_module().half(), processor=tiny.build_processor())
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    over = nv.Patch(prompt["query"][0], source=states(7e4), layers=0)  # more than float16 can hold
    frame, messages = swept(model, prompt, {"over": over, "fine": nv.Ablate("last", layers=1)}, execution=execution)
    alone, _ = swept(model, prompt, {"fine": nv.Ablate("last", layers=1)}, execution="single")
    assert math.isnan(frame.loc["over", "rank"]) and "'over'" in messages[0]
    assert frame.loc["fine", "logit"] == pytest.approx(alone.loc["fine", "logit"], rel=1e-2)


def test_finite_variants_take_no_more_passes_and_no_warning(model, prompt):
    cases = {name: case for name, case in variants(prompt).items() if name in ("fine", "zero", "cut")}
    frame, messages = swept(model, prompt, cases)
    assert not messages and frame.attrs["passes"] == {"packed": 1} and frame["rank"].dtype.kind == "i"


def test_a_clean_run_that_is_not_finite_is_refused_in_words():
    module = tiny.build_module()
    module.lm_head.weight[30] = math.nan
    model = nv.load(module, processor=tiny.build_processor())
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    for execution in EXECUTIONS:
        with pytest.raises(nv.InterventionError, match="clean run's logits are infinite or not a number"):
            nv.sweep(model, prompt, [nv.Ablate("last", layers=1)], answer=ANSWER, execution=execution)


def test_ranks_follow_the_definition_and_minus_infinity_is_a_number():
    logits = torch.tensor([[[1.0, 3.0, -math.inf, 2.0], [1.0, math.nan, 0.0, 2.0], [1.0, math.inf, 0.0, 2.0]]])
    found = [line.tolist() for line in answer_scores(logits, [(0, 0, 0), (0, 0, 2), (0, 1, 3), (0, 2, 3)], None)]
    assert found[0][2:] == [2, 1] and found[1][1:] == [-math.inf, 3, 1]
    assert all(math.isnan(number) for line in found[2:] for number in line[1:])


def test_attention_that_is_not_a_number_is_not_said_to_be_none(model, prompt):
    case = nv.Patch(prompt["query"][0], source=states(math.nan), layers=0)
    read = nv.Attention("last", "image", layers=1, reduce="mass")
    assert nv.run(model, prompt, case, reads=[read]).reads[0].isnan().all()


def test_parties_are_halved_until_each_case_has_run_with_nobody_who_spoils_it():
    class Scored:
        def __init__(self, logprob):
            self.logprob = logprob

    asked = []

    def run(party):
        asked.append(party)
        spoilt = 5 in party
        yield party, [Scored(math.nan if spoilt else float(number)) for number in party]

    scores = {number: Scored(math.nan) for number in range(8)}
    for party, found in apart(scores, run):
        scores |= dict(zip(party, found, strict=True))
    assert [number for number, score in scores.items() if math.isnan(score.logprob)] == [5]
    assert asked[-1] == (5,) or (5,) in asked
    assert len(asked) <= 6


def test_answers_that_are_chosen_among_what_is_no_number_are_named(model, prompt):
    lost = nv.Patch("last", source=states(math.nan), layers=1)
    with pytest.warns(NonFiniteWarning, match="row 0"):
        nv.generate(model, prompt, lost, max_new_tokens=2)
    with pytest.warns(NonFiniteWarning, match="case 1"):
        list(nv.generations(model, [(prompt, None), (prompt, lost)], max_new_tokens=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nv.generate(model, prompt, max_new_tokens=2)
