"""Words of a prompt: found in any script, with the tokens that spell them, in time linear in the prompt."""

from __future__ import annotations

import pytest
import tiny
import torch
import zoo
from transformers.convert_slow_tokenizer import bytes_to_unicode
from vocabularies import KINDS, MARKERS, TEXTS, byte_level, prompt_of, sentencepiece, word_piece
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Thing, content_words, vocabulary
from nnsight_vlm.studies.object_words import find_object_words, first_mention

ENGLISH, CHINESE, JAPANESE, KOREAN, THAI = TEXTS
SPELLED = {  # a text, words, and which of the places where these letters stand are words of their own
    "english": (ENGLISH, "dog", (0, 1)),
    "phrase": (ENGLISH, "red square", (0,)),
    "chinese": (CHINESE, "狗", (0,)),
    "chinese in a longer word": (CHINESE, "红色", (0,)),
    "chinese twice": (CHINESE, "色", (0, 1)),
    "japanese": (JAPANESE, "犬", (0,)),
    "katakana in a compound": (JAPANESE, "ドッグ", (0,)),
    "korean before particles": (KOREAN, "고양이", (0, 1)),
    "korean before the copula": (KOREAN, "색", (0,)),
    "thai": (THAI, "สีดำ", (0,)),
    "hindi": ("कुत्ता और बिल्ली", "बिल्ली", (0,)),
    "arabic": ("أين الكلب الأحمر", "الكلب", (0,)),
    "russian": ("где красный круг и круги", "круг", (0,)),
    "german": ("eine Tür, Türen, die Haustür und die Tür", "Tür", (0, 2)),
    "pictograph": ("a 🐶 sees 👩‍👩‍👧", "🐶", (0,)),
    "beside another script": ("3只狗 3D 33", "3", (0,)),
    "latin before korean": ("AI가 그린 AIR", "AI", (0,)),
}


def by_offsets(tokenizer, text, letters):
    """The tokens of some letters of a text, by the offsets that the tokenizer itself has for it.

    The space that SentencePiece puts before a text has the offset of the first letter, which it holds no part of.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    spans = enumerate(zip(names, encoded["offset_mapping"], strict=True))
    return tuple(n for n, (name, (start, stop)) in spans if name != "▁" and letters.intersection(range(start, stop)))


def places_of(words, text):
    """Where some letters stand in a text, as sets of the places of letters."""
    starts = [place for place in range(len(text)) if text.startswith(words, place)]
    return [{start + number for number, letter in enumerate(words) if letter != " "} for start in starts]


def texts(words):
    return [word.text for word in words]


# any script -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece])
@pytest.mark.parametrize("case", SPELLED)
def test_words_of_every_script_have_the_tokens_that_hold_any_part_of_them(case, tokenizer):
    text, words, kept = SPELLED[case]
    expected = [by_offsets(tokenizer(), text, places_of(words, text)[number]) for number in kept]
    prompt = prompt_of(tokenizer(), text)
    assert prompt.text == text
    assert [match.positions for match in prompt.find_all(words)] == expected
    assert prompt.find(words) == tuple(sorted(set().union(*expected)))
    assert all(text[match.start : match.stop] == match.text == words for match in prompt.find_all(words))


def test_a_token_that_holds_parts_of_two_characters_belongs_to_both():
    prompt = prompt_of(byte_level(), CHINESE)
    names = byte_level().convert_ids_to_tokens(prompt.rows[0].tokens[:3])
    bytes_of = {name: byte for byte, name in bytes_to_unicode().items()}
    assert [bytes(map(bytes_of.get, name)).hex() for name in names] == ["e59b", "bee4", "b8ad"]
    assert "图中".encode().hex() == "e59bbe" + "e4b8ad"
    assert prompt.find("图") == (0, 1) and prompt.find("中") == (1, 2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("die Haustür", "Tür"),
        ("die Haustür", "tür"),
        ("doghouse", "dog"),
        ("나무 밑에서", "나"),  # a tree, not I
        ("사과 하나", "사"),  # 과 follows consonants only
        ("차이가 크다", "차"),  # 이 too
        ("바다가 보인다", "바"),
        ("고양이는", "양이"),  # a noun begins where a word does
        ("काला", "क"),  # half a syllable
        ("แมวสี", "ส"),
        ("👩‍👩‍👧", "👩"),
        ("3D", "3"),
        ("круги", "круг"),
    ],
)
def test_parts_of_words_and_of_characters_are_no_words(text, words):
    for tokenizer in (byte_level(), sentencepiece()):
        prompt = prompt_of(tokenizer, text)
        assert prompt.find_all(words) == []
        with pytest.raises(nv.SpecError, match="is not in the prompt"):
            prompt.find(words)


@pytest.mark.parametrize(
    "rest", ["", "가", "를", "는", "의", "에게", "에게만은", "들을", "입니다", "이다", "예요", "와", "로"]
)
def test_a_korean_noun_is_found_before_its_particles(rest):
    prompt = prompt_of(byte_level(), f"큰 고양이{rest} 봅니다")
    assert prompt.find("고양이") == prompt.find_all("고양이", whole_words=False)[0].positions != ()
    assert len(prompt.find_all("고양이" + rest)) == 1


@pytest.mark.parametrize(
    "noun, rest", [("공", "은"), ("공", "이"), ("공", "으로"), ("물", "로"), ("컵", "과"), ("개", "와")]
)
def test_which_particle_follows_is_told_by_the_last_sound(noun, rest):
    swapped = {"은": "는", "이": "가", "으로": "로", "로": "으로", "과": "와", "와": "과"}[rest]
    assert prompt_of(byte_level(), noun + rest).find_all(noun)
    assert not prompt_of(byte_level(), noun + swapped).find_all(noun)


def test_a_part_of_a_compound_is_found_when_it_is_asked_for():
    prompt = prompt_of(byte_level(), "die Haustür und die Tür")
    assert texts(prompt.find_all("tür", whole_words=False)) == ["tür"]
    assert texts(prompt.find_all("Tür", whole_words=False, ignore_case=True)) == ["tür", "Tür"]
    assert prompt.find("Haus", whole_words=False) == by_offsets(byte_level(), prompt.text, set(range(4, 8)))


@pytest.mark.parametrize(
    "words, hint",
    [
        ("tür", "there is 'Haustür', which is found in parts with whole_words=False"),
        ("haustür", "there is 'Haustür', which ignore_case=True finds"),
        ("image", "there is the token '<fake_token_around_image>', which is found by its whole text only"),
        ("Hund", "which reads 'die Haustür <fake_token_around_image>'"),
        (" ", "there are no words to find"),
    ],
)
def test_what_is_not_found_is_refused_with_what_to_write(words, hint):
    prompt = prompt_of(byte_level(), "die Haustür <fake_token_around_image>")
    with pytest.raises(nv.SpecError) as refused:
        prompt.find(words)
    assert str(refused.value) == f"{words!r} is not in the prompt ('all'), {hint}"


def test_words_that_are_no_text_are_refused():
    for words in (5, None, ["dog"]):
        with pytest.raises(nv.SpecError, match="words must be text"):
            prompt_of(byte_level(), ENGLISH).find(words)


def test_repeated_words_are_listed_in_order_and_counted():
    prompt = prompt_of(byte_level(), "dog dog. 哈哈哈 dog")
    assert [word.start for word in prompt.find_all("dog")] == [0, 4, 13]
    assert prompt.find("dog") == tuple(p for number in range(3) for p in prompt.find("dog", occurrence=number))
    assert [word.start for word in prompt.find_all("哈哈")] == [9, 10]
    assert prompt.find_all("cat") == []


# markers ----------------------------------------------------------------------------------------------

MARKED = "<s><|im_start|>user\nan image<fake_token_around_image>image<|im_end|><think>s think</think>"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_inside_special_tokens(kind):
    tokenizer = KINDS[kind]()
    prompt = prompt_of(tokenizer, MARKED)
    names = tokenizer.convert_ids_to_tokens(prompt.rows[0].tokens)
    markers = {place for place, name in enumerate(names) if name in {*MARKERS, "<think>"} - {"<unk>"}}
    assert len(markers) == 5
    assert [word.text for word in prompt.words()].count("think") == 2
    assert not any(markers.intersection(word.positions) for word in prompt.words())
    for words, times in {"image": 2, "think": 2, "s": 1, "im": 0, "token": 0, "start": 0}.items():
        found = prompt.find_all(words)
        assert len(found) == times and not any(markers.intersection(word.positions) for word in found)


@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece])
def test_a_special_token_is_found_by_its_whole_text_and_words_beside_it_are_whole(tokenizer):
    prompt = prompt_of(tokenizer(), MARKED)
    place = {name: number for number, name in enumerate(tokenizer().convert_ids_to_tokens(prompt.rows[0].tokens))}
    for name in ("<s>", "<|im_start|>", "<fake_token_around_image>", "<|im_end|>", "<think>"):
        assert prompt.find(name) == (place[name],)
    assert prompt.find("<fake_token_around_image>image")[0] == place["<fake_token_around_image>"]
    assert prompt.find_all("<fake_token") == prompt.find_all("around_image>", whole_words=False) == []
    assert [word.text for word in prompt.words()][:4] == ["user", "an", "image", "image"]


def test_a_special_token_that_looks_like_a_word_is_none():
    ids = [byte_level().convert_tokens_to_ids(name) for name in ("re", "d", "END", "dog")]
    assert byte_level().all_special_ids.count(ids[2]) == 1
    prompt = prompt_of(byte_level(), [*ids[:3], *byte_level().encode("dog")])
    assert prompt.text == "redENDdog" and texts(prompt.words()) == ["red", "dog"]
    assert prompt.find("red") == (0, 1) and prompt.find("END") == (2,) and prompt.find_all("EN") == []
    assert len(prompt.find_all("dog")) == 1


# what a tokenizer changes -----------------------------------------------------------------------------


def test_words_are_found_as_they_were_before_the_tokenizer_changed_them():
    prompt = prompt_of(word_piece(), "What is the Dog near a café? 红色 \uff24\uff2f\uff27")
    assert prompt.text == "what is the dog near a cafe ? 红 色 dog"
    assert prompt.find("Dog") == prompt.find("dog") == (3, 13)
    assert prompt.find("café?") == (6, 7, 8, 9, 10)  # c ##a ##f ##e ?
    assert prompt.find("红色") == (11, 12) and prompt.find("\uff24og") == (3, 13)


def test_letters_without_a_token_are_not_found_in_others():
    prompt = prompt_of(word_piece(), "the 猫 dog")
    assert prompt.text == "the <unk> dog"
    for words in ("猫", "兔", "dog 兔"):
        assert prompt.find_all(words) == []
    assert prompt.find("<unk>") == (1,)


def test_equal_letters_match_however_their_accents_are_encoded():
    composed, apart = "caf\u00e9", "cafe\u0301"
    prompt = prompt_of(sentencepiece(), f"a {apart} and a {composed}")
    assert len(prompt.rows[0].tokens) > len(prompt.text) - 10 and apart in prompt.text
    assert texts(prompt.find_all(composed)) == texts(prompt.find_all(apart)) == [apart, composed]
    assert prompt.find_all("cafe") == []
    jamo = prompt_of(sentencepiece(), "\u1100\u1162\u1102\u1173\u11ab")  # 개는 in single letters
    assert texts(jamo.find_all("개")) == ["\u1100\u1162"]


# groups -----------------------------------------------------------------------------------------------


def test_a_word_that_lies_in_two_groups_is_in_neither():
    ids = [byte_level().convert_tokens_to_ids(name) for name in ("Ġdog", "Ġ", "what", "Ġ", "re", "d", "Ġdog")]
    prompt = prompt_of(byte_level(), ids, answer=5)
    assert prompt.text == " dog what red dog"
    assert prompt["generated"] == (5, 6)
    assert prompt.find("red") == (4, 5)
    assert prompt.find_all("red", within="generated") == prompt.find_all("red", within="query") == []
    assert prompt.find("dog", within="generated", occurrence=0) == (6,) and prompt.find("dog", within="query") == (0,)
    assert prompt.find("dog", within=[0, 1]) == (0,) and prompt.find_all("dog", within=[]) == []
    assert texts(prompt.words("generated")) == ["dog"] and texts(prompt.words("query")) == ["dog", "what"]
    with pytest.raises(nv.SpecError, match=r"'red' is not in the prompt \('generated'\), it is elsewhere, at \(4, 5\)"):
        prompt.find("red", within="generated")
    with pytest.raises(nv.SpecError, match="no token group 'sky'"):
        prompt.find_all("red", within="sky")


def test_an_image_divides_words_and_is_none_itself():
    ids = [byte_level().convert_tokens_to_ids(name) for name in ("re", "d", "<s>", "<s>", "re", "d")]
    prompt = prompt_of(byte_level(), ids, images=[(2, 3)])
    assert prompt.text == "red\nred" and prompt.find("red") == (0, 1, 4, 5)
    assert prompt.find_all("red\nred") == prompt.find_all("\n") == []


def test_what_stands_within_an_image_is_no_word():
    ids = [byte_level().convert_tokens_to_ids(name) for name in ("Ġdog", "<s>", "what", "<s>", "what", "Ġdog")]
    prompt = prompt_of(byte_level(), ids, images=[(1, 3)])
    assert prompt.text == " dog\nwhat\nwhat dog" and prompt["markup"] == (2,)
    assert [(word.text, word.positions) for word in prompt.words()] == [("dog", (0,)), ("what", (4,)), ("dog", (5,))]
    assert prompt.find_all("hat", whole_words=False)[0].positions == (4,)
    assert prompt.find("what", within="markup") == (2,)


def test_padding_of_an_encoder_is_no_text():
    model, text = zoo.load("florence2", zoo.ZOO["florence2"].implementations[0]), zoo.ZOO["florence2"].text
    batch = nv.encode(model, [text, f"{text} see the big red dog"], [picture(1, zoo.ZOO["florence2"].sizes[0])] * 2)
    padded = nv.encode(model, inputs={name: value[:1] for name, value in batch.inputs.items()})
    alone = batch.row(0)
    assert padded.rows[0].outside > alone.rows[0].outside
    assert padded.text == alone.text and "<pad>" not in alone.text
    from_left = [[p + prompt.rows[0].outside for p in prompt.find("red")] for prompt in (padded, alone)]
    assert from_left[0] == from_left[1] and len(from_left[0]) == 1


def test_a_tokenizer_that_is_exchanged_spells_the_prompt_anew():
    prompt = prompt_of(byte_level(), ENGLISH)
    assert prompt.text == ENGLISH
    prompt.model.processor.tokenizer = sentencepiece()
    assert prompt.text == sentencepiece().decode(list(prompt.rows[0].tokens), clean_up_tokenization_spaces=False)


# words ------------------------------------------------------------------------------------------------

LISTED = {
    "byte level": ["图中", "的", "狗", "是什", "么", "颜", "色", "红色", "的", "圆", "在哪里"],
    "sentencepiece": ["图", "中", "的", "狗", "是", "什", "么", "颜色", "红色", "的", "圆", "在", "哪", "里"],
    "word piece": ["图", "中", "的", "狗", "是", "什", "么", "颜", "色", "红", "色", "的", "圆", "在", "哪", "里"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_without_spaces_are_the_least_characters_that_are_whole_tokens(kind):
    prompt = prompt_of(KINDS[kind](), CHINESE)
    words = prompt.words()
    assert texts(words) == LISTED[kind]
    for word in words:
        assert word.positions in [by_offsets(KINDS[kind](), CHINESE, place) for place in places_of(word.text, CHINESE)]
    tokens = [position for word in words for position in word.positions]
    assert tokens == sorted(set(tokens)), "a token is in two words"


def test_words_are_letters_and_digits_with_what_stands_within_them():
    text = "The dog's 3.5 t-shirts, 1,000 big. Don\u2019t! Straße 🐶🐱 ドッグフード人々 고양이는 naïve_x"
    assert texts(prompt_of(byte_level(), text).words())[:8] == [
        "The",
        "dog's",
        "3.5",
        "t",
        "shirts",
        "1,000",
        "big",
        "Don\u2019t",
    ]
    assert texts(prompt_of(sentencepiece(), text).words())[8:] == [
        *("Straße", "🐶", "🐱", "ドッグフード", "人々", "고양이는", "naïve", "x")
    ]


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
def test_every_word_is_found_where_it_is_listed(kind):
    prompt = prompt_of(KINDS[kind](), " ".join(TEXTS))
    for word in prompt.words():
        assert word in prompt.find_all(word.text)


# cost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_is_linear_in_the_prompt(kind, monkeypatch):
    tokenizer, decoded = KINDS[kind](), []
    decode = type(tokenizer).decode
    monkeypatch.setattr(
        type(tokenizer), "decode", lambda self, ids, **more: decoded.append(len(ids)) or decode(self, ids, **more)
    )
    ids, costs = (tokenizer.encode(" ".join(TEXTS[:4]) + " ", add_special_tokens=False) * 500), []
    for length in (1000, 2000, 4000, 8000):
        decoded.clear()
        prompt = prompt_of(tokenizer, ids[:length])
        assert prompt.find_all("dog")
        costs.append((len(decoded), sum(decoded)))
        decoded.clear()
        prompt.find_all("狗"), prompt.words(), prompt.text
        assert sum(decoded) < 10  # the prompt is decoded once
    for (calls, tokens), length in zip(costs, (1000, 2000, 4000, 8000), strict=True):
        assert calls <= 2 * length + 2 and tokens <= 7 * length
    assert costs[3][1] <= 2.1 * costs[2][1] <= 4.41 * costs[1][1]


# bos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paligemma", "blip-2-opt", "florence2", "kosmos-2", "mllama", "llava", "qwen2_vl"])
def test_bos_is_the_token_that_opens_the_text_wherever_it_stands(name):
    member, model = zoo.ZOO[name], zoo.load(name, zoo.ZOO[name].implementations[0])
    number = view_of(model).text_config.bos_token_id
    prompt = nv.encode(model, member.text, picture(1, member.sizes[0]))
    ids = prompt.inputs["input_ids"][0].tolist()
    first = [
        place - prompt.rows[0].outside * (name == "florence2") for place, token in enumerate(ids) if token == number
    ][:1]
    assert list(prompt["bos"]) == first and list(prompt.groups["bos"]) == first
    if name in ("paligemma", "blip-2-opt"):
        assert prompt["bos"][0] == prompt["image"][-1] + 1
    assert name == "qwen2_vl" or first


def test_bos_behind_padding_text_and_where_it_also_ends_texts():
    model = tiny.load("sdpa")
    bos, end, red = (tiny.vocabulary()[name] for name in ("<s>", "</s>", "red"))

    def places(ids, padding=0):
        mask = [[0] * padding + [1] * (len(ids) - padding)]
        return nv.encode(model, inputs={"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor(mask)})["bos"]

    assert places([0, 0, bos, red], padding=2) == (2,)
    assert places([bos, bos, bos, red], padding=2) == (2,)  # padded with it
    assert places([red, red, bos, red, bos]) == (2,)
    assert places([red, red, end]) == ()
    grown = nv.encode(model, inputs={"input_ids": torch.tensor([[red, red]])}).grown([bos])
    assert grown["bos"] == ()


def test_a_token_that_ends_texts_opens_one_only_if_no_text_stands_before_it():
    config = tiny.build_config()
    config.text_config.bos_token_id = config.text_config.eos_token_id
    module = type(tiny.build_module())._from_config(config)
    model, end, red = nv.load(module, processor=tiny.build_processor()), tiny.vocabulary()["</s>"], 7
    for ids, place in (([end, red, end], (0,)), ([red, red, end], ()), ([red, end, red], ())):
        assert nv.encode(model, inputs={"input_ids": torch.tensor([ids])})["bos"] == place


# grounding --------------------------------------------------------------------------------------------


def answered(tokenizer, question, answer):
    """A prompt with an answer behind it."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (question, answer)]
    return prompt_of(tokenizer, ids[0] + ids[1], answer=len(ids[0]))


def test_objects_are_grounded_as_the_answer_writes_them():
    question, answer = "what is the dog ? ", "Dogs. 图中的狗, a Dog 고양이는"
    prompt = answered(byte_level(), question, answer)
    start = len(byte_level().encode(question, add_special_tokens=False))
    for name, written in (("dog", "Dog"), ("狗", "狗"), ("고양이", "고양이")):
        mention, place = first_mention(prompt, name), places_of(written, answer)[-1]
        assert mention.text == written
        assert mention.positions == tuple(start + token for token in by_offsets(byte_level(), answer, place))
    assert first_mention(prompt, "cat") is None
    assert first_mention(answered(byte_level(), "", "two Dogs"), "dog").text == "Dogs"


def test_a_vocabulary_finds_names_in_any_script_and_their_words_have_the_tokens():
    answer = "图中有一只狗和红色的圆。 나무와 고양이가 แมวสีดำ"
    names = vocabulary(["狗", "猫", "红色", "나", "고양이", "แมว", "red"])
    assert names(answer) == ("狗", "红色", "고양이", "แมว")
    prompt = answered(sentencepiece(), "dog ", answer)
    words = find_object_words(prompt, None, answer, None, names)
    by_name = {name: tuple(word.position for word in words if word.thing == name) for name in names(answer)}
    assert by_name == {name: prompt.find(name, within="generated", occurrence=0) for name in names(answer)}
    assert find_object_words(prompt, None, answer, [Thing(name="猫")], names) == []


def test_content_words_keep_vowel_signs():
    assert content_words("कुत्ता और बिल्ली") == ("कुत्ता", "और", "बिल्ली")
