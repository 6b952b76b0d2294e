"""Small tokenizers of the kinds that vision-language models have, made here: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import nnsight_vlm as nv
from nnsight_vlm.prompts.token_map import TokenMap

MARKERS = ("<s>", "</s>", "<unk>", "<fake_token_around_image>", "<|im_start|>", "<|im_end|>", "END")
TEXTS = (
    "what is the dog near the red square , where is a small dog ?",
    "图中的狗是什么颜色? 红色的圆在哪里",
    "犬は何色ですか。ドッグフードを食べる",
    "고양이는 무슨 색입니까? 큰 고양이",
    "แมวสีดำนั่งอยู่บนโต๊ะ",
)


def _made(inner: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", extra_special_tokens=list(MARKERS[3:]), **special
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])  # a marker that is not special
    return tokenizer


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Bytes and merges of them, as in Qwen2-VL and InternVL; a character of Han is one to three tokens."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    inner.train_from_iterator(TEXTS * 3, trainer)
    return _made(inner)


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """Pieces with a space as `▁`, and bytes for what has no piece, as in LLaVA's Llama and Mistral."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = sorted({letter for text in TEXTS[:2] for letter in text if letter not in " 狗圆"})
    merges = [("▁", "r"), ("▁r", "e"), ("▁re", "d"), ("d", "o"), ("do", "g"), ("▁", "dog"), ("颜", "色"), ("红", "色")]
    pieces += [piece for piece in letters if piece not in pieces] + ["".join(pair) for pair in merges]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    inner = Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _made(inner, unk_token="<unk>")


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """Words in small letters and `##` for what continues one, as in BERT; spaces around every character of Han."""
    words = [word for text in TEXTS[:1] for word in text.split()] + [letter for letter in TEXTS[1] if letter.isalpha()]
    letters = sorted({letter for text in TEXTS for letter in text if letter != " "} | set("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = [*MARKERS[:3], *words, *letters, *(f"##{letter}" for letter in letters)]
    inner = Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return _made(inner, unk_token="<unk>")


KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece, "word piece": word_piece}


def prompt_of(
    tokenizer: Any, tokens: str | Sequence[int], images: Sequence[Sequence[int]] = (), **more: Any
) -> nv.Prompt:
    """A prompt of these tokens alone: of a model there is the tokenizer."""
    ids = tokenizer.encode(tokens, add_special_tokens=False) if isinstance(tokens, str) else list(tokens)
    settings = {"tokens": tuple(ids), "start": 0, "stop": len(ids), "answer": len(ids), **more}
    row = TokenMap(images=tuple(map(tuple, images)), **settings)
    model = SimpleNamespace(processor=SimpleNamespace(tokenizer=tokenizer), tokenizer=tokenizer)
    return nv.Prompt(inputs={}, rows=(row,), model=model)
