"""Groups of tokens are where a person would point."""

from __future__ import annotations

import pytest
import tiny
import torch

import nnsight_vlm as nv

PICTURE = [4] * tiny.IMAGE_TOKENS
BOS, RED, SQUARE, DOG = 2, *(tiny.vocabulary()[word] for word in ("red", "square", "dog"))


def pixels(count):
    return torch.zeros(count, 3, tiny.SIDE, tiny.SIDE)


def by_hand(model, *lines, side="left"):
    """An encoding of rows written as token ids, padded."""
    width = max(map(len, lines))
    ids, mask = [], []
    for line in lines:
        padding, real = [0] * (width - len(line)), [1] * len(line)
        ids.append(padding + line if side == "left" else line + padding)
        mask.append([0] * len(padding) + real if side == "left" else real + [0] * len(padding))
    images = sum(line.count(4) for line in lines) // tiny.IMAGE_TOKENS
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return nv.encode(model, inputs=inputs | ({"pixel_values": pixels(images)} if images else {}))


def span(*pairs):
    return tuple(position for start, stop in pairs for position in range(start, stop))


def test_every_group_of_a_prompt_with_text_on_both_sides(sdpa):
    prompt = by_hand(sdpa, [BOS, RED, *PICTURE, SQUARE, DOG, RED])
    assert prompt["image"] == prompt["image.0"] == span((2, 27))
    assert prompt["system"] == (0, 1)
    assert prompt["query"] == (27, 28, 29)
    assert prompt["text"] == (0, 1, 27, 28, 29)
    assert prompt["last"] == (29,) and prompt["first"] == prompt["bos"] == (0,)
    assert prompt["generated"] == ()
    assert prompt["all"] == span((0, 30))


def test_every_group_of_a_prompt_with_two_pictures(sdpa):
    prompt = by_hand(sdpa, [BOS, *PICTURE, RED, *PICTURE, DOG])
    assert prompt["image.0"] == span((1, 26)) and prompt["image.1"] == span((27, 52))
    assert prompt["image"] == span((1, 26), (27, 52))
    assert prompt["query"] == (26, 52) and prompt["system"] == (0,)
    assert prompt["text"] == (0, 26, 52)


def test_pictures_that_touch_are_told_apart(sdpa):
    prompt = by_hand(sdpa, [*PICTURE, *PICTURE, RED])
    assert prompt["image.0"] == span((0, 25)) and prompt["image.1"] == span((25, 50))
    assert prompt["query"] == (50,)
    with pytest.raises(nv.SpecError, match="'system' is empty"):
        prompt["system"]


def test_a_prompt_without_a_picture_has_text_only(sdpa):
    prompt = by_hand(sdpa, [RED, SQUARE, DOG])
    assert prompt["text"] == prompt["all"] == (0, 1, 2) and prompt["last"] == (2,)
    for group in ("image", "system", "query", "image.0"):
        with pytest.raises(nv.SpecError, match="no image"):
            prompt[group]
    with pytest.raises(nv.SpecError, match='"first"'):
        prompt["bos"]


def test_groups_may_be_joined_with_each_other_and_with_positions(sdpa):
    prompt = by_hand(sdpa, [BOS, RED, *PICTURE, SQUARE, DOG])
    assert prompt[("system", "last")] == (0, 1, 28)
    assert prompt[["last", 5, "first"]] == (0, 5, 28)
    assert prompt[7] == (7,) and prompt[range(3, 6)] == (3, 4, 5)
    assert prompt["image", "all"] == prompt["all"]


@pytest.mark.parametrize("side, start", [("left", 2), ("right", 0)])
def test_padding_belongs_to_no_group(sdpa, side, start):
    prompt = by_hand(sdpa, [BOS, *PICTURE, RED], [BOS, *PICTURE, RED, DOG, SQUARE], side=side)
    short = prompt.rows[0]
    groups = {
        name: [p for a, b in short.ranges(name) for p in range(a, b or short.stop)]
        for name in ("all", "text", "system", "last")
    }
    assert groups["all"] == list(range(start, start + 27))
    assert groups["text"] == [start, start + 26] and groups["system"] == [start] and groups["last"] == [start + 26]
    assert len(prompt) == 2 and prompt.width == 29


def test_rows_that_differ_must_be_asked_one_by_one(sdpa):
    prompt = by_hand(sdpa, [BOS, *PICTURE, RED], [BOS, *PICTURE, RED, DOG])
    assert prompt["last"] == (27,)  # padded on the left, they end together
    with pytest.raises(nv.SpecError, match=r"prompt\.row\(0\)\['image'\]"):
        prompt["image"]
    for ask in (lambda: prompt.find("red"), prompt.image, prompt.grid, lambda: prompt.grown([1])):
        with pytest.raises(nv.SpecError, match=r"row\(0\)"):
            ask()


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_row_of_several_is_the_prompt_it_was(sdpa, side):
    prompt = tiny.several(sdpa, side)
    for number, row in enumerate(prompt.rows):
        alone = prompt.row(number)
        assert len(alone) == 1 and alone.width == row.stop - row.start
        assert alone["all"] == tuple(range(alone.width))
        assert torch.equal(
            alone.inputs["input_ids"], prompt.inputs["input_ids"][number : number + 1, row.start : row.stop]
        )
        assert alone.inputs["attention_mask"].all()
        assert len(alone.inputs["pixel_values"]) == len(row.images)
        assert alone["image"] == tuple(p - row.start for image in row.images for p in image)
    assert torch.equal(prompt.row(2).inputs["pixel_values"], prompt.inputs["pixel_values"][2:])
    for number in (3, -1):
        with pytest.raises(nv.SpecError, match="3 row"):
            prompt.row(number)


def test_a_single_padded_row_loses_its_padding(sdpa):
    inputs = {"input_ids": torch.tensor([[0, 0, BOS, RED, DOG]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}
    assert nv.encode(sdpa, inputs=inputs).row(0).width == 3


def test_stacked_prompts_are_rows_padded_on_the_left(sdpa):
    prompts = [
        nv.encode(sdpa, text, tiny.picture(n))
        for n, text in enumerate(["red ?", "what is the red square ?", "dog or bike ?"])
    ]
    stacked = nv.stack(prompts)
    assert len(stacked) == 3 and stacked.width == max(p.width for p in prompts)
    for number, prompt in enumerate(prompts):
        alone = stacked.row(number)
        assert all(torch.equal(alone.inputs[name], prompt.inputs[name]) for name in prompt.inputs)
        assert alone.rows[0] == prompt.rows[0]
        assert stacked.rows[number].stop == stacked.width


def test_prompts_with_and_without_a_picture_are_stacked(sdpa):
    prompts = [nv.encode(sdpa, "what is red ?"), nv.encode(sdpa, "red ?", tiny.picture(0))]
    for order in (prompts, prompts[::-1]):
        stacked = nv.stack(order)
        assert len(stacked.inputs["pixel_values"]) == 1
        for number, prompt in enumerate(order):
            assert torch.equal(stacked.row(number).inputs["input_ids"], prompt.inputs["input_ids"])


# words ----------------------------------------------------------------------------------------


def spelled(prompt, positions):
    return prompt.model.tokenizer.convert_ids_to_tokens([prompt.rows[0].tokens[p] for p in positions])


@pytest.mark.parametrize(
    "words, tokens",
    [
        ("red", ["red"]),
        ("red square", ["red", "square"]),
        ("footballs", ["foot", "##ball", "##s"]),
        ("the footballs", ["the", "foot", "##ball", "##s"]),
        ("see", ["see"]),
        ("?", ["?"]),
    ],
)
def test_words_are_found_by_the_tokens_that_spell_them(sdpa, words, tokens):
    prompt = nv.encode(sdpa, "see the footballs of the red square ?", tiny.picture(0))
    assert spelled(prompt, prompt.find(words, within="query", occurrence=0)) == tokens


def test_every_occurrence_is_found_or_the_one_that_is_counted(sdpa):
    prompt = nv.encode(sdpa, "red dog and red bike and red dog ?", tiny.picture(0))
    every = prompt.find("red dog")
    assert spelled(prompt, every) == ["red", "dog", "red", "dog"]
    assert prompt.find("red dog", occurrence=0) + prompt.find("red dog", occurrence=1) == every
    assert len(prompt.find("red")) == 3
    with pytest.raises(nv.SpecError, match=r"occurs 2 time"):
        prompt.find("red dog", occurrence=2)


def test_the_search_may_be_kept_to_a_group(sdpa):
    prompt = nv.encode(sdpa, "be helpful please", tiny.picture(0))
    system, query = prompt.find("be helpful", within="system"), prompt.find("be helpful", within="query")
    assert set(system) < set(prompt["system"]) and set(query) < set(prompt["query"])
    assert prompt.find("be helpful") == system + query
    assert prompt.find("user :") and set(prompt.find("user :")) < set(prompt["system"])
    with pytest.raises(nv.SpecError, match="'query'"):
        prompt.find("user :", within="query")


@pytest.mark.parametrize("words", ["green", "re", "quare", "foot", "ball", "red  square", "", " ", "red blue"])
def test_what_is_not_there_as_words_is_not_found(sdpa, words):
    prompt = nv.encode(sdpa, "see the footballs of the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match="is not in the prompt"):
        prompt.find(words)


def test_words_are_found_under_padding_too(sdpa):
    alone = nv.encode(sdpa, "the red square ?", tiny.picture(0))
    stacked = nv.stack([alone, nv.encode(sdpa, "the red square left of the big dog ?", tiny.picture(1))])
    inputs = {name: stacked.inputs[name][:1] for name in stacked.inputs}
    padded = nv.encode(sdpa, inputs=inputs)
    assert [p - padded.rows[0].start for p in padded.find("red square")] == list(alone.find("red square"))


def test_the_text_of_a_prompt_reads_as_it_was_written(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    assert " ".join(prompt.text.split()) == "<s> system : be helpful . user : what is the red square ? assistant :"


# encodings ------------------------------------------------------------------------------------


def test_a_ready_encoding_equals_the_one_that_is_made(sdpa):
    made = nv.encode(sdpa, "what is red ?", tiny.picture(0))
    ready = nv.encode(sdpa, inputs=made.inputs, images=[tiny.picture(0)])
    assert ready.rows == made.rows and ready.image().tobytes() == made.image().tobytes()
    assert torch.equal(nv.run(sdpa, ready).logits, nv.run(sdpa, made).logits)


def test_raw_text_is_taken_as_it_is(sdpa):
    prompt = nv.encode(sdpa, "<s> see <image> red ?", tiny.picture(0), chat=False)
    assert spelled(prompt, prompt["text"]) == ["<s>", "see", "red", "?"]
    assert prompt["bos"] == (0,)


def test_pictures_come_back_as_they_were_given(sdpa):
    given = [tiny.picture(0, (31, 17)), tiny.picture(1, (9, 40))]
    prompt = nv.encode(sdpa, "left or right ?", given)
    assert [prompt.image(number) for number in range(2)] == given
    assert prompt.image() is given[0]


def test_padding_that_is_not_in_one_piece_is_refused(sdpa):
    for mask in ([1, 0, 1], [0, 0, 0]):
        with pytest.raises(nv.SpecError, match="in one piece"):
            nv.encode(
                sdpa, inputs={"input_ids": torch.tensor([[RED, DOG, RED]]), "attention_mask": torch.tensor([mask])}
            )
