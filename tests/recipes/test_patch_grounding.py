"""Patch grounding: hits and IoU by hand, chance by enumerating all choices, cuts equal to single runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.recipes import Thing, Work, content_words, patch_grounding, patch_knockout
from nnsight_vlm.studies.layer_sets import middle_half
from nnsight_vlm.studies.map_scores import expected_overlap, overlap

QUIET = Work(progress=False)


def square(x, y, side=8):
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "describe the image .", tiny.picture(number)) for number in range(2)]


@pytest.fixture
def truths(sdpa, prompts):
    """Two words of each picture's own description, each given a place."""
    truths = []
    for prompt in prompts:
        first, second, *_ = content_words(nv.generate(sdpa, prompt, max_new_tokens=12).text)
        truths.append((Thing(name=first, mask=square(0, 0)), Thing(name=second, mask=square(9, 10))))
    return truths


@pytest.fixture
def rows(sdpa, prompts, truths):
    return patch_grounding(sdpa, prompts, truths=truths, max_new_tokens=12, per_image=True, work=QUIET)


@pytest.mark.parametrize("read_at", ["predicting", "word"])
def test_hits_are_those_of_the_attention_read_by_hand(sdpa, prompts, truths, rows, read_at):
    for image, prompt in enumerate(prompts):
        grown, grid = nv.generate(sdpa, prompt, max_new_tokens=12).prompt, prompt.grid()
        for thing in truths[image]:
            place = grown.find(thing.name, within="generated", occurrence=0)[0] - (read_at == "predicting")
            maps = nv.run(sdpa, grown, reads=[nv.Attention([place], "image")]).reads[0].mean(1)[:, 0].numpy()
            patches = grid.coverage(thing.mask) > 0
            mine = rows[(rows["image"] == image) & (rows["thing"] == thing.name) & (rows["read_at"] == read_at)]
            mine = mine[mine["control"] == "none"].drop_duplicates("layer").set_index("layer")
            by_hand = {str(layer): maps[layer] for layer in range(tiny.LAYERS)}
            by_hand["middle half"] = maps[list(middle_half(tiny.LAYERS))].mean(0)
            for layer, weights in by_hand.items():
                best = np.argsort(-weights)[: patches.sum()]
                shared = patches[best].sum()
                assert mine.loc[layer, "hit"] == patches[weights.argmax()]
                assert mine.loc[layer, "iou"] == pytest.approx(shared / (2 * patches.sum() - shared))


def test_chance_is_the_mean_over_every_choice_of_patches():
    mask = np.array([1, 1, 0, 0, 0, 0], bool)
    orders = [np.array([*best, *(set(range(6)) - set(best))]) for best in itertools.combinations(range(6), 2)]
    assert expected_overlap(2, 6) == pytest.approx(np.mean([overlap(order, mask) for order in orders]))
    assert expected_overlap(6, 6) == 1
    assert np.isnan(expected_overlap(0, 6))


def test_random_patches_hit_as_often_as_the_object_is_large(rows, prompts, truths):
    for image, prompt in enumerate(prompts):
        for thing in truths[image]:
            chosen = rows[
                (rows["image"] == image) & (rows["thing"] == thing.name) & (rows["control"] == "random patches")
            ]
            share = (prompt.grid().coverage(thing.mask) > 0).mean()
            assert chosen["hit"].dropna().to_numpy() == pytest.approx(share)


@pytest.mark.float64
def test_a_cut_equals_a_single_run_on_the_answer_up_to_the_word(sdpa, prompts, truths, rows):
    thing, answer = truths[0][0], nv.generate(sdpa, prompts[0], max_new_tokens=12)
    index = answer.prompt.find(thing.name, within="generated", occurrence=0)[0] - prompts[0].rows[0].answer
    before, mine = prompts[0].grown(answer.tokens[:index]), prompts[0].grid().tokens_in(thing.mask)
    cut, clean = (
        float(nv.run(sdpa, before, case).logits.log_softmax(-1)[answer.tokens[index]])
        for case in (nv.Knockout(mine, ("last", "generated")), None)
    )
    chosen = rows[(rows["image"] == 0) & (rows["thing"] == thing.name) & rows["logprob_change"].notna()]
    assert set(chosen["control"]) == {"none", "random patches", "random patches, again"}
    assert chosen.loc[chosen["control"] == "none", "logprob_change"].iloc[0] == pytest.approx(
        cut - clean, rel=LIMIT, abs=LIMIT
    )


def test_without_masks_words_still_have_their_best_patches(sdpa, prompts):
    tidy = patch_grounding(sdpa, prompts, max_new_tokens=6, work=QUIET)
    assert set(tidy["measure"]) == {"top_mass"}
    rows = patch_grounding(sdpa, prompts, max_new_tokens=6, top=3, per_image=True, work=QUIET)
    assert rows.loc[rows["control"] == "none", "top"].str.split().str.len().eq(3).all()


def test_a_mask_of_another_size_and_an_unknown_reading_position_are_refused(sdpa, prompts):
    wrong = [(Thing(name="dog", mask=np.ones((3, 3), bool)),)] * 2
    with pytest.raises(nv.SpecError, match="mask has shape"):
        patch_grounding(sdpa, prompts, truths=wrong, work=QUIET)
    with pytest.raises(nv.SpecError, match="no read_at 'after'"):
        patch_grounding(sdpa, prompts, read_at=["after"], work=QUIET)


@pytest.mark.float64
def test_hiding_neighbourhoods_equals_single_cuts(sdpa, prompts):
    frame = patch_knockout(sdpa, prompts[0], answer="dog", target="last", layers=[1, 2])
    assert len(frame) == tiny.IMAGE_TOKENS
    assert sorted(frame["hidden"].unique()) == [4, 6, 9]
    cells = dict(zip(prompts[0].grid().cells, prompts[0]["image"], strict=True))
    around = [place for (row, column), place in cells.items() if row <= 1 and column <= 1]
    token = sdpa.tokenizer.convert_tokens_to_ids("dog")
    cut, clean = (
        float(nv.run(sdpa, prompts[0], case).logits.log_softmax(-1)[token])
        for case in (nv.Knockout(around, "last", layers=[1, 2]), None)
    )
    assert frame.loc[0, "logprob_change"] == pytest.approx(cut - clean, rel=LIMIT, abs=LIMIT)
    with pytest.raises(nv.SpecError, match="odd number"):
        patch_knockout(sdpa, prompts[0], answer="dog", size=2)
