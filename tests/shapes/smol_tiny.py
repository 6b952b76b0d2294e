"""A language model like SmolLM2 in everything but its size: random weights, and a vocabulary of bytes."""

from __future__ import annotations

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from nnsight_vlm.shapes.smol.gguf import GGUF
from nnsight_vlm.shapes.smol.packing import Writer

LAYERS, WIDTH, INNER, HEADS, KEY_HEADS = 3, 32, 48, 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<control {number}>" for number in range(13)), "<unused>"]
WORDS = [*CONTROL, *sorted(ByteLevel.alphabet())]


def file(seed: int = 0, layers: int = LAYERS) -> GGUF:
    """What `read` would give for it."""
    random = np.random.default_rng(seed)
    head = WIDTH // HEADS

    def matrix(outputs, inputs):
        return (random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)

    def norm():
        return (1 + 0.1 * random.standard_normal(WIDTH)).astype(np.float32)

    tensors = {"token_embd.weight": matrix(len(WORDS), WIDTH), "output_norm.weight": norm()}
    for number in range(layers):
        parts = {
            "attn_norm": norm(),
            "attn_q": matrix(WIDTH, WIDTH),
            "attn_k": matrix(KEY_HEADS * head, WIDTH),
            "attn_v": matrix(KEY_HEADS * head, WIDTH),
            "attn_output": matrix(WIDTH, WIDTH),
            "ffn_norm": norm(),
            "ffn_gate": matrix(INNER, WIDTH),
            "ffn_up": matrix(INNER, WIDTH),
            "ffn_down": matrix(WIDTH, INNER),
        }
        tensors |= {f"blk.{number}.{part}.weight": values for part, values in parts.items()}
    settings = {
        "llama.vocab_size": len(WORDS),
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.block_count": layers,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.context_length": 2048,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    return GGUF(settings=settings, tensors=tensors)


def writer(processor) -> Writer:
    """The tokenizer of a processor, as the trainer uses it."""
    inner = processor.tokenizer.backend_tokenizer
    return Writer(lambda text: inner.encode(text, add_special_tokens=False).ids)
