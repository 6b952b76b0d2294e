"""Windows, matched controls, and work that is kept."""

from __future__ import annotations

import dataclasses
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
import torch
from pyarrow import parquet as pq

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work
from nnsight_vlm.studies.controls import matched_positions, other_image, rng_of, with_picture_of
from nnsight_vlm.studies.journal import Journal, measured
from nnsight_vlm.studies.layer_sets import centred_windows, equal_windows, middle_half, other_layers, spell_layers
from nnsight_vlm.studies.windows import nested_draws


@pytest.mark.parametrize(("layers", "count"), [(10, 4), (32, 4), (4, 4), (7, 3), (28, 5), (3, 1), (11, 10)])
def test_windows_part_the_layers_and_differ_by_one_layer_at_most(layers, count):
    for numbers in (tuple(range(layers)), tuple(range(2, 5 * layers, 5))):
        found = equal_windows(numbers, count)
        assert [layer for window in found for layer in window] == list(numbers)
        sizes = [len(window) for window in found]
        assert len(sizes) == count and max(sizes) - min(sizes) <= 1
    assert equal_windows(layers, count) == equal_windows(tuple(range(layers)), count)
    assert equal_windows(layers, 0) == ()


@pytest.mark.parametrize("width", range(1, 11))
def test_centred_windows_are_those_of_the_papers_released_code(width):
    numbers = (0, 1, 3, 4, 5, 8, 9, 10, 11, 20)
    expected = [
        (layer, tuple(numbers[max(0, at - width // 2) : min(len(numbers), at - (-width // 2))]))
        for at, layer in enumerate(numbers)
    ]
    found = centred_windows(numbers, width)
    assert list(found) == expected
    assert all(centre in layers for centre, layers in found)
    assert len({layers for _, layers in found}) == len(numbers)  # clipped, but never the same layers twice
    assert centred_windows(numbers, width, stride=4) == found[::4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equal_windows((3, 8), 3), r"windows=3 does not fit 2 layer\(s\) \(3,8\); write a number from 0 to 2"),
        (lambda: centred_windows(4, 5), r"width=5 does not fit 4 layer\(s\) \(0-3\); write a number from 1 to 4"),
        (lambda: centred_windows(4, 2, 5), r"stride=5 does not fit 4 layer\(s\)"),
    ],
)
def test_windows_that_the_layers_do_not_have_are_refused(call, message):
    with pytest.raises(nv.SpecError, match=message):
        call()


def test_random_layers_of_a_smaller_window_are_part_of_those_of_a_larger_one():
    draws = nested_draws((2, 5, 7, 9, 12), [2, 3, 5, 4, 3], rng_of(0, 1))
    assert sorted(draws) == [2, 3, 4]  # all five layers would be no control
    assert all(len(drawn) == size and list(drawn) == sorted(set(drawn)) for size, drawn in draws.items())
    assert set(draws[2]) < set(draws[3]) < set(draws[4]) < {2, 5, 7, 9, 12}
    firsts = [nested_draws(tuple(range(8)), [1], rng_of(0, image))[1][0] for image in range(200)]
    assert set(firsts) == set(range(8))


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


def test_another_image_is_never_the_image_itself(sdpa):
    prompts = [nv.encode(sdpa, "see the dog", tiny.picture(number)) for number in range(6)]
    for count in range(2, 7):
        drawn = [other_image(prompts[:count], image, seed) for image in range(count) for seed in range(5)]
        assert all(other != place // 5 for place, other in enumerate(drawn)) and set(drawn) <= set(range(count))
    assert other_image(prompts[:1], 0, 0) is None


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
    for recipe in (nv.recipes.knockout_windows, nv.recipes.attention_share, nv.recipes.prompt_ablation):
        with pytest.raises(nv.SpecError, match="prompts"):
            recipe(sdpa, [], work=Work(progress=False))
        with pytest.raises(nv.SpecError, match=r"prompt\.row"):
            recipe(sdpa, [tiny.several(sdpa)], work=Work(progress=False))


# parts ------------------------------------------------------------------------------------------


class Trial:
    """A recipe whose rows depend on the image alone, and that notes which images it measures."""

    def __init__(self, model, prompts, folder):
        self.model, self.prompts, self.folder, self.calls = model, prompts, folder, []

    def measure(self, chunk):
        self.calls.extend(chunk)
        for image in chunk:
            label = {"word": None if image % 3 else f"word {image}", "control": "none", "known": image % 2 == 0}
            yield {"image": image, **label, "value": image / 3, "nothing": None, "missing": float("nan")}
            yield {"image": image, **label, "value": -image / 7, "nothing": None, "missing": float("nan")}

    def run(self, name="trial", **settings):
        self.calls.clear()
        work = Work(journal=self.folder, progress=False, chunk=2)
        return measured(name, self.model, self.prompts, settings, self.measure, work)

    def parts(self, name="trial"):
        return sorted(self.folder.glob(f"{name}-*.parquet"))


@pytest.fixture
def trial(sdpa, question, tmp_path):
    return Trial(sdpa, [question] * 6, tmp_path)


def truncate(trial):
    path = trial.parts()[1]
    path.write_bytes(path.read_bytes()[:-200])


def empty(trial):
    trial.parts()[1].write_bytes(b"")


def flip_in_rows(trial):
    """The last byte of the column of numbers."""
    path = trial.parts()[1]
    columns = pq.ParquetFile(path).metadata.row_group(0)
    column = next(c for c in map(columns.column, range(columns.num_columns)) if c.path_in_schema == "value")
    first = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[first + column.total_compressed_size - 1] ^= 1
    path.write_bytes(bytes(content))


def another_number_with_what_it_says(trial):
    table = pq.read_table(trial.parts()[1])
    place = table.column_names.index("value")
    numbers = table["value"].to_pylist()
    numbers[1] = np.nextafter(numbers[1], 1)
    pq.write_table(table.set_column(place, table.schema.field("value"), pa.array(numbers)), trial.parts()[1])


def flip_at_the_end(trial):
    path = trial.parts()[1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(bytes(content))


def foreign_recipe(trial):
    trial.run("other")
    shutil.copy(trial.parts("other")[1], trial.parts()[1])


def foreign_settings(trial):
    mine = trial.parts()
    trial.run(top=5)
    theirs = sorted(set(trial.parts()) - set(mine))
    shutil.copy(theirs[1], mine[1])


def foreign_file(trial):
    pd.DataFrame({"image": [2, 3], "value": [0.0, 1.0]}).to_parquet(trial.parts()[1])


def doubled(trial):
    first, second, _ = trial.parts()
    pd.concat([pd.read_parquet(first), pd.read_parquet(second)]).to_parquet(second)


def doubled_with_what_it_says(trial):
    first, second, _ = (pq.read_table(path) for path in trial.parts())
    both = pa.concat_tables([first, second]).replace_schema_metadata(second.schema.metadata)
    pq.write_table(both, trial.parts()[1])


def row_left_out_with_what_it_says(trial):
    pq.write_table(pq.read_table(trial.parts()[1]).slice(1), trial.parts()[1])


def renamed_column_with_what_it_says(trial):
    table = pq.read_table(trial.parts()[1])
    pq.write_table(
        table.rename_columns(["value" if n == "missing" else n + "s" for n in table.column_names]), trial.parts()[1]
    )


BROKEN = {
    truncate: "",
    empty: "",
    flip_in_rows: "",
    flip_at_the_end: "",
    another_number_with_what_it_says: "its rows are not those that were written",
    foreign_recipe: "it says recipe other where trial belongs",
    foreign_settings: "it says digest .* belongs",
    foreign_file: "it says recipe None where trial belongs",
    doubled: "it says recipe None where trial belongs|its rows are not those",
    doubled_with_what_it_says: "its rows are not those that were written",
    row_left_out_with_what_it_says: "its rows are not those that were written",
    renamed_column_with_what_it_says: "",
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_broken_part_is_measured_again_with_a_warning_and_the_frame_is_the_undisturbed_one(trial, break_it):
    undisturbed = trial.run()
    assert trial.calls == [0, 1, 2, 3, 4, 5]
    pd.testing.assert_frame_equal(trial.run(), undisturbed)
    assert not trial.calls
    whole = [path.read_bytes() for path in trial.parts()]
    path = trial.parts()[1]
    break_it(trial)
    with pytest.warns(
        UserWarning, match=rf"{path.name} cannot be used \(.*{BROKEN[break_it]}.*images 2 to 3 are measured again"
    ):
        again = trial.run()
    assert trial.calls == [2, 3]
    pd.testing.assert_frame_equal(again, undisturbed)
    assert path.read_bytes() == whole[1]
    pd.testing.assert_frame_equal(trial.run(), undisturbed)
    assert not trial.calls


def test_parts_whose_names_were_exchanged_are_measured_again(trial):
    undisturbed = trial.run()
    first, second, _ = trial.parts()
    content = first.read_bytes(), second.read_bytes()
    second.write_bytes(content[0])
    first.write_bytes(content[1])
    with pytest.warns(UserWarning) as warned:
        again = trial.run()
    assert trial.calls == [0, 1, 2, 3]
    assert [re.search(r"it says .* belongs", str(each.message)).group() for each in warned] == [
        "it says images [2, 4] where [0, 2] belongs",
        "it says images [0, 2] where [2, 4] belongs",
    ]
    pd.testing.assert_frame_equal(again, undisturbed)


def test_no_flipped_bit_of_a_part_is_believed_or_raises(trial):
    """Every 7th byte; a flip that changes no row may pass, any other is found."""
    trial.run()
    path = trial.parts()[1]
    content, found = path.read_bytes(), 0
    journal = Journal.open(trial.folder, "trial", trial.model, trial.prompts, {})
    rows = journal.rows(range(2, 4), trial.measure)
    assert journal.part(range(2, 4)) == path and trial.calls == [0, 1, 2, 3, 4, 5]
    for at in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(bytes(flipped))
        trial.calls.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pd.testing.assert_frame_equal(journal.rows(range(2, 4), trial.measure), rows)
        assert bool(trial.calls) == any("measured again" in str(each.message) for each in caught)
        found += bool(trial.calls)
    assert found > len(content) / 7 / 3


def test_a_part_is_a_parquet_file_of_its_rows(trial):
    frame = trial.run()
    read = pd.concat([pd.read_parquet(path) for path in trial.parts()], ignore_index=True)
    pd.testing.assert_frame_equal(read, frame)


def test_an_interrupted_recipe_gives_the_frame_of_one_that_was_not_and_of_one_without_a_journal(trial):
    plain = measured("trial", trial.model, trial.prompts, {}, trial.measure, Work(progress=False, chunk=2))
    stock, trial.measure = trial.measure, lambda chunk: stop() if 4 in chunk else stock(chunk)
    with pytest.raises(KeyboardInterrupt):
        trial.run()
    assert len(trial.parts()) == 2 and not list(trial.folder.glob(".*"))
    trial.measure = stock
    pd.testing.assert_frame_equal(trial.run(), plain)
    assert trial.calls == [4, 5]


def test_a_journal_of_one_place_is_not_read_at_another(sdpa, question, tmp_path, monkeypatch):
    calls = []

    def measure(chunk):
        calls.extend(chunk)
        return [{"image": image, "value": len(calls)} for image in chunk]

    def run(remote):
        calls.clear()
        work = Work(journal=tmp_path, progress=False)
        measured("trial", sdpa, [question], {}, measure, work, remote)
        return len(calls)

    places = [False, "local", True, "http://one:8001", "http://two:8001"]
    assert [run(remote) for remote in places] == [1] * 5
    assert [run(remote) for remote in places] == [0] * 5
    assert run("http://one:8001/") == 0
    monkeypatch.setattr("nnsight.CONFIG.API.HOST", "http://one:8001")
    assert run(True) == 0
    monkeypatch.setattr("nnsight.CONFIG.API.HOST", "http://three:8001")
    assert run(True) == 1


def test_the_other_prompt_of_a_pair_is_part_of_a_journal(tmp_path):
    model = tiny.build("sdpa")
    own, other = (nv.encode(model, "what is the red square ?", tiny.picture(seed)) for seed in range(2))
    pixels = other.inputs["pixel_values"]
    others = [
        other,
        nv.encode(model, inputs={**other.inputs, "pixel_values": 2 * pixels}, images=tiny.picture(1)),
        dataclasses.replace(other, images=()),
    ]
    options = {"groups": ["last"], "layers": [1], "work": Work(journal=tmp_path, progress=False)}
    for number, changed in enumerate(others, 1):
        nv.recipes.query_patching(model, [(own, changed, 20, 21)], **options)
        assert len(list(tmp_path.glob("*.parquet"))) == number


def stop():
    raise KeyboardInterrupt


def test_chunks_without_rows_are_kept_too(sdpa, question, tmp_path):
    calls = []

    def measure(chunk):
        calls.extend(chunk)
        return [{"image": image, "value": 1.0} for image in chunk if image > 1]

    work = Work(journal=tmp_path, progress=False, chunk=2)
    first = measured("trial", sdpa, [question] * 4, {}, measure, work)
    pd.testing.assert_frame_equal(measured("trial", sdpa, [question] * 4, {}, measure, work), first)
    assert len(first) == 2 and len(calls) == 4


@pytest.mark.parametrize("change", ["weight row", "hook", "edit"])
def test_a_journal_never_hands_back_the_rows_of_a_model_that_was_changed(change, tmp_path):
    model = tiny.build("sdpa")
    asked = nv.encode(model, "what is the red square ?", tiny.picture(0))
    options = {"answers": [20], "windows": 2, "per_image": True, "work": Work(journal=tmp_path, progress=False)}
    before = nv.recipes.knockout_windows(model, [asked], **options)
    if change == "weight row":
        with torch.no_grad():
            model._module.lm_head.weight[20] += 0.5
        after = nv.recipes.knockout_windows(model, [asked], **options)
        assert not after["logprob_change"].equals(before["logprob_change"])
        return
    if change == "hook":
        model._module.lm_head.register_forward_hook(lambda *given: given[-1] * 2)
    else:
        model = nv.install(model, asked, nv.Knockout("image", "query", layers=1))
    with pytest.raises(nv.SpecError, match="a journal cannot tell"):
        nv.recipes.knockout_windows(model, [asked], **options)


def test_prompts_of_another_model_are_refused_also_where_their_rows_are_kept(sdpa, trial):
    trial.run()
    trial.prompts = [nv.encode(tiny.load("sdpa", "qwen2"), "what is the red square ?", tiny.picture(0))] * 6
    with pytest.raises(nv.SpecError, match="encoded for another model"):
        trial.run()
