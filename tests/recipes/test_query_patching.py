"""Query patching: restoration by hand, its bounds, and its controls."""

from __future__ import annotations

import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Pair, Work, query_patching
from nnsight_vlm.studies.pair_sources import sources_of

QUIET = Work(progress=False)


@pytest.fixture
def pairs(sdpa):
    """Pairs of pictures whose most probable answers differ, three that share no answer."""
    prompts = [nv.encode(sdpa, "what is the red square ?", tiny.picture(number)) for number in range(40)]
    tops = [int(nv.run(sdpa, prompt).logits.argmax()) for prompt in prompts]
    by_answer = dict(zip(tops, prompts, strict=True))
    known = [Pair(by_answer[a], by_answer[b], a, b) for a, b in zip(by_answer, list(by_answer)[1:], strict=False)]
    assert len(known) >= 3
    return known[::2]


@pytest.mark.float64
def test_patching_everything_restores_the_other_answer_fully_in_any_layer(sdpa, pairs):
    rows = query_patching(sdpa, pairs, groups=["all"], per_image=True, work=QUIET)
    assert rows.loc[rows["control"] == "none", "restoration"].to_numpy() == pytest.approx(1, rel=LIMIT)
    assert (rows.loc[rows["control"] == "none", "flipped"] == 1).all()


@pytest.mark.float64
def test_restoration_is_that_of_single_runs(sdpa, pairs):
    rows = query_patching(sdpa, pairs, groups=["image", "last"], layers=[1], per_image=True, work=QUIET)
    for image, pair in enumerate(pairs):
        before, after = (
            float(nv.run(sdpa, p).logits.softmax(-1)[pair.other_answer]) for p in (pair.prompt, pair.other)
        )
        for group in ("image", "last"):
            logits = nv.run(sdpa, pair.prompt, nv.Patch(group, source=pair.other, layers=1)).logits
            expected = (float(logits.softmax(-1)[pair.other_answer]) - before) / (after - before)
            chosen = rows[(rows["image"] == image) & (rows["group"] == group) & (rows["control"] == "none")]
            assert chosen["restoration"].item() == pytest.approx(expected, rel=LIMIT, abs=LIMIT)


def test_pairs_that_the_model_answers_wrongly_are_left_out(sdpa, pairs):
    wrong = [pairs[0]._replace(answer=pairs[0].other_answer + 1), *pairs[1:]]
    rows = query_patching(sdpa, wrong, groups=["last"], layers=[0], work=QUIET)
    assert (rows.loc[rows["control"] == "none", "images"] == len(pairs) - 1).all()


def test_random_positions_are_as_many_and_lie_outside_the_group(pairs):
    for image, pair in enumerate(pairs):
        sources = sources_of(pairs, image, ("image", "question", "last"), 0)
        drawn = {(source.group, source.control): source.positions for source in sources}
        assert len(drawn["question", "random positions"]) == len(drawn["question", "none"])
        assert not set(drawn["question", "random positions"]) & set(pair.prompt["question"])
        assert pair.prompt["last"][0] not in drawn["question", "none"]
        assert ("image", "random positions") not in drawn  # fewer tokens lie outside than in it


def test_pairs_of_different_texts_or_with_equal_answers_are_refused(sdpa, pairs):
    other = nv.encode(sdpa, "where is the red square ?", tiny.picture(1))
    with pytest.raises(nv.SpecError, match="differ in their words"):
        query_patching(sdpa, [pairs[0]._replace(other=other)], work=QUIET)
    with pytest.raises(nv.SpecError, match="nothing could be restored"):
        query_patching(sdpa, [pairs[0]._replace(other_answer=pairs[0].answer)], work=QUIET)
