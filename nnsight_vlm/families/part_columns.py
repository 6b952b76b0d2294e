"""Columns of the parts of a model: its attentions, gates, vision tower, videos and head. `columns` has the whole's."""

from __future__ import annotations

from dataclasses import dataclass

from .options import LayerSet, TowerLayout, VideoLayout


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
        gate: name of the call inside `module` that gives the factors, `[row, position, head or width]`, by which the
            outputs of the heads are multiplied before the output projection; empty where there are none.
        gate_when: name, in the stage's part of the config, of the setting that says whether there is that gate; empty
            where there always is.
        inner_norm: whether a norm lies between the heads and the output projection.
        clipped_when: name there of the setting that says that the projection clips what it takes and gives; empty where
            none does.
        layers: which layers have this attention.
        line: where all pieces of its sequence are, if the function is called once for each piece of it, without a mask;
            None where it is called once. `call` and `mask` mean nothing then.
    """

    module: str = "self_attn"
    output: str = "self_attn"
    mask: str = "attention_mask"
    call: str = "attention_interface_1"
    projection: str = "self_attn.o_proj"
    gate: str = ""
    gate_when: str = ""
    inner_norm: bool = False
    clipped_when: str = ""
    layers: LayerSet = "every"
    line: Line | None = None

    @property
    def mask_at(self) -> str:
        """Where the mask is handed over: the module's inputs, or those of its function's call."""
        return "inputs" if self.mask else f"{self.call}.inputs"


PLAIN_ATTENTION = AttentionSpec()
"""As most layers have it."""


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

    @property
    def filled(self) -> bool:
        """Whether patches read tokens that fill up a tile, or stand for one that is not there."""
        return self.sequences == "tiles in one row"


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
class Unembedding:
    """How the residual stream behind the last layer becomes logits; the head is what `get_output_embeddings` names.

    Attributes:
        norms: paths, inside the decoder's entry, of the modules that states pass before the head, in order.
        optional: whether models are built without some of them too.
        merge: path, inside the entry, of the list of projections by which parallel residual streams become one; empty
            where there is one.
        by_root: name of the config's switch for dividing states by the root of their width; empty if none does.
        divisor: name, in the decoder's part of the config, of the number that logits are divided by; empty for none.
        cap: name there of the number `c` where logits become `c * tanh(logits / c)`; empty, or None there, for none.
        capped_in: the versions of transformers in which they do, `">=5.23"`; empty for all.
        unsaid: `(name of the config's vocabulary, how the names begin of those of its tokens that are never said)`.
    """

    norms: tuple[str, ...] = ("norm",)
    optional: bool = False
    merge: str = ""
    by_root: str = ""
    divisor: str = ""
    cap: str = ""
    capped_in: str = ""
    unsaid: tuple[str, str] | None = None


PLAIN_UNEMBEDDING = Unembedding()
"""One norm, and the head."""
