"""Vision towers that the family table uses: the stages of the name `"vision"`."""

from __future__ import annotations

from .columns import AttentionSpec, Stage, TowerSpec

CLIP_TOWER = Stage(
    entry="",
    layers="model.vision_tower.encoder.layers",
    attention=AttentionSpec(projection="self_attn.out_proj"),
    embedding="model.vision_tower.encoder.layers.0",
    causal=False,
    config="vision_config",
    tower=TowerSpec(cls=1, taken="vision_feature_layer"),
)
