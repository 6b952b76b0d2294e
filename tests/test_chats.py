"""Chats: token ids are those of transformers' own `apply_chat_template`, and who says what is right token by token."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import chats
import pytest
import tiny
import torch
import zoo
from chats import CONVERSATIONS, said, shown, text
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

PARTS = ("system", "image", "markup", "query", "generated")
KINDS = ("lists", "strings", "inst", "thoughts")
MARKS, PRESET = "markers", "preset"


def as_strings(chat: Sequence[dict[str, Any]], image: str = "<image>\n") -> list[dict[str, Any]]:
    """Contents as people write them for templates that take texts."""
    return [
        {**m, "content": "".join(image if part["type"] == "image" else part["text"] for part in m["content"])}
        for m in chat
    ]


def pictures_of(chat: Sequence[dict[str, Any]]) -> list[Any]:
    return [part["image"] for m in chat for part in m["content"] if part["type"] == "image"]


def ending(name: str) -> dict[str, bool]:
    return {"continue_final_message": True} if name == "a prefix" else {"add_generation_prompt": True}


def reference_ids(kind: str, name: str) -> torch.Tensor:
    """The ids that transformers gives for a conversation, in the form that the template is written for."""
    processor, chat = chats.load(kind).processor, CONVERSATIONS[name]
    if kind == "strings":
        rendered = processor.apply_chat_template(as_strings(chat), **ending(name))
        return processor(text=rendered, images=pictures_of(chat), return_tensors="pt", add_special_tokens=False)[
            "input_ids"
        ]
    return processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", **ending(name))[
        "input_ids"
    ]


def encoded(kind: str, name: str) -> nv.Prompt:
    return nv.encode(chats.load(kind), CONVERSATIONS[name], continue_final_message=name == "a prefix")


def assert_parted(prompt: nv.Prompt) -> None:
    """Every token is in one part, and has one speaker: a message, the template, or the message that it writes."""
    groups, everything = prompt.groups, sorted((*prompt["all"], *range(-prompt.rows[0].outside, 0)))
    assert sorted(place for part in PARTS for place in groups[part]) == everything
    turns = [groups[name] for name in groups if name.startswith("turn.")]
    roles = [name for name in groups if name in ("system_message", "user", "assistant")]
    preset = set(groups["system_message"]) - {place for turn in turns for place in turn}
    speakers = [*turns, groups["markers"], preset, groups["generated"]]
    assert sorted(place for speaker in speakers for place in speaker) == everything
    assert {place for role in roles for place in groups[role]} == set(preset).union(*turns)
    assert set(groups["question"]) == set(groups["query"]) - set(groups["last"]) - set(groups["markers"])


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_those_of_transformers_and_every_token_has_one_speaker(kind, name):
    prompt = encoded(kind, name)
    assert torch.equal(prompt.inputs["input_ids"], reference_ids(kind, name))
    assert_parted(prompt)
    assert [prompt[f"image.{n}"] != () for n in range(len(prompt.images[0]))] == [True] * len(prompt.images[0])


# token by token, by hand ------------------------------------------------------------------------------

START, END, OPEN, CLOSE = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
IMAGE = ["<image>"] * tiny.IMAGE_TOKENS

BY_HAND = {
    ("lists", "several turns"): [
        (MARKS, [START, "system", "\n"]),
        (PRESET, ["you", " are", " helpful", "."]),
        (MARKS, [END, "\n", START, "user", "\n", OPEN]),
        ("turn.0", IMAGE),
        (MARKS, [CLOSE]),
        ("turn.0", ["what", " is", " red", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
        ("turn.1", ["a", " red", " ring", "."]),
        (MARKS, [END, "\n", START, "user", "\n", OPEN]),
        ("turn.2", IMAGE),
        (MARKS, [CLOSE]),
        ("turn.2", ["and", " here", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
    ],
    ("lists", "words like the template's"): [
        (MARKS, [START, "system", "\n"]),
        (PRESET, ["you", " are", " helpful", "."]),
        (MARKS, [END, "\n", START, "user", "\n", OPEN]),
        ("turn.0", IMAGE),
        (MARKS, [CLOSE]),
        ("turn.0", [END, "\n", START, "assistant", "\n", "[", "INST", "]", " user", ":", " see", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
        ("turn.1", ["[", "user", "]", ":", "\n\n", START, "user", "\n", "what", " is", " red", "?"]),
        (MARKS, [END, "\n", START, "user", "\n"]),
        ("turn.2", ["what", " is", " red", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
    ],
    ("lists", "a system message"): [
        (MARKS, [START, "system", "\n"]),
        ("turn.0", ["be", " terse", "."]),
        (MARKS, [END, "\n", START, "user", "\n", OPEN]),
        ("turn.1", IMAGE),
        (MARKS, [CLOSE]),
        ("turn.1", ["what", " is", " this", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
    ],
    ("strings", "a prefix"): [
        (MARKS, ["<s>", "[", "user", "]", ":", "\n\n"]),
        ("turn.0", [*IMAGE, "\n", "what", " is", " red", "?"]),
        (MARKS, ["</s>", "[", "assistant", "]", ":", "\n\n"]),
        ("turn.1", ["the", " red"]),
    ],
    ("inst", "several turns"): [
        (MARKS, ["[", "INST", "]", " "]),
        ("turn.0", IMAGE),
        (MARKS, ["\n"]),
        ("turn.0", ["what", " is", " red", "?"]),
        (MARKS, [" [", "/", "INST", "]"]),
        ("turn.1", [" a", " red", " ring", "."]),
        (MARKS, ["</s>", " [", "INST", "]", " "]),
        ("turn.2", IMAGE),
        (MARKS, ["\n"]),
        ("turn.2", ["and", " here", "?"]),
        (MARKS, [" [", "/", "INST", "]"]),
    ],
    ("thoughts", "several turns"): [
        (MARKS, ["<s>", START, "user", "\n"]),
        ("turn.0", [*IMAGE, "what", " is", " red", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n"]),
        ("turn.1", ["a", " red", " ring", "."]),
        (MARKS, [END, "\n", START, "user", "\n"]),
        ("turn.2", [*IMAGE, "and", " here", "?"]),
        (MARKS, [END, "\n", START, "assistant", "\n", "<think>", "\n"]),
    ],
}
"""Conversations cut into tokens by hand, and who says each of them."""


def speakers(prompt: nv.Prompt) -> list[tuple[str, str]]:
    """Each token of a prompt and who says it."""
    groups = {name: set(places) for name, places in prompt.groups.items()}
    turns = [name for name in groups if name.startswith("turn.")]
    spelled = prompt.model.tokenizer.convert_ids_to_tokens(list(prompt.rows[0].tokens))
    found = []
    for place, token in enumerate(spelled):
        who = [name for name in (*turns, MARKS) if place in groups[name]]
        found.append((*(who or [PRESET]), token))
        assert len(who) < 2 and (who or place in groups["system_message"])
    return found


@pytest.mark.parametrize(("kind", "name"), BY_HAND)
def test_who_says_what_token_by_token(kind, name):
    prompt = encoded(kind, name)
    assert speakers(prompt) == [(who, token) for who, tokens in BY_HAND[kind, name] for token in tokens]
    roles = {"system": "system_message", "user": "user", "assistant": "assistant"}
    for role, group in roles.items():
        turns = [f"turn.{n}" for n, m in enumerate(CONVERSATIONS[name]) if m["role"] == role]
        preset = [place for place, (who, _) in enumerate(speakers(prompt)) if who == PRESET and role == "system"]
        assert prompt[group] == tuple(sorted({*preset, *(place for turn in turns for place in prompt[turn])}))


# what the forms of a chat have in common -------------------------------------------------------------


def test_a_text_is_a_chat_of_one_question():
    for kind in KINDS:
        model = chats.load(kind)
        asked = nv.encode(model, "what is red?", tiny.picture(0))
        chat = nv.encode(model, CONVERSATIONS["a question"])
        assert torch.equal(asked.inputs["input_ids"], chat.inputs["input_ids"]) and asked.groups == chat.groups


def test_pictures_in_messages_and_apart_are_the_same():
    model, inside = chats.load("lists"), CONVERSATIONS["several turns"]
    bare = [said(m["role"], *({"type": "image"} if p["type"] == "image" else p for p in m["content"])) for m in inside]
    pictures = pictures_of(inside)
    whole, mixed = nv.encode(model, inside), [bare[0], *inside[1:]]
    for prompt in (
        nv.encode(model, bare, pictures),
        nv.encode(model, bare, images=pictures),
        nv.encode(model, mixed, pictures[0]),
        nv.encode(model, [bare], [pictures]),
        nv.encode(model, tuple(bare), tuple(pictures)),
    ):
        assert all(torch.equal(value, prompt.inputs[name]) for name, value in whole.inputs.items())
        assert prompt.groups == whole.groups and [prompt.image(n) for n in range(2)] == pictures
    assert bare[0]["content"][0] == {"type": "image"}, "the caller's messages stay as they are"
    for given in (None, pictures[:1], [*pictures, pictures[0]]):
        count = len(given or ())
        with pytest.raises(
            nv.SpecError, match=rf"2 image entries without a picture .* {count} picture\(s\) were given"
        ):
            nv.encode(model, bare, given)


@pytest.mark.parametrize("key", ["image", "url", "path", "base64", "image_url", "openai"])
def test_a_message_names_its_picture_in_any_way(key, tmp_path):
    import base64

    tiny.picture(3).save(tmp_path / "a.png")
    plain = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    entries = {
        "image": {"type": "image", "image": str(tmp_path / "a.png")},
        "url": {"type": "image", "url": (tmp_path / "a.png").as_uri()},
        "path": {"type": "image", "path": tmp_path / "a.png"},
        "base64": {"type": "image", "base64": plain},
        "image_url": {"image": f"data:image/png;base64,{plain}"},
        "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{plain}"}},
    }
    model = chats.load("lists")  # whose template looks at the type
    prompt = nv.encode(model, [said("user", entries[key], text("what is red?"))])
    expected = nv.encode(model, [said("user", shown(3), text("what is red?"))])
    assert torch.equal(prompt.inputs["pixel_values"], expected.inputs["pixel_values"])
    assert torch.equal(prompt.inputs["input_ids"], expected.inputs["input_ids"])


def test_a_content_is_a_text_or_a_list_whichever_the_template_takes():
    for kind in KINDS:
        model = chats.load(kind)
        chat = [{"role": "user", "content": "what is red?"}, {"role": "assistant", "content": "a ring"}]
        listed = [said(m["role"], text(m["content"])) for m in chat]
        one, other = nv.encode(model, chat), nv.encode(model, listed)
        assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"]) and one.groups == other.groups
        assert len(one["turn.0"]) == 4 and len(one["turn.1"]) == 2


def test_a_placeholder_in_a_text_is_an_image_of_its_message():
    model, picture = chats.load("strings"), tiny.picture(0)
    prompt = nv.encode(model, [{"role": "user", "content": "see <image> here"}], picture)
    assert prompt["user"] == prompt["turn.0"] and set(prompt["image"]) < set(prompt["user"])
    assert [token for who, token in speakers(prompt) if who == "turn.0"] == ["see", " ", *IMAGE, " here"]
    again = nv.encode(model, "see <image> here", picture, chat=True)
    assert torch.equal(again.inputs["input_ids"], prompt.inputs["input_ids"])


def test_a_template_that_writes_the_image_itself_wants_one_in_each_chat():
    model, picture = chats.load("captions"), tiny.picture(0)
    system = {"role": "system", "content": "you are helpful."}
    chat = [system, {"role": "user", "content": "tell me more."}]
    rendered = model.processor.apply_chat_template(chat, add_generation_prompt=True)
    expected = model.processor(text=rendered, images=[picture], return_tensors="pt", add_special_tokens=False)
    listed = [said("system", text("you are helpful.")), said("user", {"type": "image"}, text("tell me more."))]
    prompt = nv.encode(model, listed, picture)
    assert torch.equal(prompt.inputs["input_ids"], expected["input_ids"])
    assert_parted(prompt)
    assert [token for who, token in speakers(prompt) if who == "turn.1"] == [*IMAGE, "tell", " me", " more", "."]
    asked = nv.encode(model, "tell me more.", picture)
    assert [token for who, token in speakers(asked) if who == "turn.0"] == [*IMAGE, "tell", " me", " more", "."]
    with pytest.raises(nv.SpecError, match=r"writes 1 image\(s\) .* where the chat has 0"):
        nv.encode(model, "tell me more.")


def test_several_chats_are_rows_and_each_row_knows_its_turns():
    model = chats.load("lists")
    rows = [CONVERSATIONS["a question"], CONVERSATIONS["several turns"], "what is red?"]
    batch = nv.encode(model, rows, [None, None, tiny.picture(2)])
    alone = [*(nv.encode(model, row) for row in rows[:2]), nv.encode(model, rows[2], tiny.picture(2))]
    assert type(batch) is nv.PromptBatch and len(batch) == 3
    for number, prompt in enumerate(alone):
        assert batch.row(number).groups == prompt.groups
        shift = batch.rows[number].start
        for group in ("user", "markers", "system_message", "question"):
            shifted = tuple(place + shift for place in prompt[group])
            assert batch.rows[number].ranges(group).positions(batch.width) == shifted
    grown = alone[1].grown([7, 8])
    assert grown["assistant"] == alone[1]["assistant"] and len(grown["generated"]) == 2


def test_a_template_of_the_tokenizer_is_as_good_as_one_of_the_processor():
    for name in CONVERSATIONS:
        options = {"continue_final_message": name == "a prefix"}
        one, other = (
            nv.encode(chats.load("lists", holder), CONVERSATIONS[name], **options)
            for holder in ("processor", "tokenizer")
        )
        assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"]) and one.groups == other.groups


def test_thoughts_that_the_template_drops_are_nobodys_and_those_it_keeps_are_the_assistants():
    thinking = text("<think>\nhm\n</think>\n\na ring")
    chat = [said("user", text("what is red?")), said("assistant", thinking), said("user", text("and this?"))]
    dropped, kept = (nv.encode(chats.load(kind), chat) for kind in ("thoughts", "lists"))
    assert [token for who, token in speakers(dropped) if who == "turn.1"] == ["a", " ring"]
    assert [token for who, token in speakers(kept) if who == "turn.1"] == (
        ["<think>", "\n", "hm", "\n", "</think>", "\n\n", "a", " ring"]
    )


def test_tools_are_the_templates_words_and_calls_are_the_assistants():
    model = chats.load("tools")
    tool = {"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}
    call = {"type": "function", "function": {"name": "look", "arguments": {"here": "the ring"}}}
    chat = [
        said("user", shown(0), text("what is red?")),
        {**said("assistant"), "tool_calls": [call]},
        said("tool", text("a ring")),
    ]
    prompt = nv.encode(model, chat, tools=[tool])
    options = {"tools": [tool], "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = model.processor.apply_chat_template(chat, add_generation_prompt=True, **options)
    assert torch.equal(prompt.inputs["input_ids"], expected["input_ids"])
    assert speakers(prompt) == [
        (who, token)
        for who, tokens in (
            (MARKS, [START, "system", "\n", "look", "\n", END, "\n", START, "user", "\n"]),
            ("turn.0", [*IMAGE, "what", " is", " red", "?"]),
            (MARKS, [END, "\n", START, "assistant", "\n", "<think>"]),
            ("turn.1", ["look"]),
            (MARKS, [":", "{", '"', "here", '"', ":", ' "']),
            ("turn.1", ["the", " ring"]),
            (MARKS, ['"', "}", "</think>", END, "\n", START, "<unk>", "\n"]),
            ("turn.2", ["a", " ring"]),
            (MARKS, [END, "\n", START, "assistant", "\n"]),
        )
        for token in tokens
    ]
    assert prompt["tool"] == prompt["turn.2"] and prompt["assistant"] == prompt["turn.1"]
    assert nv.encode(model, chat)["markers"] != prompt["markers"]


def test_words_are_trimmed_where_the_template_trims_them():
    prompt = nv.encode(chats.load("strings"), [{"role": "user", "content": "\n what is </s>red? \n"}])
    assert [token for who, token in speakers(prompt) if who == "turn.0"] == ["what", " is", " red", "?"]


# what is refused, and what is not known ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"role": "user", "content": "red"}, "a dict is one message, and a chat is a list of them"),
        (7, "a int is no text and no chat"),
        ([7], "entry 0 is of type int"),
        ([["red"]], "entry 0 is of type list"),
        (["red", None], "entry 1 is of type NoneType"),
        ([], "no text to encode"),
        ([[]], "entry 0 is of type list"),
        ([{"content": "red"}], "message 0 has no role: the keys 'content' were given"),
        ([{"role": "user"}], "the content of message 0 is None"),
        ([{"role": "user", "content": 7}], "the content of message 0 is of type int"),
        ([{"role": "user", "content": ["red"]}], "the content of message 0 holds of type str"),
        ([said("user", {"type": "sound"})], "an entry of type 'sound'"),
        ([said("user", {"type": "text"})], "a text entry without a text"),
        (
            [said("user", {"type": "image", "image": "a.png", "url": "b.png"})],
            "'image' and 'url'; an image entry has one",
        ),
        ([said("user", {"type": "image", "image": 7})], "int is not a picture"),
        ([said("user", {"type": "image", "base64": "red"})], "is not base64"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_type(given, message):
    with pytest.raises(nv.SpecError, match=message):
        nv.encode(chats.load("lists"), given)


def test_a_chat_that_its_template_refuses_or_cuts_is_refused():
    model = chats.load("inst")
    with pytest.raises(nv.SpecError, match="does not take these messages: only user and assistant"):
        nv.encode(model, [said("judge", text("red"))])
    with pytest.raises(nv.SpecError, match="leaves out words of message 1: 'ring'"):
        nv.encode(model, [said("user", text("red")), said("assistant", text("a"), text("ring"))])
    with pytest.raises(nv.SpecError, match=r"writes 0 image\(s\) .* where the chat has 1"):
        nv.encode(model, [said("user", text("red")), said("assistant", text("a"), shown(0))])
    with pytest.raises(nv.SpecError, match=r"no chat template; .*'<image>'.*chat=False"):
        nv.encode(chats.load("none"), CONVERSATIONS["a question"])


def test_a_text_in_the_template_already_is_not_put_into_it_again():
    for kind, sign in (("lists", "<|im_start|>"), ("strings", "[user]"), ("inst", "[INST]")):
        model = chats.load(kind)
        message = [said("user", text("what is red?"))]
        if kind == "strings":
            message = as_strings(message)
        rendered = model.processor.apply_chat_template(message, add_generation_prompt=True)
        with pytest.raises(nv.SpecError, match=rf"the text has .*{re.escape(sign)}.* chat=False\), .* chat=True"):
            nv.encode(model, rendered)
        asked, as_it_is = nv.encode(model, "what is red?"), nv.encode(model, rendered, chat=False)
        assert torch.equal(asked.inputs["input_ids"], as_it_is.inputs["input_ids"])
        words = nv.encode(model, rendered, chat=True)
        assert set(words["user"]) > set(words.find("what is red?")) and len(words["user"]) > len(asked["user"])
    pictured = nv.encode(chats.load("lists"), "<image>red", tiny.picture(0))  # its placeholder says that it is complete
    assert len(pictured["all"]) == tiny.IMAGE_TOKENS + 1


def test_who_says_what_is_not_guessed():
    model = chats.load("lists")
    known = nv.encode(model, CONVERSATIONS["several turns"])
    complete = nv.encode(
        model, model.processor.apply_chat_template(CONVERSATIONS["several turns"][:1]), tiny.picture(0)
    )
    ready = nv.encode(model, inputs=known.inputs)
    special = set(model.tokenizer.all_special_ids)
    for prompt, why in ((complete, "a complete text does not say"), (ready, "ready inputs do not say")):
        for group in ("user", "assistant", "system_message", "turn.0", "turn.7"):
            with pytest.raises(nv.SpecError, match=f"the group '{group}' of this prompt is not known: {why}"):
                prompt[group]
        tokens = prompt.rows[0].tokens
        text = [place for place in prompt["text"] if tokens[place] in special]
        assert prompt["markers"] == tuple(text) and "user" not in prompt.groups
    with pytest.raises(nv.SpecError, match=r"no group 'turn\.3': the chat has 3 message\(s\), counted from turn\.0"):
        known["turn.3"]


def test_a_tokenizer_that_does_not_tell_where_tokens_lie_leaves_it_unknown(monkeypatch):
    model = chats.load("lists")
    monkeypatch.setattr(type(model.processor.tokenizer), "is_fast", property(lambda _: False))
    prompt = nv.encode(model, CONVERSATIONS["several turns"])
    assert torch.equal(prompt.inputs["input_ids"], reference_ids("lists", "several turns"))
    with pytest.raises(nv.SpecError, match="its tokenizer does not tell where in the text a token lies"):
        prompt["user"]


# every processor --------------------------------------------------------------------------------------

WORDS = ("what is the red dog ?", "user : the assistant : see you", "where is a ball ?")

PROCESSORS_OWN = {"gemma3-crops": {"is", "the", "image", "and", "are", "you", "see"}}
"""Words that a processor writes around the images, as far as the lexicon has them."""


def template_for(name: str) -> tuple[str, str]:
    """A template that writes what the member's own text has in the place of an image, and this."""
    marker = str(zoo.load(name, zoo.ZOO[name].implementations[0]).processor.image_token)
    written = next(word for word in zoo.ZOO[name].text.split() if marker in word)
    return (
        "{{ bos_token }} {% for m in messages %}{{ m['role'] }} : {% for part in m['content'] %}"
        f"{{% if part['type'] == 'image' %}}{written} "
        "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}",
        written,
    )


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_processor_encodes_a_chat_as_transformers_does_and_lets_it_be_told_who_speaks(name):
    member, shared = zoo.ZOO[name], zoo.load(name, zoo.ZOO[name].implementations[0])
    family = view_of(shared).family
    if family.writes_image:
        pytest.skip("its processor writes the image itself, and models of its kind have no chat template")
    model = nv.load(shared._module, processor=member.processor())
    model.processor.chat_template, _ = template_for(name)
    images = [picture(number, member.sizes[-1]) for number in range(2)]
    second = ({"type": "image", "image": images[1]},) if "several images" not in family.limitations else ()
    chat = [
        said("user", {"type": "image", "image": images[0]}, text(WORDS[0])),
        said("assistant", text(WORDS[1])),
        said("user", text(WORDS[2]), *second),
    ]
    prompt = nv.encode(model, chat)
    if not family.flat_pictures:  # the one processor that transformers itself cannot hand a chat's pictures
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        expected = model.processor.apply_chat_template(chat, **options)
        assert torch.equal(prompt.inputs["input_ids"], expected["input_ids"])
    assert_parted(prompt)
    for number, words in enumerate(WORDS):
        spelled = [
            place for place in prompt[f"turn.{number}"] if place in prompt["text"] and place not in prompt["markup"]
        ]
        ids = model.tokenizer(words, add_special_tokens=False)["input_ids"]
        assert [prompt.rows[0].tokens[place] for place in spelled] == ids
    assert set(prompt["image.0"]) < set(prompt["turn.0"])
    assert not second or set(prompt["image.1"]) < set(prompt["turn.2"])
    marked = model.tokenizer.convert_ids_to_tokens([prompt.rows[0].tokens[place] for place in prompt["markers"]])
    roles = ["user", ":", "assistant", ":", "user", ":", "assistant", ":"]
    assert [token for token in marked if token in ("user", "assistant", ":")] == roles
    special = {model.tokenizer.convert_ids_to_tokens(number) for number in model.tokenizer.all_special_ids}
    assert {token for token in marked if token not in (*roles, "\n", *PROCESSORS_OWN.get(name, ()))} <= special


# models without a template ------------------------------------------------------------------------------


class Records(logging.Handler):
    """What transformers logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize(("name", "question"), [("paligemma", "what is red ?"), ("florence2", "what is red ?")])
def test_a_model_without_a_template_is_asked_with_a_text_and_transformers_does_not_warn(name, question):
    model = zoo.load(name, zoo.ZOO[name].implementations[0])
    shown = picture(1, zoo.ZOO[name].sizes[0])
    expected = model.processor(text=[question], images=[shown], return_tensors="pt")["input_ids"]
    logger, records = logging.getLogger("transformers"), Records()
    logger.addHandler(records)
    try:
        prompts = [nv.encode(model, question, shown), nv.encode(model, question, shown, chat=False)]
    finally:
        logger.removeHandler(records)
    assert records.messages == [] and all(torch.equal(p.inputs["input_ids"], expected) for p in prompts)
    with pytest.raises(nv.SpecError, match="no chat template"):
        nv.encode(model, [said("user", {"type": "image"}, text(question))], shown)


def test_several_pictures_of_paligemma_stand_before_its_text():
    model = zoo.load("paligemma")
    shown = [picture(number, zoo.ZOO["paligemma"].sizes[0]) for number in range(2)]
    expected = model.processor(text=["<image><image>what is red ?"], images=[shown], return_tensors="pt")["input_ids"]
    assert torch.equal(nv.encode(model, "what is red ?", shown).inputs["input_ids"], expected)
