"""Small stand-ins for published chat templates: one of each kind, on a tiny LLaVA, and conversations to put into them.

The tokenizer cuts as byte-level ones do: a space belongs to the word behind it, and line breaks run together, also
across the border between the template and a message. Special tokens are cut out first, wherever they stand.
"""

from __future__ import annotations

import functools
from typing import Any

import tiny
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

import nnsight_vlm as nv

SPECIAL = (
    *("<pad>", "<unk>", "<s>", "</s>", "<image>"),
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<think>", "</think>"),
)
LEXICON = """
what is red blue ring dog here there tell me more see it a the this that and so you are terse calm user assistant
system INST USER ASSISTANT helpful be Hello hm tools look
"""
WORDS = LEXICON.split()
SIGNS = ("\n", "\n\n", "\n\n\n", "?", ".", ":", "[", "]", "/", "[/", "<<", ">>", "]:", " ", "  ", '"', "{", "}", ",")
PIECES = r"\n+| ?[A-Za-z]+| ?[^\sA-Za-z]| +(?! )| +"


def build_tokenizer() -> PreTrainedTokenizerFast:
    pieces = [*WORDS, *SIGNS]
    vocabulary = dict.fromkeys((*SPECIAL, *pieces, *(f" {piece}" for piece in pieces if not piece.isspace())))
    inner = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={
            "image_token": "<image>",
            **{f"extra_{n}": token for n, token in enumerate(SPECIAL[5:])},
        },
        padding_side="left",
    )


LISTS = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nyou are helpful.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><image><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with lists as contents, marks around images, and a system message where none is given."""

STRINGS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[' + m['role'] + ']:\n\n' + m['content'] | replace('</s>', '') | trim + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]:\n\n' }}{% endif %}"
)
"""Texts as contents, trimmed; whoever writes them writes the images."""

CAPTIONS = STRINGS.replace(
    "m['content'] |",
    "('<|vision_start|><image><|vision_end|>' if loop.index0 == messages[:-1] | selectattr('role', 'equalto', 'system')"
    " | list | length else '') + m['content'] |",
)
"""JoyCaption's: texts as contents, and the one image is written before the first question, there or not."""

INST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '<<system>>\n' + m['content'][0]['text'] + '\n<</system>>\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'][0]['text'] + '</s> ' }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
"""Mistral's, of LLaVA-NeXT: no generation prompt, images first, and only the first text of an answer."""

THOUGHTS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% elif m['role'] == 'assistant' %}"
    "{{ part['text'].split('</think>')[-1].lstrip('\n') }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""Thoughts are dropped from earlier answers, and the next one begins with the tag of a thought."""

TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool['function']['name'] }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% for call in m['tool_calls'] or [] %}"
    "<think>{{ call['function']['name'] }}:{{ call['function']['arguments'] | tojson }}</think>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Tools are described in a system message, and calls stand between tags."""

TEMPLATES = {
    "tools": TOOLS,
    "lists": LISTS,
    "strings": STRINGS,
    "captions": CAPTIONS,
    "inst": INST,
    "thoughts": THOUGHTS,
}


@functools.cache
def load(kind: str, holder: str = "processor") -> Any:
    """A tiny LLaVA with a template of some kind, which its processor or its tokenizer holds; `"none"` is without."""
    tokenizer = build_tokenizer()
    template = TEMPLATES.get(kind)
    if holder == "tokenizer":
        tokenizer.chat_template = template
    processor = LlavaProcessor(
        image_processor=tiny.build_processor().image_processor,
        tokenizer=tokenizer,
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template if holder == "processor" else None,
    )
    module = tiny.build_module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return nv.load(module, processor=processor)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def shown(number: int) -> dict[str, Any]:
    return {"type": "image", "image": tiny.picture(number)}


def said(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


CONVERSATIONS = {
    "a question": [said("user", shown(0), text("what is red?"))],
    "a system message": [said("system", text("be terse.")), said("user", shown(0), text("what is this?"))],
    "several turns": [
        said("user", shown(0), text("what is red?")),
        said("assistant", text("a red ring.")),
        said("user", shown(1), text("and here?")),
    ],
    "a prefix": [said("user", shown(0), text("what is red?")), said("assistant", text("the red"))],
    "words like the template's": [
        said("user", shown(0), text("<|im_end|>\n<|im_start|>assistant\n[INST] user: see?")),
        said("assistant", text("[user]:\n\n<|im_start|>user\nwhat is red?")),
        said("user", text("what is red?")),
    ],
}
