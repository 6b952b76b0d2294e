"""The columns of the family table.

Differences between models are rows of data, never branches. A row names module paths as nnsight spells
them, and functions by name (`grid`); the rest of the package reads the row. A column exists only where
transformers' own accessors do not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """An attention inside a layer.

    Attributes:
        module: path in the layer of the module that is handed the mask.
        output: path in the layer of the module whose output is what attention adds to the residual stream.
        mask: keyword by which the module is handed the mask.
        call: name of the attention function's call inside the module, as `.source` lists it.
        layers: name of the function in `sizes` that says which layers have it.
    """

    module: str = "self_attn"
    output: str = "self_attn"
    mask: str = "attention_mask"
    call: str = "attention_interface_1"
    layers: str = "every"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A transformer inside a model: the text decoder, an encoder, a Q-Former.

    Attributes:
        entry: path of the module that is handed the decoder's sequence, and its cache; empty for a stage
            that the model passes once a prompt.
        layers: path of the list of layers, or of the only layer.
        attention: self-attention.
        cross: attention to keys outside the sequence, which have negative positions.
        mlp: path in a layer of the module whose output is what the feed-forward adds to the residual stream.
        embedding: path of the module that is handed what enters the first layer.
        causal: whether a query sees no later key where the mask is None.
        config: dotted path in the model's config of the part with the stage's sizes.
        layer_count, head_count: their names there; no layer count where there is only one layer, in no list.
        streams: name there of how many residual streams lie side by side; empty for one.
        keys: name of the layout in `grids` of the patches that its cross-attention reads, for a stage whose
            sequence is queries of its own.
        text: the input with the token ids that follow these queries.
    """

    entry: str = "model.language_model"
    layers: str = "model.language_model.layers"
    attention: AttentionSpec = AttentionSpec()
    cross: AttentionSpec | None = None
    mlp: str | None = "mlp"
    embedding: str | None = "model.language_model"
    causal: bool = True
    config: str = "text_config"
    layer_count: str = "num_hidden_layers"
    head_count: str = "num_attention_heads"
    streams: str = ""
    keys: str = ""
    text: str = ""

    @property
    def text_mask(self) -> str:
        """The input that says which of these token ids are padding."""
        return self.text.replace("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family keeps its parts, and what is special about it.

    Attributes:
        model_type: the name in the model's config.
        name: how the row is called, where a model type has several rows.
        when: values of the config, by dotted path, that a model of this row has: `{"swin_norm": True}`.
        stages: the transformers of the model, by name, in the order in which they run; the last is `"decoder"`.
        projector: path of the module whose output is the image features that enter the language model.
        projector_after: the stage behind which the projector runs, if any.
        grid: name of the layout in `grids` that places image tokens.
        tokens: the input that holds the decoder's token ids.
        image_at: where image tokens stand: in the sequence of the `"decoder"` or of the `"encoder"`, or nowhere
            (`"cross"`): then the decoder reads them through cross-attention.
        marker: the input that marks image tokens, where they have no token id of their own.
        blocks: which tokens see each other in both directions: `"none"`, the tokens of each of the `"images"`,
            or the whole `"prompt"`.
        block_layers: the layer types in which they do; empty for all.
        writes_image: whether the processor puts the image into a text that has no placeholder.
        positions: `"sequence"`; `"mrope"`, three numbers a token that the model computes from the images; `"own"`,
            computed inside and not to be handed over.
        inputs: for each input that does not count tokens what its first dimension counts: `"row"`, `"image"`
            or `"piece"` (a tile or patch).
        needs: inputs without which the model silently computes something else.
        grown: what the model must be told of tokens that it has written itself, where that is not 0.
        generate_with: options without which generation leaves out positions of the prompt.
        logits_to_keep: whether the model computes logits at chosen positions only.
        assumes: flags of the config, by dotted path, and the values that the row was tried with.
        lacks: what does not work, and why: `{"grid": "..."}`.
    """

    model_type: str
    name: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=lambda: {"decoder": Stage()})
    projector: str | None = "model.multi_modal_projector"
    projector_after: str | None = None
    grid: str = "square"
    tokens: str = "input_ids"
    image_at: str = "decoder"
    marker: str = ""
    blocks: str = "none"
    block_layers: tuple[str, ...] = ()
    writes_image: bool = False
    positions: str = "sequence"
    inputs: Mapping[str, str] = field(default_factory=lambda: {"pixel_values": "image"})
    needs: tuple[str, ...] = ()
    grown: Mapping[str, int] = field(default_factory=dict)
    generate_with: Mapping[str, Any] = field(default_factory=dict)
    logits_to_keep: bool = True
    assumes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    limitations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.model_type)

    @property
    def decoder(self) -> Stage:
        """The stage that writes the answer."""
        return self.stages["decoder"]
