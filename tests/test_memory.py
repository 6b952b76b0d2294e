"""Sweeps and answers keep to their budget of memory, go on with fewer cases where it runs out, or are refused in words.

What they really take is measured in `test_peaks.py`.
"""

from __future__ import annotations

import re

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.execution import footprint_tower, memory
from nnsight_vlm.execution.footprint import Footprint, Passing, footprint, footprint_of
from nnsight_vlm.execution.memory import free_bytes, out_of_memory
from nnsight_vlm.families import view_of
from nnsight_vlm.sweeping import answers, scores
from nnsight_vlm.sweeping.memory import Cuts, forward_of_variants, most_that_fit
from nnsight_vlm.sweeping.schedule import Batch

ANSWER = 20
VARIANTS = [nv.Knockout("image", "query", layers=layer) for layer in range(4)] * 2


@pytest.fixture
def fresh(model):
    return asked(model)


@pytest.fixture
def fresh_of():
    return asked


def asked(model):
    return nv.encode(model, "what is the big red square left of the dog ?", tiny.picture(7))


def expected(model, prompt):
    return nv.sweep(model, prompt, VARIANTS, answer=ANSWER, execution="single")["logit"].tolist()


def smallest(call, **how):
    """The least budget that a call says it takes."""
    with pytest.raises(nv.SpecError, match=r"write memory=\d+ or more") as refused:
        call(memory=1, **how)
    return int(re.findall(r"write memory=(\d+) or more", str(refused.value))[0])


@pytest.mark.parametrize("way", ["rows", "packed"])
@pytest.mark.parametrize("shares_prefix", [True, False])
def test_more_cases_need_more_memory_and_those_that_fit_are_within_the_budget(model, fresh, way, shares_prefix):
    batch = Batch(numbers=tuple(range(19)), way=way, position=30, shares_prefix=shares_prefix)

    def needed(cases, heads=False):
        return forward_of_variants(model, fresh, batch, cases, cuts=Cuts(1, heads))

    totals = [needed(cases).total for cases in range(1, 20)]
    assert totals == sorted(totals) and totals[0] > 0
    for budget in (totals[0], totals[6], totals[18]):
        fitting = most_that_fit(19, needed, model, budget)
        assert fitting == 1 or totals[fitting - 1] <= budget
    assert most_that_fit(19, needed, model, totals[18]) == 19
    assert most_that_fit(19, lambda cases: needed(cases, heads=True), model, totals[18]) < 19
    assert most_that_fit(19, needed, model, 1) == 1


def test_what_a_forward_takes_is_what_one_counts_by_hand(model, fresh):
    """A decoder of 4 layers, 32 wide, 64 inside, 4 heads, 2 of keys, and a tower of 26 patches, 24 wide, 48 inside."""
    eager, tokens, words = view_of(model).attention_implementation == "eager", fresh.width, view_of(model).vocab_size
    run = footprint_of(model, fresh)
    assert run.states == tokens * (9 * 32 + 3 * 64) * 4
    assert run.keys == tokens * 2 * 4 * 2 * 8 * 4
    assert run.scores == (4 * tokens**2 * 8 if eager else 0)
    assert run.logits == words * 2 * 4 and run.masks == 0
    pixels, patches = 3 * tiny.SIDE**2, tiny.IMAGE_TOKENS
    kept = 2  # a LLaVA keeps what every layer of its tower gives
    tower = pixels * 4 + patches * ((8 + kept) * 24 + 3 * 48) * 4
    assert run.pictures == tower + (2 * patches**2 * 8 if eager else 0)
    cut = footprint_of(model, fresh, masks=2, numbers=10)
    assert cut.masks == 2 * tokens**2 * 4 and cut.answers == 80
    assert run.total == max(run.pictures, run.states + run.keys + run.scores + run.logits)
    assert footprint(model, Passing(rows=3, tokens=5, keys=40, stored=50)).keys == 3 * 50 * 2 * 4 * 2 * 8 * 4
    assert Footprint(states=2, pictures=3, kept=1).times(2).beside(Footprint(keys=4)).total == 2 + 8


def test_the_patches_of_a_tower_follow_from_the_pixels_of_each_kind():
    tall = zoo.prompt("qwen2_vl")
    grids = tall.inputs["image_grid_thw"].prod(-1).tolist()
    assert lengths_of(tall) == grids and sum(grids) == len(tall.inputs["pixel_values"])
    tiles = zoo.prompt("llava_next").inputs["pixel_values"]
    config = view_of(zoo.load("llava_next")).config.vision_config
    assert (
        lengths_of(zoo.prompt("llava_next")) == [(tiles.shape[-1] // config.patch_size) ** 2] * tiles.shape[:2].numel()
    )


def lengths_of(prompt):
    view = view_of(prompt.model)
    return footprint_tower._lengths(prompt.inputs["pixel_values"], prompt.inputs, footprint_tower._tower_of(view))


def test_a_tower_that_runs_all_pictures_as_one_sequence_takes_the_square_of_them():
    view, prompt = view_of(zoo.load("mistral3", "eager")), zoo.prompt("mistral3", "eager")
    one, two, four = (footprint_tower.pictures_bytes(view, prompt.inputs, copies) for copies in (1, 2, 4))
    assert four - 2 * two == 4 * (two - 2 * one) > 0


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
def test_a_small_budget_takes_more_forwards_and_gives_the_same_numbers(model, fresh, forwards, execution):
    def sweep(memory):
        return nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution, memory=memory)

    least = smallest(sweep)
    assert not forwards  # it was refused before the model ran
    frame = sweep(least)
    assert len(forwards) == 1 + len(VARIANTS)  # one for the prompt, one for each variant
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=LIMIT, abs=LIMIT)


def test_answers_keep_to_a_budget_as_rows_of_smaller_batches(model, monkeypatch):
    prompts = [nv.encode(model, "what is the red square ?", tiny.picture(number)) for number in range(4)]
    one_by_one = [nv.generate(model, prompt, max_new_tokens=3).tokens for prompt in prompts]
    cases, counts, real = [(prompt, None) for prompt in prompts], [], answers.decode

    def counted(model, prompt, *rest, **how):
        counts.append(len(prompt))
        return real(model, prompt, *rest, **how)

    def generate(**how):
        return [each.tokens for each in nv.generations(model, cases, max_new_tokens=3, **how)]

    monkeypatch.setattr(answers, "decode", counted)
    least = smallest(generate)
    assert not counts
    for budget, batches in ((least, [1] * 4), (least * 3, [3, 1]), (None, [4])):
        assert generate(memory=budget) == one_by_one
        assert counts == batches
        counts.clear()
    assert generate(rows=2, memory=least * 3) == one_by_one and counts == [2, 2]


def test_answers_to_one_prompt_share_its_run_within_the_budget(model, fresh):
    cases = [(fresh, nv.Knockout("image", "query", layers=layer)) for layer in range(4)]

    def generate(memory=None):
        return [each.tokens for each in nv.generations(model, cases, max_new_tokens=3, memory=memory)]

    assert generate(smallest(generate)) == [nv.generate(model, *case, max_new_tokens=3).tokens for case in cases]


def test_recipes_hand_their_budget_on_and_refuse_a_prompt_before_the_first_is_measured(model, fresh, forwards):
    other = nv.encode(model, "what is red ?", tiny.picture(1))

    def windows(memory):
        work = nv.recipes.Work(progress=False, memory=memory)
        how = {"max_new_tokens": 2, "routes": ["image->last"], "objects": nv.recipes.content_words, "windows": 2}
        return nv.recipes.knockout_windows(model, [other, fresh], per_image=True, work=work, **how)

    needed = footprint_of(model, fresh).total
    with pytest.raises(nv.SpecError, match=rf"prompt 1 would take .*write memory={needed} or more"):
        windows(needed - 1)
    assert not forwards
    assert windows(10 * needed).equals(windows(None))


@pytest.mark.parametrize("given", [0, -1, "4GB", 1.5, True])
def test_a_budget_is_a_number_of_bytes(sdpa, fresh_of, given):
    prompt = fresh_of(sdpa)
    for call in (
        lambda: nv.sweep(sdpa, prompt, VARIANTS, answer=ANSWER, memory=given),
        lambda: nv.generations(sdpa, [(prompt, None)], memory=given),
        lambda: nv.recipes.Work(memory=given),
    ):
        with pytest.raises(nv.SpecError, match=r"is no number of bytes; write memory=4 \* 2\*\*30"):
            call()


@pytest.fixture
def little(monkeypatch):
    """A machine on which next to nothing is free."""
    monkeypatch.setattr(memory, "LITTLE", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)


def test_what_does_not_fit_into_what_is_free_is_refused_before_the_model_runs(model, fresh, forwards, little):
    cut = nv.Knockout("image", "last")
    for call in (
        lambda: nv.run(model, fresh, cut),
        lambda: nv.generate(model, fresh, cut),
        lambda: nv.verify(model, fresh, cut),
        lambda: nv.sweep(model, fresh, [cut], answer=ANSWER),
        lambda: nv.generations(model, [(fresh, cut)]),
    ):
        with pytest.raises(nv.SpecError, match=r"would take about .* MiB beside the weights, .* and 0\.0 MiB are free"):
            call()
    assert not forwards


def test_eager_attention_is_named_where_it_takes_most(little):
    model = tiny.load("eager")
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match='attn_implementation="sdpa"'):
        nv.run(model, prompt)


def test_a_proof_of_many_queries_takes_more_than_one_of_few(sdpa, fresh_of, monkeypatch):
    prompt, asked = fresh_of(sdpa), []
    monkeypatch.setattr(memory, "refuse_what_cannot_fit", lambda _, needed, *__, **___: asked.append(needed.answers))
    nv.verify(sdpa, prompt, nv.Knockout("image", "last"))
    few = max(asked)
    nv.verify(sdpa, prompt, nv.Knockout("image", "query"))
    layers, heads, tokens = tiny.LAYERS, tiny.HEADS, prompt.width
    assert few == 8 * layers * heads * tokens
    assert max(asked) == few * len(prompt["query"])


def test_what_is_free_is_no_more_than_a_container_permits(sdpa, tmp_path, monkeypatch):
    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "own_groups", lambda: ["0::/job"])
    assert free_bytes(sdpa) == 2500000
    monkeypatch.setattr(memory, "own_groups", lambda: ["4:memory:/", "0::/elsewhere"])
    assert free_bytes(sdpa) > 2500000


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_half_as_many_are_run_at_once(model, fresh, monkeypatch, execution, error):
    case_counts, real_forward = [], scores.run_forward

    def forward_of_two_at_most(model, layout, *rest, **how):
        case_counts.append(len(layout.placements))
        if len(layout.placements) > 2:
            raise error
        return real_forward(model, layout, *rest, **how)

    monkeypatch.setattr(scores, "run_forward", forward_of_two_at_most)
    frame = nv.sweep(model, fresh, VARIANTS, answer=ANSWER, execution=execution)
    assert case_counts[:3] == [8, 4, 2]
    assert max(case_counts[2:]) == 2 and sum(case_counts[2:]) == len(VARIANTS)
    monkeypatch.undo()
    assert frame["logit"].tolist() == pytest.approx(expected(model, fresh), rel=LIMIT, abs=LIMIT)


def test_other_errors_are_raised_and_so_is_running_out_of_memory_with_a_single_case(model, fresh, monkeypatch):
    for error in (RuntimeError("shapes differ"), RuntimeError("CUDA out of memory")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(scores, "run_forward", fail)
        with pytest.raises(RuntimeError, match=str(error)):
            nv.sweep(model, fresh, VARIANTS, answer=ANSWER)
    assert out_of_memory(error) and not out_of_memory(RuntimeError("shapes differ"))


def test_answers_are_halved_too_where_memory_runs_out(model, fresh, monkeypatch):
    counts, real = [], answers.decode

    def rows_of_two_at_most(model, prompt, *rest, **how):
        counts.append(len(prompt))
        if len(prompt) > 2:
            raise torch.OutOfMemoryError("CUDA")
        return real(model, prompt, *rest, **how)

    cases = [(fresh, variant) for variant in VARIANTS]
    expected = [each.tokens for each in nv.generations(model, cases, max_new_tokens=3)]
    monkeypatch.setattr(answers, "decode", rows_of_two_at_most)
    assert [each.tokens for each in nv.generations(model, cases, max_new_tokens=3)] == expected
    assert counts == [8, 4, 2, 2, 2, 2]
