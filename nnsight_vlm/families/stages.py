"""The stages that rows of the table are made of."""

from __future__ import annotations

from dataclasses import replace

from .columns import AttentionSpec, Stage

# decoders that differ from the most common one ---------------------------------------------------

PLAIN = Stage()
NORMED = Stage(attention=AttentionSpec(output="post_attention_layernorm"), mlp="post_feedforward_layernorm")
"""Gemma: what attention and the feed-forward add is normed first."""
TEXT_MODEL = Stage(entry="model.text_model", layers="model.text_model.layers", embedding="model.text_model")
CHAMELEON = Stage(entry="model", layers="model.layers", embedding="model.layers.0", config="")

QFORMER = Stage(
    entry="",
    layers="qformer.encoder.layer",
    attention=AttentionSpec(module="attention.attention", output="attention.E_output.dense"),
    cross=AttentionSpec(
        module="crossattention.attention",
        output="crossattention.E_output.dense",
        mask="encoder_attention_mask",
        layers="at intervals",
    ),
    mlp="output_query.dense",
    embedding="qformer.encoder",
    causal=False,
    config="qformer_config",
    keys="patches",
)
INSTRUCTED = replace(QFORMER, text="qformer_input_ids")
"""A Q-Former that reads the question beside its queries."""
T5_SELF = AttentionSpec(module="layer.0.SelfAttention", output="layer.0.SelfAttention", mask="mask")
T5_ENCODER = Stage(
    entry="",
    layers="language_model.encoder.block",
    attention=T5_SELF,
    mlp="layer.1.DenseReluDense",
    embedding="language_model.encoder",
    causal=False,
)
T5_DECODER = Stage(
    entry="language_model.decoder",
    layers="language_model.decoder.block",
    attention=T5_SELF,
    cross=AttentionSpec(module="layer.1.EncDecAttention", output="layer.1.EncDecAttention", mask="mask"),
    mlp="layer.2.DenseReluDense",
    embedding="language_model.decoder.block.0",
    layer_count="num_decoder_layers",
)
OPT = Stage(
    entry="language_model.model.decoder",
    layers="language_model.model.decoder.layers",
    mlp="fc2",
    embedding="language_model.model.decoder",
)
INNER = Stage(entry="language_model.model", layers="language_model.model.layers", embedding="language_model.model")
MLLAMA = replace(
    PLAIN,
    attention=AttentionSpec(layers="not crossing"),
    cross=AttentionSpec(module="cross_attn", output="cross_attn", layers="crossing"),
    embedding="model.language_model.layers.0",
)
BART_ENCODER = Stage(
    entry="",
    layers="model.language_model.encoder.layers",
    mlp="fc2",
    embedding="model.language_model.encoder.layers.0",
    causal=False,
    layer_count="encoder_layers",
    head_count="encoder_attention_heads",
)
BART_DECODER = Stage(
    entry="model.language_model.decoder",
    layers="model.language_model.decoder.layers",
    cross=AttentionSpec(module="encoder_attn", output="encoder_attn"),
    mlp="fc2",
    embedding="model.language_model.decoder.layers.0",
    layer_count="decoder_layers",
    head_count="decoder_attention_heads",
)
KOSMOS = Stage(
    entry="text_model.model", layers="text_model.model.layers", mlp="ffn", embedding="text_model.model.layers.0"
)
KOSMOS_RESAMPLER = Stage(
    entry="",
    layers="image_to_text_projection",
    attention=AttentionSpec(layers="none"),
    cross=AttentionSpec(module="x_attn", output="x_attn"),
    mlp=None,
    embedding=None,
    causal=False,
    layer_count="",
    keys="patches and latents",
)
PERCEIVER = Stage(
    entry="",
    layers="model.connector.perceiver_resampler.layers",
    attention=AttentionSpec(layers="none"),
    cross=AttentionSpec(),
    embedding=None,
    causal=False,
    config="perceiver_config",
    layer_count="resampler_depth",
    head_count="resampler_n_heads",
    keys="crop patches",
)
