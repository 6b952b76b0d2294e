"""What the tiny models of all families are built from: a tokenizer, drawn weights, pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

BASIC = ("<pad>", "<unk>", "<s>", "</s>")
LEXICON = """
a an the is are was of on in and or not red green blue yellow black white square circle triangle star big small
left right above below foot hand bike dog what where which how many describe image picture objects see you yes no
one two three user assistant system helpful be please : . ? , ##s ##ball ##ing
"""
WORDS = LEXICON.split()


@dataclass(frozen=True, kw_only=True)
class Member:
    """One tiny model of the zoo.

    Attributes:
        name: unique; the family, and what is special about the build: `"blip-2-t5"`.
        module: attention implementation (`"sdpa"`, `"eager"`) to a new model in memory: float32, eval, weights drawn.
        processor: the family's own processor, built from local parts.
        text: a raw prompt with one image placeholder, as a user writes it for this family.
        sizes: `(width, height)` of pictures that are not square; together they show one tile and several.
        local: makes the vision side of a model local, so that an image feature sees its own pixels only;
            None where that cannot be done.
        implementations: the attention implementations that the family can run.
    """

    name: str
    module: Callable[[str], Any]
    processor: Callable[[], Any]
    text: str
    sizes: tuple[tuple[int, int], ...]
    local: Callable[[Any], None] | None = None
    implementations: tuple[str, ...] = ("sdpa", "eager")


def tokenizer(
    named: Mapping[str, str] | None = None, extra: Sequence[str] = (), behind: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """One token a word; special tokens come first, so `len(tokenizer)` is the vocabulary size.

    `named` are special tokens that a processor asks the tokenizer for (`{"image_token": "<image>"}`), `extra` further
    special tokens, and `behind` those that come last: they may be tokens that are embedded and never said. Special
    tokens need no spaces around them in a text.
    """
    special = dict.fromkeys((*BASIC, *(named or {}).values(), *extra))
    vocabulary = {token: number for number, token in enumerate((*special, *WORDS, "\n", *behind))}
    extra = (*extra, *behind)
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={**(named or {}), **{f"extra_{n}": token for n, token in enumerate(extra)}},
        padding_side="left",
    )


def draw(module: Any, seed: int = 0, spread: float = 1.5) -> Any:
    """Weights wide enough that attention is far from uniform and every intervention moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                wide = 1.0 if "embed" in name or "lm_head" in name else spread
                weight.copy_(torch.randn(weight.shape, generator=generator) * wide / weight[0].numel() ** 0.5)
            else:  # norms near what they are, biases near nought
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    text = module.config.get_text_config()
    unsaid = {getattr(module.config, name, None) for name in ("image_token_id", "video_token_id")} | {text.pad_token_id}
    for part in module.modules():
        if isinstance(getattr(part, "generation_config", None), GenerationConfig):
            part.generation_config.eos_token_id = None  # answers do not end early
            said = (token for token in unsaid if token is not None and token < text.vocab_size)
            part.generation_config.suppress_tokens = sorted(said) or None  # and are made of words
    module.requires_grad_(False)
    return module.eval()


def picture_settings(processor: Any, **settings: Any) -> Any:
    """The processor, with other settings of pictures than its class has, which win over its image processor's."""
    if hasattr(processor, "images_kwargs"):
        processor.images_kwargs = {**processor.images_kwargs, **settings}
        return processor
    kind = type(processor)  # before transformers 5.23 the class alone has any
    defaults = getattr(sys.modules[kind.__module__], f"{kind.__name__}Kwargs")._defaults["images_kwargs"]

    def call(self: Any, *args: Any, **options: Any) -> Any:
        with patch.dict(defaults, settings):
            return kind.__call__(self, *args, **options)

    processor.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return processor


def in_dtype(module: Any, dtype: torch.dtype) -> Any:
    """A model that was drawn in float32, with the same weights in float32 or float64; complex buffers stay."""
    return module.double() if dtype is torch.float64 else module


def picture(seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Noise of `(width, height)` pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)
