"""Windows, matched controls, and work that is kept."""

from __future__ import annotations

import pandas as pd
import pytest
import tiny

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work
from nnsight_vlm.recipes.controls import matched_positions, other_image, rng_of, with_picture_of
from nnsight_vlm.recipes.journal import measured
from nnsight_vlm.recipes.layer_sets import equal_windows, middle_half, other_layers, spell_layers


@pytest.mark.parametrize(("layers", "count"), [(10, 4), (32, 4), (4, 4), (7, 3), (3, 4), (28, 5), (1, 4)])
def test_windows_are_equal_in_size_and_cover_the_depth(layers, count):
    found = equal_windows(layers, count)
    assert len({len(window) for window in found}) == 1
    assert {layer for window in found for layer in window} == set(range(layers))
    assert equal_windows(layers, 0) == ()


@pytest.mark.parametrize("layers", [4, 10, 12, 32])
def test_the_middle_half_and_the_outer_half_have_as_many_layers(layers):
    middle = middle_half(layers)
    assert len(middle) == len(other_layers(layers, middle)) == layers // 2
    assert abs(middle[0] - (layers - 1 - middle[-1])) <= 1


def test_layers_are_spelled_as_runs():
    assert spell_layers([4, 3, 8]) == "3-4,8"
    assert spell_layers([]) == ""


@pytest.fixture
def question(sdpa):
    return nv.encode(sdpa, "what is the red square ?", tiny.picture(0))


def test_a_matched_draw_has_the_groups_size_lies_before_the_target_and_outside_the_group_where_it_can(question):
    query, image = question["query"], question["image"]
    drawn = matched_positions(question, query, (), rng_of(0, 0))
    assert len(drawn) == len(set(drawn)) == len(query)
    assert not set(drawn) & set(query)
    crowded = matched_positions(question, image, query, rng_of(0, 0))
    assert len(crowded) == len(image)
    assert max(crowded) < query[0] and 0 not in crowded
    assert matched_positions(question, range(1, query[0]), query, rng_of(0, 0)) is None


def test_another_image_is_never_the_image_itself():
    for count in range(2, 7):
        assert all(other_image(image, count, seed) != image for image in range(count) for seed in range(5))
    assert other_image(0, 1, 0) is None


def test_the_same_words_about_another_picture(sdpa, question):
    other = nv.encode(sdpa, "see the dog", tiny.picture(1))
    expected = nv.encode(sdpa, "what is the red square ?", tiny.picture(1))
    found = with_picture_of(question, other)
    assert tiny.gap(nv.run(sdpa, found).logits, nv.run(sdpa, expected).logits) == 0


def test_a_chunk_that_is_kept_is_not_measured_again_and_other_settings_never_meet_it(sdpa, question, tmp_path):
    calls = []

    def measure(chunk):
        calls.extend(chunk)
        return [{"image": image, "value": image / 3} for image in chunk]

    work = Work(journal=tmp_path, progress=False, chunk=2)
    prompts = [question] * 5
    first = measured("trial", sdpa, prompts, {"a": 1}, measure, work)
    assert calls == [0, 1, 2, 3, 4] and len(list(tmp_path.glob("trial-*.parquet"))) == 3
    pd.testing.assert_frame_equal(measured("trial", sdpa, prompts, {"a": 1}, measure, work), first)
    assert len(calls) == 5
    measured("trial", sdpa, prompts, {"a": 2}, measure, work)
    measured("trial", sdpa, prompts[:4], {"a": 1}, measure, work)
    measured("trial", tiny.build("sdpa", seed=1), prompts[:4], {"a": 1}, measure, work)
    assert len(calls) == 5 + 5 + 4 + 4


def test_no_prompts_and_prompts_of_several_rows_are_refused(sdpa):
    with pytest.raises(nv.SpecError, match="no prompts"):
        measured("trial", sdpa, [], {}, list, Work(progress=False))
    with pytest.raises(nv.SpecError, match=r"prompt.row\(0\)"):
        measured("trial", sdpa, [tiny.several(sdpa)], {}, list, Work(progress=False))
