"""Vision towers whose batch has a row for every picture or tile: the stages of the name `"vision"`.

Towers whose tokens lie in one line are in `packed_towers`.
"""

from __future__ import annotations

from dataclasses import replace

from .columns import Stage
from .part_columns import AttentionSpec, TowerSpec

OUT_PROJ = AttentionSpec(projection="self_attn.out_proj")
AT_CALL = AttentionSpec(mask="")
"""The attention module takes no mask, or drops it: it hands its function None."""


def _tower(path: str, tower: TowerSpec, attention: AttentionSpec = OUT_PROJ, mlp: str = "mlp") -> Stage:
    """A tower with its layers at a path."""
    return Stage(
        entry="",
        layers=path,
        attention=attention,
        mlp=mlp,
        embedding=f"{path}.0",
        causal=False,
        config="vision_config",
        tower=tower,
    )


LAYERS = "model.vision_tower.encoder.layers"
CHOSEN = TowerSpec(taken=("vision_feature_layer",))
"""The config says which hidden states."""
CLIP_TOWER = _tower(LAYERS, replace(CHOSEN, cls=1))
VIP_TOWER = _tower(LAYERS, TowerSpec(cls=1, taken=("vision_feature_layer", "vision_feature_layers")))
"""Of VipLLaVA, whose config has had the second name."""
IMAGE_CLIP_TOWER = _tower("model.image_tower.encoder.layers", replace(CHOSEN, cls=1))
"""Of Video-LLaVA, which has another tower for videos."""
LAST_CLIP_TOWER = _tower(LAYERS, TowerSpec(cls=1))
SIGLIP_TOWER = _tower(LAYERS, CHOSEN)
LAST_SIGLIP_TOWER = _tower(LAYERS, TowerSpec())
GRANITE_TOWER = _tower(LAYERS, TowerSpec(taken=("spatial_vision_layer", "deepstack_layer_map")))
VISION_MODEL_TOWER = _tower("model.vision_model.encoder.layers", TowerSpec())
"""Of DeepSeek-VL."""
JANUS_TOWER = replace(VISION_MODEL_TOWER, attention=AttentionSpec(projection="self_attn.projection_layer"))
SCALED = (
    "each layer of the tower multiplies it by a learned vector before it adds it, which no module returns; write "
    'site="head", what the output projection of attention is handed, or site="residual"'
)
INTERN_TOWER = replace(
    _tower(
        "model.vision_tower.encoder.layer",
        replace(CHOSEN, cls=1),
        AttentionSpec(module="attention", output="attention", projection="attention.projection_layer"),
    ),
    lacks={"attention": SCALED, "mlp": SCALED},
)
OVIS_TOWER = _tower(
    "model.vision_tower.transformer.encoder.layers",
    TowerSpec(),
    AttentionSpec(module="attention", output="attention", projection="attention.out_proj"),
    mlp="ffn",
)
IDEFICS3_TOWER = replace(VISION_MODEL_TOWER, tower=TowerSpec(sequences="rows with padding"))
IDEFICS2_TOWER = replace(VISION_MODEL_TOWER, tower=TowerSpec(sequences="rows of whole patches"))
ARIA_TOWER = _tower(LAYERS, replace(CHOSEN, sequences="rows with padding"))
SIGLIP2_TOWER = _tower(LAYERS, TowerSpec(sequences="shaped rows"))
GEMMA4_TOWER = _tower(
    LAYERS,
    TowerSpec(sequences="located rows"),
    AttentionSpec(output="post_attention_layernorm", projection="self_attn.o_proj", clipped_when="use_clipped_linears"),
    mlp="post_feedforward_layernorm",
)
BLIP_TOWER = _tower(
    "vision_model.encoder.layers", TowerSpec(cls=1), replace(AT_CALL, projection="self_attn.projection")
)
KOSMOS_TOWER = _tower("vision_model.model.encoder.layers", TowerSpec(cls=1))
LLAMA4_TOWER = _tower("vision_model.model.layers", TowerSpec(cls=1, cls_behind=True), AT_CALL)
MOLMO_TOWER = _tower(
    "model.vision_tower.layers",
    TowerSpec(sequences="rows of crops", taken=None, taps="adapter_config.vision_feature_layer"),
    AttentionSpec(),
)
MLLAMA_TOWER = replace(
    _tower(
        "model.vision_model.transformer.layers",
        TowerSpec(sequences="tiles in one row", cls=1, taps="vision_config.intermediate_layers_indices"),
        AttentionSpec(),
    ),
    head_count="attention_heads",
    lacks={
        "global layers": "what the last layer gives runs through layers of another kind, global_transformer: no stage"
    },
)
OWN_SCORES = (
    "attention adds terms for relative places to its scores by itself, in windows, and calls no function of them"
)
SAM_TOWER = replace(
    _tower("model.vision_tower.layers", TowerSpec(), AttentionSpec(layers="none")),
    lacks=dict.fromkeys(("attention", "query", "key", "value", "head"), OWN_SCORES),
)
"""Of GOT-OCR2. States are `[tile, row, column, width]`."""

# why a model has no tower that could be a stage -----------------------------------------------------

NO_TOWER = "the decoder is handed projected patches: there is no vision tower"
CONVOLUTIONS = "the vision tower is made of convolutions, and has no layers that attend"
CODEBOOK = "a convolutional encoder turns patches into entries of a codebook: there is no tower of layers that attend"
CHANNELS = (
    "layers attend among channels and within windows in turn, at several resolutions: tokens differ between layers"
)
MERGES_WITHIN = "neighbouring patches are merged in the midst of the tower, so that its layers hold different tokens"
