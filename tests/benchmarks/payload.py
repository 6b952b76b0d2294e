"""The size of jobs: `python tests/benchmarks/payload.py`. Jobs are packed as for a server and not sent.

The code that is sent along, and the variants, are measured on the embedded model. Pictures are measured as tensors of
the sizes that the processors of large models give: noise, which does not compress, and a smooth scene with grain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import zstandard

import nnsight_vlm as nv
from nnsight_vlm.remote.client import JobClient

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


def main():
    """Print both tables."""
    model = nv.load("shapes")
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    blank = replace(prompt, inputs={**prompt.inputs, "pixel_values": torch.zeros_like(prompt.inputs["pixel_values"])})
    code = payload_size(lambda: nv.run(model, blank, remote=True))
    print(f"code and one forward, without its picture: {code:,} bytes")
    for count in (12, 24, 96):
        cuts = [nv.Knockout("image", "last", layers=n % 10, heads=[n % 4]) for n in range(count)]
        sweep = payload_size(lambda cuts=cuts: nv.sweep(model, blank, cuts, answer="a", remote=True))
        print(f"a sweep of {count} variants: {sweep:,} bytes, {(sweep - code) / count:.0f} a variant")
    compress = zstandard.ZstdCompressor(level=6).compress
    rows = [
        {
            "picture": name,
            "of": kind,
            "MiB": value.nbytes / 2**20,
            "sent": len(compress(value.numpy().tobytes())) / 2**20,
        }
        for name, shape in SIZES.items()
        for kind, value in pictures(int(np.prod(shape)))
    ]
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
