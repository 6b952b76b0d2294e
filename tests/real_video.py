"""Published configurations with transformers' own video processors, which need torchvision: what holds, as a table.

    python tests/real_video.py FOLDER [FOLDER ...] [--torchvision FOLDER]

Each folder is a checkpoint as `nv.load` opens it; weights may be random (see tests/real.py). `--torchvision` is the
folder of a torchvision whose compiled part does not fit this torch (`pip install --target FOLDER --no-deps
torchvision`): its operators are then declared, and none of them is needed. A folder of Idefics3 is opened as the
SmolVLM that has the same parts. Checked for several numbers and sizes of frames:

- `ids`: token ids are those of `processor.apply_chat_template(..., tokenize=True)`, and video tokens are those that the
  model itself puts features in;
- `parts`: `system`, `image`, `video`, `markup`, `query` and `generated` part the prompt, and frames part the video;
- `pixels`: a square planted in one frame changes its tokens that the grid says, and none of another temporal patch;
- `greedy`: `nv.generate` gives the tokens of transformers' own greedy generation;
- `frame`, `cut`: proofs of a frame's cut, and that under the cut of the video logits do not depend on pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SHAPES = ((4, (160, 120)), (5, (224, 336)), (2, (40, 60)))
TEXT, STEPS = "What happens in the video?", 3
PARTS = ("system", "image", "video", "markup", "query", "generated")
KEPT: list[Any] = []


def with_torchvision(folder: Path) -> None:
    """Make a torchvision importable whose compiled part is missing."""
    sys.path.append(str(folder))
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    KEPT.append(library)  # its declarations live as long as it does


def opened(folder: Path) -> Any:
    import nnsight_vlm as nv

    settings = json.loads((folder / "config.json").read_text())
    if settings["model_type"] != "idefics3":
        return nv.load(folder, dtype=torch.float32)
    import transformers as hf

    torch.manual_seed(0)
    config = hf.SmolVLMConfig(**{**settings, "model_type": "smolvlm"})
    module = hf.SmolVLMForConditionalGeneration._from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for path, weight in module.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3 if "embed" in path.lower() else 0.05)
    parts = hf.AutoProcessor.from_pretrained(folder)
    side = {"longest_edge": config.vision_config.image_size}
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor.from_pretrained(folder),
        tokenizer=parts.tokenizer,
        video_processor=hf.SmolVLMVideoProcessor(max_image_size=side),
        image_seq_len=parts.image_seq_len,
        chat_template=parts.chat_template,
    )
    processor.video_processor.num_frames, processor.video_processor.fps = 64, 1
    return nv.load(module, processor=processor)


def film(frames: int, size: tuple[int, int]) -> list[Image.Image]:
    """Smooth noise, so that every patch of every frame has a colour of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 24, 24, 3), dtype=np.uint8)
    return [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in noise]


def encode(model: Any, frames: list[Image.Image]) -> Any:
    import nnsight_vlm as nv

    return nv.encode(model, TEXT, videos=frames)


def ids(model: Any, frames: list[Image.Image]) -> str:
    prompt = encode(model, frames)
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": TEXT}]}]
    theirs = model.processor.apply_chat_template(
        chat,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"do_sample_frames": False},
    )["input_ids"]
    if not torch.equal(theirs, prompt.inputs["input_ids"]):
        return "other ids"
    config = model._module.config
    tokens = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")} - {None}
    expected = tuple(place for place, token in enumerate(theirs[0].tolist()) if token in tokens)
    return f"ok {len(expected)}" if prompt["video"] == expected else f"{len(prompt['video'])} for {len(expected)}"


def parts(model: Any, frames: list[Image.Image]) -> str:
    prompt = encode(model, frames)
    parted = sorted(place for part in PARTS for place in prompt[part]) == list(prompt["all"])
    shown = {place for number in range(len(frames)) for place in prompt[f"frame.{number}"]}
    rest = len(set(prompt["video"]) - shown)
    per_frame = len(prompt["frame.0"])
    return f"ok {per_frame} a frame, {rest} more" if parted and rest <= 1 else f"parted {parted}, {rest} of no frame"


def entering(model: Any, prompt: Any) -> torch.Tensor:
    """What enters the decoder, `[position, width]`."""
    import nnsight_vlm as nv

    return nv.run(model, prompt, reads=[nv.Residual("all", site="embedding")]).reads[0].flatten(0, -2)


def pixels(model: Any, frames: list[Image.Image]) -> str:
    prompt, number = encode(model, frames), len(frames) - 1
    width, height = frames[0].size
    box = (width // 4, height // 4, width // 4 + max(4, width // 8), height // 4 + max(4, height // 8))
    changed = [frame.copy() for frame in frames]
    changed[number].paste((255, 255, 255), box)
    moved = (entering(model, encode(model, changed)) - entering(model, prompt)).abs().amax(-1)
    touching = set(prompt.region(box, video=0, frame=number))
    inside = float(moved[sorted(touching)].min())
    elsewhere = [place for place in prompt["all"] if place not in prompt[f"frame.{number}"]]
    outside = float(moved[elsewhere].max())
    return f"ok {len(touching)}" if inside > 0 and outside == 0 else f"{inside:.3g} inside, {outside:.3g} elsewhere"


def greedy(model: Any, frames: list[Image.Image]) -> str:
    import nnsight_vlm as nv

    prompt = encode(model, frames)
    ours = nv.generate(model, prompt, max_new_tokens=STEPS).tokens
    with torch.no_grad():
        theirs = model._module.generate(**dict(prompt.inputs), max_new_tokens=STEPS, do_sample=False, num_beams=1)[0]
    plain = tuple(theirs.tolist())[-len(ours) :]
    return "ok" if ours == plain else f"{ours} for {plain}"


def frame(model: Any, frames: list[Image.Image]) -> str:
    import nnsight_vlm as nv

    proof = nv.verify(model, encode(model, frames), nv.Knockout("frame.1", ("query", "generated")))
    return f"ok {proof.edges}"


def cut(model: Any, frames: list[Image.Image]) -> str:
    import nnsight_vlm as nv

    return f"ok {nv.verify(model, encode(model, frames), nv.Knockout('video', 'text'), pixels=True).pixels}"


CHECKS: tuple[Callable[[Any, list[Image.Image]], str], ...] = (ids, parts, pixels, greedy, frame, cut)


def attempt(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--torchvision", type=Path)
    asked = parser.parse_args()
    if asked.torchvision is not None:
        with_torchvision(asked.torchvision)
    print(f"| folder | frames | {' | '.join(check.__name__ for check in CHECKS)} |\n{'| --- ' * (2 + len(CHECKS))}|")
    for folder in asked.folders:
        model = opened(folder)
        for count, size in SHAPES:
            cells = [attempt(partial(check, model, film(count, size))) for check in CHECKS]
            print(f"| {folder.name} | {count} of {size[0]}x{size[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
