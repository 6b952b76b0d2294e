"""Where each member of the zoo keeps its parts, as torch spells it.

Written down by hand from the modules of transformers, not from the package's table of families: a mistake there must
not be repeated here. Whoever adds a member to the zoo adds it here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Attends:
    """An attention of a layer: the module that calls the attention function, and the one whose output is added."""

    calls: str
    adds: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A transformer: its layers, and the modules inside a layer.

    Attributes:
        one: whether `layers` is itself the only layer.
        embedding: whether what enters the first layer can be written.
        gated: whether layers with cross-attention multiply what they add by gates.
    """

    layers: str = "model.language_model.layers"
    attention: Attends | None = Attends("self_attn", "self_attn")
    cross: Attends | None = None
    mlp: str | None = "mlp"
    one: bool = False
    embedding: bool = True
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Member:
    """The stages of a model, in the order in which they run, and its projector."""

    decoder: Stage = Stage()
    encoder: Stage | None = None
    qformer: Stage | None = None
    resampler: Stage | None = None
    projector: str | None = "model.multi_modal_projector"

    @property
    def stages(self) -> dict[str, Stage]:
        named = {name: getattr(self, name) for name in ("qformer", "resampler", "encoder", "decoder")}
        return {name: stage for name, stage in named.items() if stage is not None}


GEMMA = Stage(attention=Attends("self_attn", "post_attention_layernorm"), mlp="post_feedforward_layernorm")
GLM = Stage(attention=Attends("self_attn", "post_self_attn_layernorm"), mlp="post_mlp_layernorm")
TEXT_MODEL = Stage(layers="model.text_model.layers")
CHAMELEON = Stage(layers="model.layers")
NORMS_AFTER = Stage(attention=Attends("self_attn", "input_layernorm"), mlp="post_attention_layernorm")
SWIN = replace(NORMS_AFTER, layers="model.layers")
QFORMER = Stage(
    layers="qformer.encoder.layer",
    attention=Attends("attention.attention", "attention.output.dense"),
    cross=Attends("crossattention.attention", "crossattention.output.dense"),
    mlp="output_query.dense",
)
T5_SELF = Attends("layer.0.SelfAttention", "layer.0.SelfAttention")
T5_ENCODER = Stage(layers="language_model.encoder.block", attention=T5_SELF, mlp="layer.1.DenseReluDense")
T5_DECODER = Stage(
    layers="language_model.decoder.block",
    attention=T5_SELF,
    cross=Attends("layer.1.EncDecAttention", "layer.1.EncDecAttention"),
    mlp="layer.2.DenseReluDense",
)
BART_ENCODER = Stage(layers="model.language_model.encoder.layers", mlp="fc2")
BART_DECODER = Stage(
    layers="model.language_model.decoder.layers", cross=Attends("encoder_attn", "encoder_attn"), mlp="fc2"
)
KOSMOS_RESAMPLER = Stage(
    layers="image_to_text_projection",
    attention=None,
    cross=Attends("x_attn", "x_attn"),
    mlp=None,
    one=True,
    embedding=False,
)
IDEFICS_RESAMPLER = Stage(
    layers="model.connector.perceiver_resampler.layers",
    attention=None,
    cross=Attends("self_attn", "self_attn"),
    embedding=False,
)

PLAIN = Member()
VISUAL = Member(projector="model.visual.merger")
ALIGNER = Member(projector="model.aligner")
CONNECTOR = Member(decoder=TEXT_MODEL, projector="model.connector")
MOLMO2 = Member(projector="model.multi_modal_projector.image_projector")
IDEFICS2 = replace(CONNECTOR, resampler=IDEFICS_RESAMPLER)
GEMMA_4 = Member(decoder=GEMMA, projector="model.embed_vision")
BLIP_T5 = Member(qformer=QFORMER, encoder=T5_ENCODER, decoder=T5_DECODER, projector="language_projection")

MEMBERS: dict[str, Member] = {
    **dict.fromkeys(
        ("llava", "llava-mistral", "mistral3", "llava-pixtral", "fast_vlm", "vipllava", "llava_next",
         "llava_next_video", "video_llava",
         "internvl", "got_ocr2", "got_ocr2-tiles", "perception_lm", "paligemma", "aya_vision", "cohere2_vision", "aria",
         "aria-split"),
        PLAIN,
    ),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "glm4v_moe", "glm46v-moe"), VISUAL),
    **dict.fromkeys(("janus", "deepseek_vl"), ALIGNER),
    **dict.fromkeys(("idefics3", "idefics3-whole", "smolvlm"), CONNECTOR),
    **dict.fromkeys(("idefics2", "idefics2-split"), IDEFICS2),
    **dict.fromkeys(("gemma4", "gemma4-causal-shared"), GEMMA_4),
    **dict.fromkeys(("paligemma2", "gemma3", "gemma3-crops"), Member(decoder=GEMMA)),
    **dict.fromkeys(("blip-2-t5", "instructblip-t5"), BLIP_T5),
    "gemma3n": Member(decoder=GEMMA, projector=None),  # it also runs on text
    **dict.fromkeys(  # tokens are not the projector's rows
        ("llava_onevision", "qwen3_vl", "qwen3_vl_moe"), Member(projector=None)
    ),
    "chameleon": Member(decoder=CHAMELEON, projector=None),
    "chameleon-swin": Member(decoder=SWIN, projector=None),
    "fuyu": Member(projector="model.vision_embed_tokens"),
    "ovis2": Member(projector="model.visual_embeddings_table"),
    **dict.fromkeys(("glm4v", "glm46v"), Member(decoder=GLM, projector="model.visual.merger")),
    "ernie4_5_vl_moe": Member(projector="model.resampler_model"),
    "lfm2_vl": Member(decoder=Stage(mlp="feed_forward"), projector=None),  # it runs once a tile
    "llama4": Member(
        decoder=Stage(layers="language_model.model.layers", mlp="feed_forward"), projector="multi_modal_projector"
    ),
    "blip-2-opt": Member(
        qformer=QFORMER,
        decoder=Stage(layers="language_model.model.decoder.layers", mlp="fc2"),
        projector="language_projection",
    ),
    "instructblip-llama": Member(
        qformer=QFORMER, decoder=Stage(layers="language_model.model.layers"), projector="language_projection"
    ),
    "mllama": Member(decoder=Stage(cross=Attends("cross_attn", "cross_attn"), gated=True)),
    "florence2": Member(encoder=BART_ENCODER, decoder=BART_DECODER),
    "kosmos-2": Member(
        resampler=KOSMOS_RESAMPLER,
        decoder=Stage(layers="text_model.model.layers", mlp="ffn"),
        projector="image_to_text_projection",
    ),
    "kimi_k25": Member(projector="model.mm_projector"),
    "molmo2": MOLMO2,
    "molmo2-norms-after": replace(MOLMO2, decoder=NORMS_AFTER),
    "minicpmv4_6": Member(projector=None),  # it gives a list, of each tile
    "granite4_vision": Member(projector=None),  # there are several
    "paddleocr_vl": Member(projector="model.projector"),
    "exaone4_5": Member(decoder=GEMMA, projector="model.visual.merger"),
    "hunyuan_vl": Member(projector=None),  # it runs once an image
    "lfm3_vl": Member(decoder=Stage(attention=Attends("self_attn", "post_operator_norm"), mlp="post_ffn_norm")),
    "lighton_ocr": Member(projector="model.vision_projection"),
}  # fmt: skip
