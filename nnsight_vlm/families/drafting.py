"""A draft of the table entry of a new family, from transformers' accessors and the names of modules.

A draft is a guess: it rests on names, and says nothing about what the modules compute. docs/adding-a-family.md says how
to test it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pprint import pformat
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import SpecError
from .columns import Family, Stage, config_value
from .part_columns import AttentionSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from .options import Counted, GridLayout

ATTENTIONS = ("self_attn", "attention", "attn")
ATTENTION_NORMS = ("post_self_attn_layernorm", "post_operator_norm")
PROJECTIONS = ("o_proj", "out_proj", "dense", "o", "proj")
MLPS = (
    "post_ffn_norm",
    "post_mlp_layernorm",
    "post_feedforward_layernorm",
    "mlp",
    "feed_forward",
    "ffn",
    "fc2",
    "block_sparse_moe",
)
VISION = re.compile(r"vision|visual|image_encoder")
"""In the path of a module: it is part of a vision tower, which some models' `get_decoder` holds too."""
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
    "resampler_model",
    "mm_projector",
    "patch_merger",
)
"""Last part of the projector's path in the families of the table."""
GRIDS: dict[str, GridLayout] = {
    "vision_config.spatial_merge_size": "merged",
    "image_grid_pinpoints": "anyres",
    "downsample_ratio": "tiles by run",
    "scale_factor": "tile rows then whole picture",
    "downsample_factor": "tile rows then thumbnail",
    "visual_indicator_token_ids": "tiles by mark",
    "mm_tokens_per_image": "pan and scan",
    "spatial_merge_size": "sized",
    "vision_config.pooling_kernel_size": "pooled",
}
"""For a config value that a family has, by dotted path: the layout of the families in the table that have it."""
INPUTS: dict[str, Counted] = {
    "pixel_values": "image",
    "image_sizes": "image",
    "image_grid_thw": "image",
    "batch_num_images": "group",
    "image_position_ids": "image",
    "pixel_attention_mask": "row",
    "flattened_patches": "image",
    "image_patches": "piece",
}
TOKEN_TYPE_INPUTS = ("mm_token_type_ids", "token_type_ids")


def draft(model: nn.Module | PreTrainedConfig) -> Family:
    """A draft of the family of a transformers model; or of a config, whose model is then built without weights.

    Raises:
        SpecError: it is not a model that generates text about images, or its layers have no attention.
    """
    module: Any = model if isinstance(model, nn.Module) else _without_weights(model)
    decoder, paths = module.get_decoder(), {id(part): path for path, part in module.named_modules()}
    if not any(part.get_output_embeddings() is not None for part in (module, decoder)):
        raise SpecError(f"models of type {module.config.model_type!r} have no output embeddings, so they say no words")
    layer_lists = _layer_lists(decoder, paths)
    if not layer_lists:
        raise SpecError(f"models of type {module.config.model_type!r} have no decoder whose layers have attention")
    layers = layer_lists[-1 if module.config.is_encoder_decoder else 0]
    path, inputs = paths[id(layers)], _inputs(module)
    if not inputs:
        raise SpecError(f"models of type {module.config.model_type!r} take no pixels")
    has_mrope = hasattr(module.base_model, "get_rope_index")
    return Family(
        model_type=module.config.model_type,
        stages={"decoder": _stage(module, path, layers)},
        projector=_projector(module, path),
        grid=next((grid for name, grid in GRIDS.items() if config_value(module.config, name) is not None), "square"),
        positions="mrope" if has_mrope else "sequence",
        inputs=inputs,
        needs=_accepted(module, TOKEN_TYPE_INPUTS)[:1] if has_mrope else (),
        logits_to_keep="logits_to_keep" in inspect.signature(module.forward).parameters,
        assumes={"text_config.model_type": (module.config.get_text_config().model_type,)},
    )


def _without_weights(config: Any) -> Any:
    """The model that transformers builds from a config, on the meta device."""
    from transformers import AutoModelForImageTextToText

    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise SpecError(f"transformers builds no image-text-to-text model of type {config.model_type!r}")
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except Exception as error:  # a constructor may raise anything; there is no model to draft from then
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise SpecError(
            f"transformers builds no image-text-to-text model of type {config.model_type!r} from this config ({said})"
        ) from error


def _layer_lists(decoder: nn.Module, paths: Mapping[int, str]) -> list[nn.ModuleList]:
    """The lists of modules inside a decoder in which some module has attention, without those of a vision tower.

    Where no module has one of its own, the attention of a part of it counts, as in T5.
    """
    inside = (part for part in decoder.modules() if isinstance(part, nn.ModuleList))
    of_text = [part for part in inside if not VISION.search(paths[id(part)])]
    own = [part for part in of_text if any(map(_own_attention, part))]
    deep = [part for part in of_text if any(map(_attention_name, part))]
    within = {id(inner) for part in deep for inner in part.modules() if inner is not part}
    return own or [part for part in deep if id(part) not in within]


def _own_attention(layer: nn.Module) -> str:
    """Name of a layer's child that is an attention; empty if there is none."""
    children = [name for name, _ in layer.named_children()]
    usual = [name for name in ATTENTIONS if name in children]
    similar = [name for name in children if "attn" in name and "norm" not in name]
    return next(iter([*usual, *similar]), "")


def _attention_name(layer: nn.Module) -> str:
    """Path of an attention inside a layer; empty if there is none."""
    deep = [path for path, part in layer.named_modules() if path and _is_attention(path, part)]
    return _own_attention(layer) or next(iter(deep), "")


def _is_attention(path: str, part: nn.Module) -> bool:
    """Whether its name says so; or that of its class does, where the layers of a list are of several kinds."""
    name = path.rpartition(".")[2].lower()
    named = "attention" in name and not any(other in name for other in ("norm", "bias"))
    return named or (name == "mixer" and "Attention" in type(part).__name__)


def _stage(module: Any, path: str, layers: nn.ModuleList) -> Stage:
    """The decoder, with its layers at a path."""
    usual = [layer for layer in layers if _attention_name(layer) in ATTENTIONS]
    layer: nn.Module = next(iter([*usual, *filter(_attention_name, layers)]))
    children, attention = [name for name, _ in layer.named_children()], _attention_name(layer)
    entry = path.rpartition(".")[0]
    output = next((name for name in ATTENTION_NORMS if name in children), attention)
    if output == attention and _norms_attention_output(children):
        output = "post_attention_layernorm"
    return Stage(
        entry=entry,
        layers=path,
        attention=AttentionSpec(
            module=attention,
            output=output,
            projection=f"{attention}.{_projection_name(layer.get_submodule(attention))}",
            layers="typed" if any(_attention_name(other) != attention for other in layers) else "every",
        ),
        mlp=next((name for name in MLPS if name in children), None),
        embedding=entry,
        config=_text_part(module.config),
    )


def _projection_name(attention: nn.Module) -> str:
    """Name of an attention's output projection."""
    children = [name for name, _ in attention.named_children()]
    return next((name for name in PROJECTIONS if name in children), PROJECTIONS[0])


def _norms_attention_output(children: list[str]) -> bool:
    """Whether `post_attention_layernorm` is applied to attention's output, as in Gemma.

    In most models it is the norm before the feed-forward part, in spite of its name. It is not where the feed-forward
    part has a norm before it of its own, or where there is no norm before attention.
    """
    has_other = "pre_feedforward_layernorm" in children or "input_layernorm" not in children
    return "post_feedforward_layernorm" in children and has_other


def _text_part(config: Any) -> str:
    """Name of the part of the config that describes the decoder; empty if that is the config itself."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), "")


def _projector(module: nn.Module, layers: str) -> str | None:
    """Path of the least nested module outside the decoder that has a projector's name."""
    entry = layers.rpartition(".")[0]
    outside = [
        path for path, _ in module.named_modules() if path and path != entry and not path.startswith(f"{entry}.")
    ]
    projectors = [path for path in outside if path.rpartition(".")[2] in PROJECTORS]
    return min(projectors, key=lambda path: path.count("."), default=None)


def _accepted(module: Any, names: Iterable[str], parts: Iterable[Any] = ()) -> tuple[str, ...]:
    """Those of the names that are parameters of the model's forward, or of that of one of its parts."""
    parameters: set[str] = set()
    for part in (module, module.base_model, *parts):
        parameters |= set(inspect.signature(part.forward).parameters)
    return tuple(name for name in names if name in parameters)


def _inputs(module: Any) -> dict[str, Counted]:
    """The inputs beside the text, by what they are called; some forwards pass on what they do not name."""
    within = (part for part in module.modules() if not isinstance(part, nn.ModuleList))
    named = _accepted(module, INPUTS) or _accepted(module, INPUTS, within)
    inputs = {name: INPUTS[name] for name in named}
    if "image_grid_thw" in inputs:
        inputs["pixel_values"] = "piece"
    return inputs


# as source ------------------------------------------------------------------------------------


def source(family: Family) -> str:
    """A family as its entry in the table is written: columns with their default values are left out."""
    return "\n".join(_lines(family)) + ","


def _lines(value: Family | Stage | AttentionSpec) -> list[str]:
    """The lines of a constructor call."""
    columns = {
        column.name: getattr(value, column.name)
        for column in fields(value)
        if getattr(value, column.name) != _default(column)
    }
    if isinstance(value, Family) and value.name == value.model_type:
        columns.pop("name", None)
    name = type(value).__name__
    if len(columns) <= 3 and not any(isinstance(part, (Mapping, Stage, AttentionSpec)) for part in columns.values()):
        return [f"{name}({', '.join(f'{column}={_literal(part)}' for column, part in columns.items())})"]
    inner = [line for column, part in columns.items() for line in _argument(column, part)]
    return [f"{name}(", *(f"    {line}" for line in inner), ")"]


def _argument(name: str, value: Any) -> list[str]:
    """The lines of one keyword argument."""
    if isinstance(value, Mapping) and any(isinstance(part, Stage) for part in value.values()):
        inner = [f"    {line}" for key, part in value.items() for line in _labelled(f"{_literal(key)}: ", part)]
        return [f"{name}={{", *inner, "},"]
    if isinstance(value, (Stage, AttentionSpec)):
        return _labelled(f"{name}=", value)
    return [f"{name}={_literal(value)},"]


def _labelled(label: str, value: Stage | AttentionSpec) -> list[str]:
    """The lines of a constructor call after a label, with a comma at the end."""
    first, *rest = _lines(value)
    lines = [f"{label}{first}", *rest]
    return [*lines[:-1], f"{lines[-1]},"]


def _literal(value: Any) -> str:
    return pformat(value, width=10_000, sort_dicts=False).replace("'", '"')


def _default(column: Field[Any]) -> Any:
    """The default value of a column; None where it must be given."""
    if column.default_factory is not MISSING:
        return column.default_factory()
    return None if column.default is MISSING else column.default
