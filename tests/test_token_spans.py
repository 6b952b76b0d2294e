"""Which characters a token spells, compared with the bytes of both."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from nnsight_vlm.prompts.token_spans import spelled_tokens

LETTERS = "ab é狗มี고🐶 \u0301"


def decoder(pieces):
    """What a byte-level tokenizer decodes: all bytes together."""
    return lambda tokens: b"".join(pieces[token] for token in tokens).decode("utf-8", errors="replace")


def spans_by_bytes(pieces, text):
    """For each piece of a text's bytes, the characters of which it holds a byte."""
    ends = [0]
    for letter in text:
        ends.append(ends[-1] + len(letter.encode()))
    spans, start = [], 0
    for piece in pieces:
        held = [n for n in range(len(text)) if ends[n] < start + len(piece) and start < ends[n + 1]]
        spans.append((held[0], held[-1] + 1) if held else None)
        start += len(piece)
    return spans


@pytest.mark.parametrize("seed", range(40))
def test_spans_are_those_of_the_bytes_however_the_text_is_cut(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices(LETTERS, k=60))
    data, pieces = text.encode(), []
    while data:
        size = draw.choice((1, 1, 2, 3, 5))
        pieces, data = [*pieces, data[:size]], data[size:]
    pieces = [part for piece in pieces for part in ((b"", piece) if draw.random() < 0.05 else (piece,))]
    sizes = []

    def decode(tokens):
        sizes.append(len(tokens))
        return decoder(pieces)(tokens)

    spelled = spelled_tokens(decode, range(len(pieces)))
    assert spelled.text == text
    for span, expected in zip(spelled.spans, spans_by_bytes(pieces, text), strict=True):
        assert span == expected or (expected is None and span[0] == span[1])
    assert len(sizes) <= 2 * len(pieces) + 1 and sum(sizes) <= 11 * len(pieces)


def test_bytes_that_are_no_text_leave_the_words_around_them_as_they_are():
    pieces = [b"red", b"\xff", b" dog", b"\xe7\x8b", b" bike", b"\xe7", b"\x8b\x97", b"\xe7\x8b"]
    spelled = spelled_tokens(decoder(pieces), range(8))
    assert spelled.text == "red\ufffd dog\ufffd bike狗\ufffd"
    assert spelled.spans == [(0, 3), (3, 4), (4, 8), (8, 9), (9, 14), (14, 15), (14, 15), (15, 16)]


def test_a_byte_that_spoils_those_before_it_leaves_the_words_behind_it_as_they_are():
    """As where bytes stand for what has no piece: one that is no text makes all bytes beside it unreadable."""
    pieces = [b"\xc3", b"\xa9", *[b"\xc3", b"\xa9"] * 6, b"\xff", "dog", " red", b"\xc3", b"\xa9", "!"]

    def decode(tokens):
        text, run = "", b""
        for piece in [pieces[token] for token in tokens] + [""]:
            if isinstance(piece, bytes):
                run += piece
                continue
            try:
                text += run.decode()
            except UnicodeDecodeError:
                text += "\ufffd" * len(run)
            text, run = text + piece, b""
        return text

    spelled = spelled_tokens(decode, range(len(pieces)))
    assert spelled.text == "\ufffd" * 15 + "dog redé!"
    assert spelled.spans[15:] == [(15, 18), (18, 22), (22, 23), (22, 23), (23, 24)]


@pytest.mark.parametrize("far", [2, 3, 11])
def test_a_decoder_that_looks_far_back_is_followed(far):
    """Every so many tokens, counted from the first one, there are capitals; no neighbour tells."""
    words = [f" w{number}" for number in range(60)]

    def decode(tokens):
        return "".join(
            words[token].upper() if place % far == far - 1 else words[token] for place, token in enumerate(tokens)
        )

    spelled = spelled_tokens(decode, range(60))
    ends = [len(decode(range(stop))) for stop in range(61)]
    assert spelled.spans == list(pairwise(ends))


def test_no_tokens_have_no_text():
    assert spelled_tokens(decoder([]), []) == ("", [])
