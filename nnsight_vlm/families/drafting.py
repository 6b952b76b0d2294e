"""A first row for a family that has none, found by transformers' own accessors and one look at the layers.

A draft is a guess to try, not a row: names are known, what the modules do is not. docs/adding-a-family.md says how to
prove it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pprint import pformat
from typing import Any

import torch
from torch import nn

from ..errors import SpecError
from .columns import AttentionSpec, Family, Stage

ATTENTIONS = ("self_attn", "attention", "attn")
MLPS = ("post_mlp_layernorm", "post_feedforward_layernorm", "mlp", "feed_forward", "ffn", "fc2", "block_sparse_moe")
PROJECTORS = (
    "multi_modal_projector",
    "connector",
    "aligner",
    "merger",
    "embed_vision",
    "vision_projection",
    "language_projection",
    "visual_embeddings_table",
    "image_to_text_projection",
    "vision_embed_tokens",
    "projector",
    "mm_projector",
)
"""What the module is called whose output is the image features."""
GRIDS = {
    "vision_config.spatial_merge_size": "merged",
    "image_grid_pinpoints": "anyres",
    "downsample_ratio": "tiles by run",
    "scale_factor": "rows then whole",
    "downsample_factor": "rows then thumbnail",
    "visual_indicator_token_ids": "tiles by mark",
    "mm_tokens_per_image": "pan and scan",
    "spatial_merge_size": "sized",
    "vision_config.pooling_kernel_size": "pooled",
}
"""A name in the config, and the layout of the families that have it."""
INPUTS = {
    "pixel_values": "image",
    "image_sizes": "image",
    "image_grid_thw": "image",
    "batch_num_images": "image",
    "image_position_ids": "image",
    "pixel_attention_mask": "row",
}
MARKS = ("mm_token_type_ids", "token_type_ids")


def draft(model: Any) -> Family:
    """A row to try for a transformers model, or for a config, whose model is then built without weights.

    Raises:
        SpecError: it is no model that writes text about images, or has no layers with attention.
    """
    module: Any = model if isinstance(model, nn.Module) else _built(model)
    names = {id(part): path for path, part in module.named_modules()}
    inner = module.get_decoder()
    lists = [*_layer_lists(inner)]
    layers = (lists or [None])[-1 if module.config.is_encoder_decoder else 0]
    if layers is None or module.get_output_embeddings() is None:
        raise SpecError(f"models of type {module.config.model_type!r} have no decoder whose layers have attention")
    path = names[id(layers)]
    return Family(
        model_type=module.config.model_type,
        stages={"decoder": _stage(module, path, layers)},
        projector=_projector(module, path),
        grid=next((grid for name, grid in GRIDS.items() if _has(module.config, name)), "square"),
        positions="mrope" if hasattr(module.base_model, "get_rope_index") else "sequence",
        inputs=_inputs(module),
        needs=_accepted(module, MARKS)[:1] if hasattr(module.base_model, "get_rope_index") else (),
        logits_to_keep="logits_to_keep" in inspect.signature(module.forward).parameters,
        assumes={"text_config.model_type": (module.config.get_text_config().model_type,)},
    )


def _built(config: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except Exception as error:  # whatever a constructor may raise: there is no model to look at
        raise SpecError(f"transformers builds no image-text-to-text model of type {config.model_type!r}") from error


def _layer_lists(part: Any) -> Iterator[Any]:
    """Lists of layers of which some have a child with attention in its name."""
    for inner in part.modules():
        if isinstance(inner, nn.ModuleList) and any(_attention(layer) for layer in inner):
            yield inner


def _attention(layer: Any) -> str:
    """The child of a layer that attends; empty if there is none."""
    children = [name for name, _ in layer.named_children()]
    exact = [name for name in ATTENTIONS if name in children]
    return next(iter([*exact, *(name for name in children if "attn" in name and "norm" not in name)]), "")


def _stage(module: Any, path: str, layers: Any) -> Stage:
    layer = next((one for one in layers if _attention(one) in ATTENTIONS), layers[0])
    children, attention = [name for name, _ in layer.named_children()], _attention(layer)
    typed = any(_attention(other) != attention for other in layers)
    entry = path.rpartition(".")[0]
    after = "post_feedforward_layernorm" in children and (
        "pre_feedforward_layernorm" in children or "input_layernorm" not in children
    )  # then the norm of the other name is behind attention, too
    output = "post_attention_layernorm" if after else attention
    return Stage(
        entry=entry,
        layers=path,
        attention=AttentionSpec(
            module=attention,
            output="post_self_attn_layernorm" if "post_self_attn_layernorm" in children else output,
            layers="typed" if typed else "every",
        ),
        mlp=next((name for name in MLPS if name in children), None),
        embedding=entry,
        config=_text_part(module.config),
    )


def _text_part(config: Any) -> str:
    """Where in the config the decoder's sizes are."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), "")


def _projector(module: Any, layers: str) -> str | None:
    """The shallowest module outside the decoder that is called as projectors are."""
    entry = layers.rpartition(".")[0]
    outside = [
        path for path, _ in module.named_modules() if path and path != entry and not path.startswith(f"{entry}.")
    ]
    found = [path for path in outside if path.rpartition(".")[2] in PROJECTORS]
    return min(found, key=lambda path: path.count("."), default=None)


def _has(config: Any, path: str) -> bool:
    """Whether a config says something at a dotted path."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config is not None


def _accepted(module: Any, names: Any) -> tuple[str, ...]:
    """Those of the names that a forward takes."""
    taken: set[str] = set()
    for part in (module, module.base_model):
        taken |= set(inspect.signature(part.forward).parameters)
    return tuple(name for name in names if name in taken)


def _inputs(module: Any) -> dict[str, str]:
    counted = {name: INPUTS[name] for name in _accepted(module, INPUTS)}
    if "image_grid_thw" in counted:
        counted["pixel_values"] = "piece"
    return counted


# as source ------------------------------------------------------------------------------------


def source(row: Family) -> str:
    """The row as it is written in the table, without what every row has."""
    return "\n".join(_lines(row)) + ","


def _lines(value: Any) -> list[str]:
    told = {each.name: getattr(value, each.name) for each in fields(value) if getattr(value, each.name) != _usual(each)}
    if isinstance(value, Family) and value.name == value.model_type:
        told.pop("name", None)
    if len(told) <= 3 and not any(isinstance(one, (Mapping, Stage, AttentionSpec)) for one in told.values()):
        return [f"{type(value).__name__}({', '.join(f'{name}={_told(one)}' for name, one in told.items())})"]
    lines = [f"{type(value).__name__}("]
    for name, one in told.items():
        lines += [f"    {line}" for line in _entry(name, one)]
    return [*lines, ")"]


def _entry(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and any(isinstance(one, Stage) for one in value.values()):
        inner = [f"    {line}" for key, one in value.items() for line in _labelled(f"{_told(key)}: ", one)]
        return [f"{name}={{", *inner, "},"]
    if isinstance(value, (Stage, AttentionSpec)):
        return _labelled(f"{name}=", value)
    return [f"{name}={_told(value)},"]


def _labelled(label: str, value: Any) -> list[str]:
    first, *rest = _lines(value)
    lines = [f"{label}{first}", *rest]
    return [*lines[:-1], f"{lines[-1]},"]


def _told(value: Any) -> str:
    return pformat(value, width=10_000, sort_dicts=False).replace("'", '"')


def _usual(each: Any) -> Any:
    """What a column holds where nothing is said."""
    if each.default_factory is not MISSING:
        return each.default_factory()
    return None if each.default is MISSING else each.default
