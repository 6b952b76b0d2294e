"""The columns of the family table: what the package has to know about a family of models.

Models differ in data, not in code: a `Family` names module paths (as nnsight spells them) and picks functions from
tables by name (`grid`, `positions`), and the rest of the package reads it. A column exists only where transformers' own
accessors do not answer. Where a column picks from a table, its options are a `Literal` of `options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from .options import (
    Bidirectional,
    Counted,
    GridLayout,
    ImageLocation,
    Limitation,
    PositionCounting,
    ProjectorRows,
)
from .part_columns import PLAIN_ATTENTION, PLAIN_UNEMBEDDING, AttentionSpec, Gate, TowerSpec, Unembedding, VideoSpec

VISION = "vision"
"""The name of the vision tower among the stages."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A transformer inside a model: the text decoder, an encoder, a Q-Former, a vision tower.

    Attributes:
        entry: path of the module that takes the decoder's sequence and its cache; empty for a stage that runs only once
            per prompt.
        layers: path of the list of layers, or of the only layer.
        attention: self-attention.
        cross: cross-attention to keys outside the sequence; those keys have negative positions.
        mlp: path, inside a layer, of the module whose output the feed-forward part adds to the residual stream.
        gates: for the sites `"cross"` and `"mlp"`, by what their module's output is multiplied before it is added.
        scale: name, in that part of the config, of the number by which every layer multiplies what attention and the
            feed-forward part return before it adds them; empty if it adds them as they are.
        embedding: path of the module whose input is what enters the first layer.
        causal: whether a query sees no later key where the mask is None.
        config: dotted path of the part of the model's config that holds the stage's sizes.
        layer_count: name of the number of layers in that part; empty for a stage whose only layer is not in a list.
        head_count: name of the number of query heads in that part.
        key_heads: name of the number of key heads there; where the config has none, as many as query heads.
        head_dim: name of the width of a head there; where the config has none, an equal share of the stage's width.
        value_dim: name of the width of a head's values and output, where queries and keys have another; else empty.
        streams: name of the number of parallel residual streams in that part; empty where there is one.
        layer_inputs: name of the width of the inputs that each layer has of its own there; empty where there are none.
        width: name of the width of a state in that part.
        keys: for a stage whose sequence is learned queries, the layout of the patches that its cross-attention reads.
        text: for such a stage, the input with the token ids that follow the queries; empty if there is none.
        tower: for a vision tower, how its tokens lie; None for every other stage.
        lacks: sites that the stage has not got, and why, for a message.
    """

    entry: str = "model.language_model"
    layers: str = "model.language_model.layers"
    attention: AttentionSpec = PLAIN_ATTENTION
    cross: AttentionSpec | None = None
    mlp: str | None = "mlp"
    gates: Mapping[str, Gate] = field(default_factory=dict)
    scale: str = ""
    embedding: str | None = "model.language_model"
    causal: bool = True
    config: str = "text_config"
    layer_count: str = "num_hidden_layers"
    head_count: str = "num_attention_heads"
    key_heads: str = "num_key_value_heads"
    head_dim: str = "head_dim"
    value_dim: str = ""
    streams: str = ""
    layer_inputs: str = ""
    width: str = "hidden_size"
    keys: GridLayout | None = None
    text: str = ""
    tower: TowerSpec | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def text_mask(self) -> str:
        """Name of the input that says which token ids in the input `text` are padding."""
        return self.text.replace("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family of models keeps its parts, and how it differs from others.

    Attributes:
        model_type: `model_type` in the model's config.
        name: the family's name; needed where one model type has several families.
        when: config values, by dotted path, that tell this family from others of its model type:
            `{"swin_norm": True}`.
        stages: the transformers of the model, by name, in the order in which they run; the last is `"decoder"`. The
            vision tower is put in front of those that an entry names, as `"vision"`.
        tower: the vision tower; None where `limitations["vision"]` says why it is no stage.
        towers: in families that take any tower, each that they are known with, by the `model_type` of `vision_config`.
        projector: path of the module whose output is the image features that enter the language model.
        handed: what the rows are that this module is handed.
        projector_after: the stage after which the projector runs; None if it runs before all stages.
        grid: how image tokens are laid out on the picture.
        video: how it takes videos; None for a family whose videos this package refuses.
        tokens: name of the input that holds the decoder's token ids.
        image_at: where the image tokens are.
        image_mask: name of the input that marks image tokens, where they have no token id of their own.
        indicators: name of the config's list of further tokens whose embeddings the vision tower computes where there
            are pixels; empty if there are none.
        blocks: which tokens attend to each other in both directions.
        block_layers: the layer types in which they do; empty for all.
        writes_image: whether the processor adds the image to a text without a placeholder.
        flat_pictures: whether the processor takes the pictures of one text as one list, not as a list for each text.
        wants_placeholders: whether it does so with a warning, and takes placeholders before the text instead.
        positions: how position ids are computed.
        inputs: what the first dimension of each input counts, the pixels first; inputs with an entry per token are left
            out.
        indices: inputs that hold indices into another input, -1 for none, and that other input, whose first two
            dimensions are counted as one, over all images of an encoding.
        renamed: inputs that some processors of the family give under another name, and the name that they have in
            `inputs`: `{"pixel_values": "pixel_values_images"}`.
        needs: inputs without which the model silently computes something else.
        token_kinds: inputs with an entry per token that the decoder's layers read themselves, to choose which weights a
            token gets; tokens behind a cache are given them too.
        new_token_values: for each input with an entry per token, its value at generated tokens, where that is not 0.
        generator: path of the module whose `generate` a model's own `generate` calls, and whose defaults count then;
            empty where the model generates itself.
        generate_with: options without which transformers' `generate` skips positions of the prompt.
        logits_to_keep: whether the model can compute logits at chosen positions only.
        unembedding: how the decoder's states become logits.
        transformers: the versions of transformers that the family runs with, `">=5.20,!=5.24.0"`; empty for all that
            the package takes.
        assumes: config values, by dotted path, that the family was tested with; a model with another value is refused.
        limitations: what does not work, and why: `{"grid": "..."}`.
    """

    model_type: str
    name: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=lambda: {"decoder": Stage()})
    tower: Stage | None = None
    towers: Mapping[str, Stage] = field(default_factory=dict)
    projector: str | None = "model.multi_modal_projector"
    handed: ProjectorRows = "patches"
    projector_after: str | None = None
    grid: GridLayout = "square"
    video: VideoSpec | None = None
    tokens: str = "input_ids"
    image_at: ImageLocation = "decoder"
    image_mask: str = ""
    indicators: str = ""
    blocks: Bidirectional = "none"
    block_layers: tuple[str, ...] = ()
    writes_image: bool = False
    flat_pictures: bool = False
    wants_placeholders: bool = False
    positions: PositionCounting = "sequence"
    inputs: Mapping[str, Counted] = field(default_factory=lambda: {"pixel_values": "image"})
    indices: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    token_kinds: tuple[str, ...] = ()
    new_token_values: Mapping[str, int] = field(default_factory=dict)
    generator: str = ""
    generate_with: Mapping[str, Any] = field(default_factory=dict)
    logits_to_keep: bool = True
    unembedding: Unembedding = PLAIN_UNEMBEDDING
    transformers: str = ""
    assumes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    limitations: Mapping[Limitation, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.model_type)
        others = {name: stage for name, stage in self.stages.items() if name != VISION}
        object.__setattr__(self, "stages", others if self.tower is None else {VISION: self.tower, **others})

    @property
    def pixels(self) -> str:
        """Name of the input that holds the pixels."""
        return next(iter(self.inputs))

    @property
    def all_pixels(self) -> tuple[str, ...]:
        """Names of the inputs that hold pixels, of images and of videos where these have an input of their own."""
        return tuple(dict.fromkeys((self.pixels, *(() if self.video is None else (self.video.pixels,)))))

    @property
    def inputs_of_videos(self) -> tuple[str, ...]:
        """Names of the inputs that only videos have."""
        return tuple(name for name, counted in self.inputs.items() if counted in ("video", "video piece"))

    @property
    def decoder(self) -> Stage:
        """The stage that generates text."""
        return self.stages["decoder"]

    def limitation(self, name: str) -> str | None:
        """Why a site, a function or a way to run does not work in this family; None where it does."""
        return next((reason for limited, reason in self.limitations.items() if limited == name), None)


def config_value(config: Any, path: str) -> Any:
    """The config value at a dotted path, None where there is none; the config itself for an empty path."""
    return reduce(lambda part, name: getattr(part, name, None), path.split("."), config) if path else config
