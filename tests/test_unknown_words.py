"""Words that a tokenizer does not know are named when a text is encoded, once, and nothing else is."""

from __future__ import annotations

import warnings

import pytest
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.prompts.listening import Heard
from nnsight_vlm.prompts.unknown_words import unknown_words

KNOWN = "what color is the ring?"


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def picture():
    return nv.shapes.scene(3).image


def said(call):
    """The messages of a call's warnings of this kind."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(each.filename == __file__ for each in caught), "a warning points at the line that encodes"
    return [str(each.message) for each in caught if each.category is nv.UnknownWordsWarning]


def test_unknown_words_are_named_in_their_order_and_known_ones_are_not(model, picture):
    [message] = said(lambda: nv.encode(model, "What breed is the dog, is the dog red?", picture))
    assert "does not know 'breed', 'dog':" in message and "'<unk>'" in message
    assert said(lambda: nv.encode(model, KNOWN, picture)) == []


def test_several_texts_and_a_chat_are_warned_of_once(model, picture):
    texts = [KNOWN, "what is a sofa?", "where is the dog?"]
    [message] = said(lambda: nv.encode(model, texts, [picture] * 3))
    assert "does not know 'sofa', 'dog':" in message
    words = [{"type": "image"}, {"type": "text", "text": "is there a sofa?"}]
    assert len(said(lambda: nv.encode(model, [{"role": "user", "content": words}], picture))) == 1


def test_many_words_are_counted(model, picture):
    letters = "b c d e f g h i j k"
    [message] = said(lambda: nv.encode(model, f"what is {letters}?", picture))
    assert message.count("', '") == 7 and "and 2 more:" in message


def test_marks_and_the_unknown_token_itself_are_no_unknown_words(model, picture):
    assert said(lambda: nv.encode(model, "what color is the <unk> \u2026 ring?", picture)) == []


def test_tokenizers_that_tell_no_places_or_have_no_such_token_name_nothing():
    class Tokenizer:
        unk_token, unk_token_id = None, None

    assert unknown_words(None, Tokenizer()) == []
    assert unknown_words(Heard("a b", [1, 2], [(0, 1), (2, 3)]), Tokenizer()) == []
    Tokenizer.unk_token, Tokenizer.unk_token_id = "<unk>", 2
    assert unknown_words(Heard("a b", [1, 2], None), Tokenizer()) == []
    assert unknown_words(Heard("a b", [1, 2], [(0, 1), (2, 3)]), Tokenizer()) == ["b"]


@pytest.mark.filterwarnings("always::nnsight_vlm.UnknownWordsWarning")
def test_commands_say_it(picture, tmp_path):
    picture.save(tmp_path / "photo.png")
    command = ["view", str(tmp_path / "photo.png"), "What breed is the dog?", "--out", str(tmp_path / "view.html")]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "1"])
    assert result.exit_code == 0, result.output
    assert "warning: the tokenizer of this model does not know 'breed', 'dog'" in result.stderr
