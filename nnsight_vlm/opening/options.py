"""Which options of `load` concern the model, and which its processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import meant
from ..errors import SpecError

HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
"""The options that say which files of a repository are read, and how: those of the model and of its processor."""
MODEL_OPTIONS = (
    *HUB_OPTIONS,
    "attn_implementation",
    "config",
    "device_map",
    "dtype",
    "experts_implementation",
    "key_mapping",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "offload_state_dict",
    "quantization_config",
    "torch_dtype",
    "tp_plan",
    "tp_size",
    "use_kernels",
    "use_safetensors",
    "variant",
    "weights_only",
)
"""The options that say how a model is loaded."""


FORMER = {
    "load_in_4bit": "quantization_config=BitsAndBytesConfig(load_in_4bit=True)",
    "load_in_8bit": "quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
    "use_flash_attention_2": 'attn_implementation="sdpa"',
    "use_auth_token": "token=",
    "gguf_file": "a folder of safetensors; weights of GGUF files belong to other programs",
}
"""What is written instead of options that are no more, or never were."""


def part_options(
    name: str, config: Any, processor: Any, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the processor (`min_pixels`, `do_pan_and_scan`, ...), and options of the model.

    What the model's config has a value for is the model's, as transformers has it.

    Raises:
        SpecError: an option that neither knows, with the nearest that one of them does.
    """
    known = picture_settings(processor)
    ours = {name: value for name, value in options.items() if name not in MODEL_OPTIONS and name in known}
    rest = {name: value for name, value in options.items() if name not in ours}
    for option in rest:
        if option not in MODEL_OPTIONS and not hasattr(config, option):
            if option in FORMER:
                raise SpecError(f"{option}= is no option of the model {name!r}; write {FORMER[option]}")
            instead = meant(option, (*MODEL_OPTIONS, *known), "{}=".format)
            raise SpecError(f"{option}= is no option of the model {name!r}, nor of its processor{instead}")
    return ours, rest


def placed(config: Any, hub: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model, such that all its files are read as `hub` says, and attention takes a mask.

    A pipeline of transformers, which nnsight loads models by, looks for an adapter in the ordinary cache and on the
    network whatever `cache_dir` and `local_files_only` say; and a config that asks for flash attention, as some of
    models that were trained with it do, has its way whatever `attn_implementation` says. Neither where it is given a
    config.

    Args:
        config: the model's config; it is given the values of options that are its own.
        hub: the options of `HUB_OPTIONS` that the user gave.
        options: all options of the model.
    """
    where = {name: hub[name] for name in ("cache_dir", "local_files_only") if name in hub}
    flash = "flash" in str(getattr(config, "_attn_implementation", None))
    if flash:
        config._attn_implementation = "sdpa"
    if not where and "subfolder" not in hub and not flash:
        return dict(options)
    own = {name: value for name, value in options.items() if name not in MODEL_OPTIONS}
    for name, value in own.items():
        setattr(config, name, value)
    rest = {name: value for name, value in options.items() if name not in own}
    return {"config": config, **rest, "adapter_kwargs": where}


def picture_settings(processor: Any) -> frozenset[str]:
    """The settings that a processor has for pictures; none of a processor that is not transformers' own."""
    kwargs = getattr(getattr(processor, "image_processor", None), "valid_kwargs", None)
    return frozenset(getattr(kwargs, "__annotations__", {}))
