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
    LayerSet,
    Limitation,
    PositionCounting,
    TowerLayout,
    VideoLayout,
)

VISION = "vision"
"""The name of the vision tower among the stages."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Where an attention that is called once for every piece of its sequence holds the parts of all pieces.

    The names are those of assignments in the attention module's forward, as nnsight's `.source` lists them.

    Attributes:
        query, key, value: `[1, head, position, head_dim]`, before they are divided.
        mixed: what the calls gave, put together again, `[1, position, head, head_dim]`.
        ends: keyword under which the module is handed where pieces begin and end.
    """

    query: str = "query_states_0"
    key: str = "key_states_0"
    value: str = "value_states_0"
    mixed: str = "attn_output_0"
    ends: str = "cu_seqlens"

    @property
    def parts(self) -> str:
        """Where all of it but `mixed` is read, in the order in which the module reaches it, see `device.lines`."""
        return f"{self.ends} {self.query} {self.key} {self.value}"


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """An attention inside a layer.

    Attributes:
        module: path, inside the layer, of the module that takes the mask.
        output: path, inside the layer, of the module whose output is added to the residual stream.
        mask: keyword under which the module takes the mask; empty where it hands its function none of its own accord.
        call: name of the attention function's call inside the module, as nnsight's `.source` lists it. The function is
            handed the module, then query, key and value `[row, head, position, head_dim]`.
        projection: path, inside the layer, of the output projection: the module that is handed the outputs of all heads
            side by side.
        layers: which layers have this attention.
        line: where all pieces of its sequence are, if the function is called once for each piece of it, without a mask;
            None where it is called once. `call` and `mask` mean nothing then.
    """

    module: str = "self_attn"
    output: str = "self_attn"
    mask: str = "attention_mask"
    call: str = "attention_interface_1"
    projection: str = "self_attn.o_proj"
    layers: LayerSet = "every"
    line: Line | None = None

    @property
    def mask_at(self) -> str:
        """Where the mask is handed over: the module's inputs, or those of its function's call."""
        return "inputs" if self.mask else f"{self.call}.inputs"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Factors by which some layers multiply what a module returns before they add it to the residual stream.

    Attributes:
        call: name of the call in the layer's forward that gives the factor, as nnsight's `.source` lists it.
        rows: keyword under which the layer is handed a factor of every token, `[row, 1, token, 1]`; empty if there is
            none.
        layers: which layers do so.
    """

    call: str
    rows: str = ""
    layers: LayerSet = "every"


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """How the tokens of a vision tower lie in its batch, and which of its layers are taken from it.

    Attributes:
        sequences: the layout of its sequences, see `grids.towers`.
        cls: how many class tokens each sequence begins with.
        cls_behind: whether they are behind the patches instead.
        registers: how many register tokens follow them, or the name of their number in that part of the config.
        packed: whether the tokens of all pictures lie in one line; attention is then called for each segment of it, or
            with a mask of blocks.
        taken: dotted paths of the values in the model's config that say which hidden states the projector takes,
            counted as transformers does: 0 is what enters the first layer, -1 what the last one gives. Of pairs the
            first number counts; a value that a config lacks says nothing. Empty for the last, None for none.
        taps: dotted path of the numbers of layers there whose outputs are taken beside those; empty for none.
        full: name, in that part of the config, of the numbers of the layers whose queries see all of their sequence,
            where those of all other layers see their window of it; empty if there are no windows.
    """

    sequences: TowerLayout = "rows"
    cls: int = 0
    cls_behind: bool = False
    registers: int | str = 0
    packed: bool = False
    taken: tuple[str, ...] | None = ()
    taps: str = ""
    full: str = ""


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
        width: name of the width of a state in that part.
        keys: for a stage whose sequence is learned queries, the layout of the patches that its cross-attention reads.
        text: for such a stage, the input with the token ids that follow the queries; empty if there is none.
        tower: for a vision tower, how its tokens lie; None for every other stage.
    """

    entry: str = "model.language_model"
    layers: str = "model.language_model.layers"
    attention: AttentionSpec = AttentionSpec()
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
    width: str = "hidden_size"
    keys: GridLayout | None = None
    text: str = ""
    tower: TowerSpec | None = None

    @property
    def text_mask(self) -> str:
        """Name of the input that says which token ids in the input `text` are padding."""
        return self.text.replace("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """How a family takes videos.

    Attributes:
        layout: how a video's tokens are laid out.
        pixels: name of the input that holds the pixels of videos: one of their own, or that of images.
        token: name of the config's id of the token that stands for a part of a video; empty where frames have the token
            of images.
        frames_per_token: name of the number of neighbouring frames that one token shows, in the config's
            `vision_config`; empty for one.
        opening, between: where frames have the token of images, the text before a video's first frame and that between
            two frames, as patterns that the text without its spaces is searched for.
        equal_frames: whether the videos of one encoding must have equally many frames.
        own_template: whether the processor writes a chat that has a video by a template of its own, in place of the
            checkpoint's.
    """

    layout: VideoLayout
    pixels: str = "pixel_values_videos"
    token: str = "video_token_id"
    frames_per_token: str = ""
    opening: str = ""
    between: str = ""
    equal_frames: bool = False
    own_template: bool = False

    @property
    def is_apart(self) -> bool:
        """Whether a video runs through tower and projector apart from images."""
        return bool(self.token)


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
        """Names of the inputs that hold pixels: of images, and of videos where these have an input of their own."""
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
