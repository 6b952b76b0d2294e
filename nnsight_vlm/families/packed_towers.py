"""Vision towers whose tokens lie in one line, those of all pictures of a batch: Qwen's, and others built like them.

Their attention is called once for every picture, frame or window, without a mask; Pixtral's is called once, with a mask
in which the pictures are blocks.
"""

from __future__ import annotations

from dataclasses import replace

from .columns import Stage
from .part_columns import AttentionSpec, Line, TowerSpec

TURNED = Line(query="query_states_1", key="key_states_1", value="value_states_1")
"""Parts that are assigned once more before, by head of each token."""
BLOCKS = Stage(
    entry="",
    layers="model.visual.blocks",
    attention=AttentionSpec(module="attn", output="attn", projection="attn.proj", line=Line()),
    embedding="model.visual.blocks.0",
    causal=False,
    config="vision_config",
    layer_count="depth",
    head_count="num_heads",
    tower=TowerSpec(sequences="line, merged", packed=True),
)
"""Of Qwen3.5 and GLM-V."""
QWEN2_TOWER = replace(BLOCKS, width="embed_dim")
"""The config's `hidden_size` is the decoder's width."""
WINDOWED_TOWER = replace(
    BLOCKS, tower=TowerSpec(sequences="line, merged windows", packed=True, full="fullatt_block_indexes")
)
"""Of Qwen2.5-VL: queries see their window, and all of their frame in the layers that the config lists."""
TAPPED_TOWER = replace(
    BLOCKS,
    tower=TowerSpec(sequences="line, merged", packed=True, taps="vision_config.deepstack_visual_indexes"),
)
"""Of Qwen3-VL: what some layers give is merged too, and added in the decoder's first layers (DeepStack)."""
EXAONE_TOWER = replace(WINDOWED_TOWER, attention=replace(BLOCKS.attention, line=TURNED))
ERNIE_TOWER = replace(BLOCKS, layers="model.vision_tower.blocks", embedding="model.vision_tower.blocks.0")
KIMI_TOWER = replace(
    BLOCKS,
    layers="model.vision_tower.layers",
    attention=replace(BLOCKS.attention, line=TURNED),
    embedding="model.vision_tower.layers.0",
    layer_count="num_hidden_layers",
    head_count="num_attention_heads",
    tower=TowerSpec(sequences="line, row by row", packed=True),
)
PADDLE_TOWER = replace(
    KIMI_TOWER,
    layers="model.visual.vision_model.encoder.layers",
    attention=AttentionSpec(projection="self_attn.out_proj", line=TURNED),
    embedding="model.visual.vision_model.encoder.layers.0",
)
HUNYUAN_TOWER = replace(KIMI_TOWER, attention=AttentionSpec(line=Line()))
LFM3_TOWER = replace(
    KIMI_TOWER,
    attention=AttentionSpec(layers="typed", projection="self_attn.out_proj", line=TURNED),
    mlp="feed_forward",
    tower=BLOCKS.tower,
)
"""Some layers mix neighbouring patches by a convolution in place of attention."""
PIXTRAL_TOWER = Stage(
    entry="",
    layers="model.vision_tower.transformer.layers",
    attention=AttentionSpec(module="attention", output="attention", projection="attention.o_proj"),
    mlp="feed_forward",
    embedding="model.vision_tower.transformer.layers.0",
    causal=False,
    config="vision_config",
    tower=TowerSpec(sequences="line, sized", packed=True, taken=("vision_feature_layer",)),
)
LIGHTON_TOWER = replace(
    PIXTRAL_TOWER,
    layers="model.vision_encoder.transformer.layers",
    embedding="model.vision_encoder.transformer.layers.0",
    tower=TowerSpec(sequences="line, sized", packed=True),
)
