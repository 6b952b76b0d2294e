"""Checkpoints in the layout of the code they were published with, and where their weights are for transformers.

Such a checkpoint has weights under other names and often code of its own. The converted repository has the same
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Original(NamedTuple):
    """One kind of checkpoint as it was first published.

    Attributes:
        names: a pattern for its name on the hub.
        converted: the repository for transformers, made of the pattern's groups; empty where nobody has converted it.
        types: values of `model_type` in its config.
        marks: a field of its config that a converted one does not have.
    """

    names: str
    converted: str
    types: tuple[str, ...] = ()
    marks: str = ""


ORIGINALS = (
    Original(
        r"liuhaotian/llava-v1\.5-(\d+b)(?:-lora)?",
        r"llava-hf/llava-1.5-\1-hf",
        ("llava", "llava_llama"),
        "mm_vision_tower",
    ),
    Original(
        r"liuhaotian/llava-v1\.6-(34b|mistral-7b|vicuna-7b|vicuna-13b)",
        r"llava-hf/llava-v1.6-\1-hf",
        ("llava_mistral",),
        "mm_vision_tower",
    ),
    Original(r"liuhaotian/\S+", ""),
    Original(
        r"lmms-lab/llava-onevision-qwen2-(0\.5b|7b|72b)-(si|ov)",
        r"llava-hf/llava-onevision-qwen2-\1-\2-hf",
        ("llava_qwen",),
        "mm_vision_tower",
    ),
    Original(r"OpenGVLab/(InternVL3-\w+)", r"OpenGVLab/\1-hf", ("internvl_chat",), "auto_map"),
    Original(r"OpenGVLab/(InternVL3_5-\w+)", r"OpenGVLab/\1-HF", ("internvl_chat",), "auto_map"),
    Original(r"OpenGVLab/(?:Mini-)?InternVL\S*(?<!-hf)(?<!-HF)", "", ("internvl_chat",), "auto_map"),
    Original(r"microsoft/(Florence-2-(?:base|large)(?:-ft)?)", r"florence-community/\1", ("florence2",), "auto_map"),
    Original(r"microsoft/(?:Phi-3(?:\.5)?-vision|llava-med|Magma)\S*", "", ("phi3_v", "magma"), "auto_map"),
    Original(r"deepseek-ai/(deepseek-vl-\S+)", r"deepseek-community/\1", ("multi_modality",), "aligner_config"),
    Original(r"deepseek-ai/(Janus\S+)", r"deepseek-community/\1", ("multi_modality",), "gen_vision_config"),
    Original(r"AIDC-AI/(Ovis2-\w+)", r"thisisiron/\1-hf", ("ovis",), "auto_map"),
    Original(r"Qwen/Qwen-VL(?:-Chat)?", "", ("qwen",), "visual"),
    Original(r"allenai/Molmo-\S+", "", ("molmo",), "auto_map"),
    Original(r"vikhyatk/moondream\S*", "", ("moondream1", "phi-msft"), "auto_map"),
    Original(r"openbmb/MiniCPM-V\S*", "", ("minicpmv",), "auto_map"),
)
"""The checkpoints that people try, as a table."""


def refusal(name: str, config: Mapping[str, Any]) -> str:
    """What to say of a checkpoint in its original layout; empty for any other.

    Args:
        name: as the user gave it.
        config: its config.json; empty before it is read.
    """
    for original in ORIGINALS:
        named = re.fullmatch(original.names, name)
        if named is None and not (config.get("model_type") in original.types and original.marks in config):
            continue
        if not original.converted:
            return (
                f"{name!r} needs code of its own repository, which this package does not run, and no version of it for "
                "transformers is known; load a model that transformers has a class for"
            )
        where = f"load {named.expand(original.converted)!r}" if named else f"load {_any_of(original.converted)}"
        return (
            f"{name!r} is in the layout of the code that it was published with. The same weights for transformers: "
            f"{where}"
        )
    return ""


def _any_of(converted: str) -> str:
    """The repositories of a row together, where the folder does not say which of them it is."""
    shown = re.sub(r"\\\d", "...", converted)
    return f"what lies on the hub under {shown!r}"
