"""The words of the family table: what a column may say where it picks a function or an explanation by name.

The tables that resolve them are typed with these: `LAYER_SETS` (stage_spec), `GRIDS`, `VIDEO_LAYOUTS` and
`TOWER_SEQUENCES` (grids), `BUILDERS`, `BLOCKS`, `COUNTING` and `ENTRIES` (prompts). `tests/test_family_docs.py` holds
every table to exactly its options.
"""

from __future__ import annotations

from typing import Literal

GridLayout = Literal[
    # one tile per image
    "square",  # equally many tokens for every image, row by row (LLaVA)
    "sized",  # rows and columns by the size of the processed image, in `image_sizes` (Pixtral towers)
    "rows with breaks",  # a token of another kind ends each row (Fuyu)
    # several tiles per image
    "equal tiles",  # every image has as many tiles as every other (Perception LM)
    "tiles by run",  # the tiles of an image are one run of image tokens (InternVL)
    "tiles by mark",  # a special token opens each image (Ovis2)
    "anyres",  # the whole picture, then a canvas of tiles (LLaVA-NeXT, LLaVA-OneVision)
    "pan and scan",  # the whole picture, then crops of it (Gemma 3)
    "soft tokens",  # a square of as many tokens as the config says (Gemma 3n)
    "tile rows then whole picture",  # tiles row by row, then the whole picture (Idefics3, SmolVLM)
    "tile rows then thumbnail",  # tiles row by row, then a thumbnail (Aya Vision, Cohere 2 Vision)
    "shuffled tiles",  # tiles that pixel shuffle made smaller, then the whole picture (Llama 4)
    # the picture's own shape
    "merged",  # neighbouring patches are merged into a token, counted in `image_grid_thw` (Qwen-VL, GLM-V)
    "merged kernel",  # the same, the patches row by row, by the size of a kernel (Kimi K2.5)
    "merged windows",  # the same, computed window by window (Qwen2.5-VL)
    "merged raster",  # the same as "merged", the patches row by row (PaddleOCR-VL)
    "merged raster with breaks",  # the same, each row ended by a token, and one before and behind (HunYuan-VL)
    "shaped",  # tiles whose sizes are in `spatial_shapes` (LFM2-VL)
    "sliced",  # the whole picture, then slices of it, whose sizes are in `target_sizes` (MiniCPM-V)
    "pooled",  # neighbouring patches are pooled into a token, located in `image_position_ids` (Gemma 4)
    "whole picture then canvas",  # pooled patches of both, listed in `image_token_pooling` (Molmo2)
    # tokens without a place, and tokens outside the decoder's sequence
    "queries",  # the queries of a Q-Former (BLIP-2, InstructBLIP)
    "masked latents",  # latents that an input marks (Kosmos-2)
    "crop latents",  # latents of each tile (Idefics2)
    "tile latents",  # latents of each tile, which attention in the projector makes (Aria)
    "pooled square",  # a token for the whole picture, then a square (Florence-2)
    "cross-attention tiles",  # keys of the decoder's cross-attention (Mllama)
    # patches that a stage before the decoder reads through cross-attention
    "patches",  # CLS and patches (Q-Former)
    "patches and latents",  # CLS, patches and the resampler's own latents (Kosmos-2)
    "crop patches",  # patches of one tile and the resampler's own latents (Idefics2)
]
"""How image tokens, or the patches that a stage reads, are laid out."""

TowerLayout = Literal[
    "rows",  # a sequence for every tile of every picture, in order: class tokens, registers, patches row by row
    "rows of crops",  # the same where the pixels are handed over as patches already (Molmo2)
    "rows with padding",  # patches that show only padding are never read (Idefics3, SmolVLM, Aria)
    "rows of whole patches",  # nor are those that are padding in part (Idefics2)
    "shaped rows",  # each of the size in `spatial_shapes`, then padding (LFM2-VL)
    "located rows",  # the place of each patch is in `image_position_ids` (Gemma 4)
    "tiles in one row",  # a sequence for every picture, which has room for all tiles (Mllama)
    "line, merged",  # all pictures in one line, each frame a sequence; patches merged token by merged token (Qwen-VL)
    "line, merged windows",  # the same, merged tokens in the order of windows (Qwen2.5-VL)
    "line, row by row",  # all pictures in one line, each frame a sequence, patches row by row (PaddleOCR-VL)
    "line, sized",  # the same of pictures whose sizes in pixels are in `image_sizes` (Pixtral)
]
"""How the tokens of a vision tower lie in the sequences of its batch."""

VideoLayout = Literal[
    "merged frames",  # patches of neighbouring frames are merged into tokens, counted in `video_grid_thw` (Qwen-VL)
    "merged frame windows",  # the same, computed window by window (Qwen2.5-VL)
    "pooled frames",  # equally many tokens for every frame, then a token that ends the video (LLaVA-OneVision)
    "frames as images",  # every frame is an image of one tile, with text between frames (InternVL, SmolVLM)
]
"""How the tokens of a video are laid out."""

ProjectorRows = Literal[
    "patches",  # a row for every token of the vision tower but class tokens and registers, in its order
    "tokens",  # a row for every token of the tower
    "features",  # a row for every row of its output
]
"""What the rows are that a projector is handed."""

ImageLocation = Literal[
    "decoder",  # image tokens are in the decoder's sequence
    "encoder",  # image tokens are in the encoder's sequence, which the decoder reads through cross-attention
    "cross",  # image tokens are only keys of the decoder's cross-attention; a text token stands for them (`markup`)
]
"""Where image tokens are."""

Bidirectional = Literal[
    "none",  # all tokens attend causally
    "images",  # the tokens of each image attend to each other in both directions
    "marked",  # all tokens do that `mm_token_type_ids` marks: those of all images, and the markers around them
    "prompt",  # all tokens of the prompt do
]
"""Which tokens of the decoder's sequence attend to each other in both directions."""

PositionCounting = Literal[
    "sequence",  # tokens are numbered in order, padding left out
    "mrope",  # three numbers per token, time, height and width, which the model computes from the images' sizes
    "mrope by row",  # more numbers per token, one of which counts images: from 0 in each row, as a prompt alone has it
    "own",  # the model computes them inside its forward and cannot be given any
]
"""How a family computes position ids."""

Counted = Literal[
    "row",  # one entry per row of the batch
    "image",  # one entry per image, images of all rows in order
    "piece",  # one entry per tile or patch, those of all images in order
    "token",  # one entry per image token, those of all images in order
    "group",  # one entry per list of pictures that was processed at a time, which is how many there are in it
    "column",  # one entry in all, whose last dimension has equally many columns for each image token
    "video",  # one entry per video
    "video piece",  # one entry per patch of a video, those of all videos in order
    "shown piece",  # one entry per tile of an image or frame of a video, in the order of the text
]
"""What the first dimension of an input counts."""

LayerSet = Literal[
    "every",  # every layer
    "none",  # no layer
    "typed",  # the layers that `layer_types` in the config does not call recurrent
    "crossing",  # the layers in `cross_attention_layers`
    "not crossing",  # all other layers
    "at intervals",  # every `cross_attention_frequency`-th layer, beginning with layer 0
]
"""Which layers of a stage have an attention."""

Limitation = Literal[
    "projector",  # site "projector": writing and reading what the projector is handed
    "features",  # site "features": writing and reading the projector's output
    "embedding",  # site "embedding": writing and reading what enters the first layer
    "mlp",  # site "mlp": writing and reading the output of the feed-forward part
    "vision",  # the vision tower as a stage
    "knockout",  # closing edges of attention
    "complete cut",  # making every logit independent of the pixels by cutting the image off from all text
    "patch",  # writing states of another run
    "ablate",  # replacing states by zero, a mean or another prompt's
    "heads",  # choosing heads
    "attention",  # reading attention weights
    "grid",  # finding the pixels of image tokens in the decoder
    "generate",  # cached generation
    "padded generation",  # cached generation of padded rows
    "uncached generation",  # generation that runs the whole sequence for every token, use_cache=False
    "text alone",  # a prompt without an image
    "several images",  # more than one image in a prompt
    "video",  # a video in a prompt
    "video beside images",  # images in a prompt that has a video
    "packed",  # several variants in one sequence, after a prefix that they share
    "prefix",  # a kept cache of the prefix that variants share
    "embedded",  # kept input embeddings in which the image is already encoded
    "sdpa",  # loading with attn_implementation="sdpa"
    "static cache",  # generation with cache_implementation="static"
]
"""What may not work in a family: a site, a function, or a way to run."""
