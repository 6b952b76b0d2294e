"""Stages that the family table uses: those that several families share, or that are long."""

from __future__ import annotations

from dataclasses import replace

from .columns import Stage
from .part_columns import AttentionSpec, Gate

# decoder-only language models --------------------------------------------------------------------

CAUSAL_LM_DECODER = Stage(
    entry="language_model.model", layers="language_model.model.layers", embedding="language_model.model.layers.0"
)
"""The decoder of models that hold a complete causal language model, head included, as `language_model`.

It embeds decoded tokens itself: what it is handed are ids then, and only its first layer is always handed states.
"""
GATED_DECODER = Stage(attention=AttentionSpec(gate="torch_sigmoid_0", layers="typed"))
"""Some layers attend, and what their heads give is multiplied by gates of each query before the output projection."""
GEMMA_DECODER = Stage(attention=AttentionSpec(output="post_attention_layernorm"), mlp="post_feedforward_layernorm")
"""Outputs of attention and of the feed-forward part pass a norm before they are added to the residual stream."""
GLM_DECODER = Stage(attention=AttentionSpec(output="post_self_attn_layernorm"), mlp="post_mlp_layernorm")
"""The same under other names."""
LAYER_INPUTS_DECODER = replace(
    GEMMA_DECODER, embedding="model.language_model.layers.0", layer_inputs="hidden_size_per_layer_input"
)
"""Every layer is also handed an input of its own, which the decoder projects from the embeddings that it is handed.

So only the input of the first layer is what enters the first layer, and nothing else.
"""
IDEFICS_DECODER = Stage(entry="model.text_model", layers="model.text_model.layers", embedding="model.text_model")
CHAMELEON_DECODER = Stage(entry="model", layers="model.layers", embedding="model.layers.0", config="")
OUT_PROJ = AttentionSpec(projection="self_attn.out_proj")
OPT_DECODER = Stage(
    entry="language_model.model.decoder",
    layers="language_model.model.decoder.layers",
    attention=OUT_PROJ,
    mlp="fc2",
    embedding="language_model.model.decoder.layers.0",
)
KOSMOS_DECODER = Stage(
    entry="text_model.model",
    layers="text_model.model.layers",
    attention=replace(OUT_PROJ, inner_norm=True),
    mlp="ffn",
    embedding="text_model.model.layers.0",
)
"""A norm lies between the heads and the output projection, which is handed what the norm gives."""
MLLAMA_DECODER = Stage(
    attention=AttentionSpec(layers="not crossing"),
    cross=AttentionSpec(module="cross_attn", output="cross_attn", projection="cross_attn.o_proj", layers="crossing"),
    gates={
        "cross": Gate(call="self_cross_attn_attn_gate_tanh_0", layers="crossing"),
        "mlp": Gate(call="self_cross_attn_mlp_gate_tanh_0", rows="full_text_row_masked_out_mask", layers="crossing"),
    },
    embedding="model.language_model.layers.0",
)
"""Some layers have cross-attention to the image in place of self-attention, and add what they compute through gates."""

# encoders and their decoders ---------------------------------------------------------------------

T5_SELF_ATTENTION = AttentionSpec(
    module="layer.0.SelfAttention",
    output="layer.0.SelfAttention",
    mask="mask",
    projection="layer.0.SelfAttention.o",
)
T5_ENCODER = Stage(
    entry="",
    layers="language_model.encoder.block",
    attention=T5_SELF_ATTENTION,
    mlp="layer.1.DenseReluDense",
    embedding="language_model.encoder",
    causal=False,
    head_dim="d_kv",
)
T5_DECODER = Stage(
    entry="language_model.decoder",
    layers="language_model.decoder.block",
    attention=T5_SELF_ATTENTION,
    cross=AttentionSpec(
        module="layer.1.EncDecAttention",
        output="layer.1.EncDecAttention",
        mask="mask",
        projection="layer.1.EncDecAttention.o",
    ),
    mlp="layer.2.DenseReluDense",
    embedding="language_model.decoder.block.0",
    layer_count="num_decoder_layers",
    head_dim="d_kv",
)
BART_ENCODER = Stage(
    entry="",
    layers="model.language_model.encoder.layers",
    attention=OUT_PROJ,
    mlp="fc2",
    embedding="model.language_model.encoder.layers.0",
    causal=False,
    layer_count="encoder_layers",
    head_count="encoder_attention_heads",
)
BART_DECODER = Stage(
    entry="model.language_model.decoder",
    layers="model.language_model.decoder.layers",
    attention=OUT_PROJ,
    cross=AttentionSpec(module="encoder_attn", output="encoder_attn", projection="encoder_attn.out_proj"),
    mlp="fc2",
    embedding="model.language_model.decoder.layers.0",
    layer_count="decoder_layers",
    head_count="decoder_attention_heads",
)

# stages between the vision tower and the language model --------------------------------------------

QFORMER = Stage(
    entry="",
    layers="qformer.encoder.layer",
    attention=AttentionSpec(
        module="attention.attention", output="attention.E_output.dense", projection="attention.E_output.dense"
    ),
    cross=AttentionSpec(
        module="crossattention.attention",
        output="crossattention.E_output.dense",
        projection="crossattention.E_output.dense",
        mask="encoder_attention_mask",
        layers="at intervals",
    ),
    mlp="output_query.dense",
    embedding="qformer.encoder",
    causal=False,
    config="qformer_config",
    keys="patches",
)
INSTRUCTBLIP_QFORMER = replace(QFORMER, text="qformer_input_ids")
"""Its sequence is the learned queries, then the question's tokens."""
KOSMOS_RESAMPLER = Stage(
    entry="",
    layers="image_to_text_projection",
    attention=AttentionSpec(layers="none"),
    cross=AttentionSpec(module="x_attn", output="x_attn", projection="x_attn.out_proj"),
    mlp=None,
    embedding=None,
    causal=False,
    layer_count="",
    keys="patches and latents",
)
IDEFICS2_RESAMPLER = Stage(
    entry="",
    layers="model.connector.perceiver_resampler.layers",
    attention=AttentionSpec(layers="none"),
    cross=AttentionSpec(),
    embedding=None,
    causal=False,
    config="perceiver_config",
    layer_count="resampler_depth",
    head_count="resampler_n_heads",
    head_dim="resampler_head_dim",
    keys="crop patches",
)

# decoders that several families hold ----------------------------------------------------------------

FINAL_NORMS = {"phi": "final_layernorm"}
"""Final norms of decoders, by their model type, where families that take any decoder have another name."""
PROJECTIONS = {"phi": "self_attn.dense"}
"""Output projections of decoders, by their model type, where families that take any decoder have another name."""
