"""The size of jobs, the first table of docs/remote.md: `python tests/benchmarks/payload.py`; `--save` keeps it.

Jobs are packed as for a server and not sent. The code that is sent along, and the variants, are measured on the
embedded model; pictures as tensors of the sizes that the processors of large models give: noise, which does not
compress, and a smooth scene with grain.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import measured
import numpy as np
import torch
import zstandard
from page_tables import markdown

import nnsight_vlm as nv
from nnsight_vlm.remote.client import JobClient

COUNTS = (12, 24, 96)
SIZES = {
    "LLaVA-1.5, 336 x 336": (1, 3, 336, 336),
    "LLaVA-NeXT, 5 tiles of 336 x 336": (5, 3, 336, 336),
    "Qwen2.5-VL, 1008 x 1008": (5184, 1176),
}


class Packed(Exception):
    """Stops a call once its job is packed; its argument is the size of the payload."""


def payload_size(call):
    """Bytes of the job that a call would send."""

    def stop(_, payload):
        raise Packed(len(payload))

    submit_bytes, JobClient.submit_bytes = JobClient.submit_bytes, stop
    try:
        call()
    except Packed as packed:
        return packed.args[0]
    finally:
        JobClient.submit_bytes = submit_bytes


def pictures(count):
    """Noise, and a smooth scene with grain: `count` numbers each, scaled as processors do."""
    rng, line = np.random.default_rng(0), np.arange(count)
    smooth = 127 + 90 * np.sin(line / 97) * np.cos(line / 6151) + rng.normal(0, 4, count)
    for name, values in (("noise", rng.integers(0, 256, count)), ("smooth", smooth.clip(0, 255).astype(int))):
        yield name, (torch.tensor(values) / 255 - 0.5) / 0.25


def compressed(shape):
    """MiB of pictures of this shape, and what is sent of a smooth one and of noise."""
    compress = zstandard.ZstdCompressor(level=6).compress
    sent = {kind: len(compress(value.numpy().tobytes())) / 2**20 for kind, value in pictures(int(np.prod(shape)))}
    return int(np.prod(shape)) * 4 / 2**20, sent["smooth"], sent["noise"]


def main():
    """Print the table of docs/remote.md."""
    model = nv.load("shapes")
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    blank = replace(prompt, inputs={**prompt.inputs, "pixel_values": torch.zeros_like(prompt.inputs["pixel_values"])})
    code = payload_size(lambda: nv.run(model, blank, remote=True))
    sweeps = []
    for count in COUNTS:
        cuts = [nv.Knockout("image", "last", layers=n % 10, heads=[n % 4]) for n in range(count)]
        sweeps.append(payload_size(lambda cuts=cuts: nv.sweep(model, blank, cuts, answer="a", remote=True)))
        print(f"{(sweeps[-1] - code) / count:.0f} bytes a variant of {count}", file=sys.stderr)
    rows = [
        ["code and one forward, without its picture", f"{code:,}"],
        [
            f"a sweep of {' / '.join(map(str, COUNTS))} variants, without its picture",
            " / ".join(f"{size:,}" for size in sweeps),
        ],
    ]
    for name, shape in SIZES.items():
        size, smooth, noise = compressed(shape)
        sizes = f"{size:.2f} MiB, compressed {smooth:.2f} (smooth) to {noise:.2f} (noise)"
        rows.append([f"a picture of {name}", sizes])
    measured.tell("remote", markdown(["what", "bytes"], rows))


if __name__ == "__main__":
    main()
