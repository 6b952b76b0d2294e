"""Prompts: token groups, rows and batches, finding words, and encodings that were built elsewhere."""

from __future__ import annotations

import pytest
import tiny
import torch

import nnsight_vlm as nv

PICTURE = [4] * tiny.IMAGE_TOKENS
BOS, RED, SQUARE, DOG = 2, *(tiny.vocabulary()[word] for word in ("red", "square", "dog"))


def pixels(count):
    return torch.zeros(count, 3, tiny.SIDE, tiny.SIDE)


def prompt_of(model, *rows, side="left"):
    """A prompt whose rows are given as token ids, padded on one side."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        padding, real = [0] * (width - len(row)), [1] * len(row)
        ids.append(padding + row if side == "left" else row + padding)
        mask.append([0] * len(padding) + real if side == "left" else real + [0] * len(padding))
    images = sum(row.count(4) for row in rows) // tiny.IMAGE_TOKENS
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return nv.encode(model, inputs=inputs | ({"pixel_values": pixels(images)} if images else {}))


def span(*pairs):
    """The positions in several ranges `(start, stop)`."""
    return tuple(position for start, stop in pairs for position in range(start, stop))


def test_every_group_of_a_prompt_with_text_on_both_sides(sdpa):
    prompt = prompt_of(sdpa, [BOS, RED, *PICTURE, SQUARE, DOG, RED])
    assert prompt["image"] == prompt["image.0"] == span((2, 27))
    assert prompt["system"] == (0, 1)
    assert prompt["query"] == (27, 28, 29)
    assert prompt["text"] == (0, 1, 27, 28, 29)
    assert prompt["last"] == (29,) and prompt["first"] == prompt["bos"] == (0,)
    assert prompt["generated"] == ()
    assert prompt["all"] == span((0, 30))


def test_every_group_of_a_prompt_with_two_pictures(sdpa):
    prompt = prompt_of(sdpa, [BOS, *PICTURE, RED, *PICTURE, DOG])
    assert prompt["image.0"] == span((1, 26)) and prompt["image.1"] == span((27, 52))
    assert prompt["image"] == span((1, 26), (27, 52))
    assert prompt["query"] == (26, 52) and prompt["system"] == (0,)
    assert prompt["text"] == (0, 26, 52)


def test_images_without_text_between_them_are_told_apart(sdpa):
    prompt = prompt_of(sdpa, [*PICTURE, *PICTURE, RED])
    assert prompt["image.0"] == span((0, 25)) and prompt["image.1"] == span((25, 50))
    assert prompt["query"] == prompt["last"] == (50,)
    assert prompt["system"] == prompt["question"] == ()


def test_a_prompt_without_a_picture_has_text_only(sdpa):
    prompt = prompt_of(sdpa, [RED, SQUARE, DOG])
    assert prompt["text"] == prompt["all"] == (0, 1, 2) and prompt["last"] == (2,)
    assert prompt["query"] == (0, 1, 2) and prompt["question"] == (0, 1)
    assert prompt["image"] == prompt["system"] == prompt["markup"] == prompt["bos"] == ()
    with pytest.raises(nv.SpecError, match=r"0 image\(s\)"):
        prompt["image.0"]


def test_groups_and_positions_can_be_combined(sdpa):
    prompt = prompt_of(sdpa, [BOS, RED, *PICTURE, SQUARE, DOG])
    assert prompt[("system", "last")] == (0, 1, 28)
    assert prompt[["last", 5, "first"]] == (0, 5, 28)
    assert prompt[7] == (7,) and prompt[range(3, 6)] == (3, 4, 5)
    assert prompt["image", "all"] == prompt["all"]


@pytest.mark.parametrize("side, start", [("left", 2), ("right", 0)])
def test_padding_belongs_to_no_group(sdpa, side, start):
    prompt = prompt_of(sdpa, [BOS, *PICTURE, RED], [BOS, *PICTURE, RED, DOG, SQUARE], side=side)
    short = prompt.rows[0]
    groups = {
        name: [p for a, b in short.ranges(name) for p in range(a, b or short.stop)]
        for name in ("all", "text", "system", "last")
    }
    assert groups["all"] == list(range(start, start + 27))
    assert groups["text"] == [start, start + 26] and groups["system"] == [start] and groups["last"] == [start + 26]
    assert len(prompt) == 2 and prompt.width == 29


def test_a_group_whose_positions_differ_between_rows_is_refused_with_what_to_write(sdpa):
    prompt = prompt_of(sdpa, [BOS, *PICTURE, RED], [BOS, *PICTURE, RED, DOG])
    assert prompt["last"] == (27,)  # padded on the left, they end together
    with pytest.raises(nv.SpecError, match=r"prompt\.row\(0\)\['image'\]"):
        prompt["image"]
    for ask in (lambda: prompt.find("red"), prompt.image, prompt.grid, lambda: prompt.grown([1])):
        with pytest.raises(nv.SpecError, match=r"row\(0\)"):
            ask()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_batch_has_its_own_tokens_and_pictures_and_no_padding(sdpa, side):
    prompt = tiny.several(sdpa, side)
    for number, tokens in enumerate(prompt.rows):
        alone = prompt.row(number)
        assert type(alone) is nv.Prompt and len(alone) == 1 and alone.width == tokens.stop - tokens.start
        assert alone["all"] == tuple(range(alone.width))
        assert torch.equal(
            alone.inputs["input_ids"], prompt.inputs["input_ids"][number : number + 1, tokens.start : tokens.stop]
        )
        assert alone.inputs["attention_mask"].all()
        assert len(alone.inputs["pixel_values"]) == len(tokens.images)
        assert alone["image"] == tuple(p - tokens.start for image in tokens.images for p in image)
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
    assert type(stacked) is nv.PromptBatch and len(stacked) == 3 and stacked.width == max(p.width for p in prompts)
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


def test_what_encode_gives_follows_from_the_number_of_rows(sdpa):
    assert type(nv.encode(sdpa, "red ?")) is nv.Prompt
    assert type(nv.encode(sdpa, ["red ?", "dog ?"])) is nv.PromptBatch
    assert type(nv.encode(sdpa, ["red ?"])) is nv.Prompt
    assert type(prompt_of(sdpa, [RED])) is nv.Prompt
    assert type(prompt_of(sdpa, [RED], [DOG])) is nv.PromptBatch
    assert type(nv.stack([nv.encode(sdpa, "red ?")])) is nv.Prompt


def test_stacking_nothing_or_a_batch_is_refused(sdpa):
    with pytest.raises(nv.SpecError, match="no prompts to stack"):
        nv.stack([])
    with pytest.raises(nv.SpecError, match=r"prompt\.row\(0\)"):
        nv.stack([prompt_of(sdpa, [RED], [DOG])])


# words ----------------------------------------------------------------------------------------


def tokens_at(prompt, positions):
    """The tokens at some positions as the tokenizer's vocabulary has them."""
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
    assert tokens_at(prompt, prompt.find(words, within="query", occurrence=0)) == tokens


def test_every_occurrence_is_found_or_the_one_that_is_counted(sdpa):
    prompt = nv.encode(sdpa, "red dog and red bike and red dog ?", tiny.picture(0))
    both = prompt.find("red dog")
    assert tokens_at(prompt, both) == ["red", "dog", "red", "dog"]
    assert prompt.find("red dog", occurrence=0) + prompt.find("red dog", occurrence=1) == both
    assert len(prompt.find("red")) == 3
    with pytest.raises(nv.SpecError, match=r"occurs 2 time"):
        prompt.find("red dog", occurrence=2)


def test_the_search_can_be_limited_to_a_group(sdpa):
    prompt = nv.encode(sdpa, "be helpful please", tiny.picture(0))
    system, query = prompt.find("be helpful", within="system"), prompt.find("be helpful", within="query")
    assert set(system) < set(prompt["system"]) and set(query) < set(prompt["query"])
    assert prompt.find("be helpful") == system + query
    assert prompt.find("user :") and set(prompt.find("user :")) < set(prompt["system"])
    with pytest.raises(nv.SpecError, match="'query'"):
        prompt.find("user :", within="query")


@pytest.mark.parametrize("words", ["green", "re", "quare", "foot", "ball", "red  square", "", " ", "red blue"])
def test_parts_of_words_and_words_that_are_not_there_are_not_found(sdpa, words):
    prompt = nv.encode(sdpa, "see the footballs of the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match="is not in the prompt"):
        prompt.find(words)


def test_words_are_found_in_padded_rows(sdpa):
    alone = nv.encode(sdpa, "the red square ?", tiny.picture(0))
    stacked = nv.stack([alone, nv.encode(sdpa, "the red square left of the big dog ?", tiny.picture(1))])
    inputs = {name: stacked.inputs[name][:1] for name in stacked.inputs}
    padded = nv.encode(sdpa, inputs=inputs)
    assert [p - padded.rows[0].start for p in padded.find("red square")] == list(alone.find("red square"))


def test_the_text_of_a_prompt_has_the_question_in_the_chat_template(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    assert " ".join(prompt.text.split()) == "<s> system : be helpful . user : what is the red square ? assistant :"


# encodings ------------------------------------------------------------------------------------


def test_a_prompt_from_a_ready_encoding_equals_the_one_that_encode_makes(sdpa):
    made = nv.encode(sdpa, "what is red ?", tiny.picture(0))
    ready = nv.encode(sdpa, inputs=made.inputs, images=[tiny.picture(0)])
    assert ready.rows == made.rows and ready.image().tobytes() == made.image().tobytes()
    assert torch.equal(nv.run(sdpa, ready).logits, nv.run(sdpa, made).logits)


def test_complete_text_is_not_put_into_the_chat_template(sdpa):
    prompt = nv.encode(sdpa, "<s> see <image> red ?", tiny.picture(0), chat=False)
    assert tokens_at(prompt, prompt["text"]) == ["<s>", "see", "red", "?"]
    assert prompt["bos"] == (0,)


def test_pictures_come_back_as_they_were_given(sdpa):
    pictures = [tiny.picture(0, (31, 17)), tiny.picture(1, (9, 40))]
    prompt = nv.encode(sdpa, "left or right ?", pictures)
    assert [prompt.image(number) for number in range(2)] == pictures
    assert prompt.image() is pictures[0]


def test_padding_that_is_not_in_one_piece_is_refused(sdpa):
    for mask in ([1, 0, 1], [0, 0, 0]):
        with pytest.raises(nv.SpecError, match="in one piece"):
            nv.encode(
                sdpa, inputs={"input_ids": torch.tensor([[RED, DOG, RED]]), "attention_mask": torch.tensor([mask])}
            )
