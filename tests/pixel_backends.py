"""How far the pixels of processors on Pillow lie from those on torchvision, which must be installed.

    python tests/pixel_backends.py FOLDER [FOLDER ...]

Shown are the largest differences at five sizes of picture, in the numbers that the model is given.
"""

from __future__ import annotations

import sys

from real import SIZES, noise
from transformers import AutoImageProcessor


def main() -> None:
    print("| folder | " + " | ".join(f"{width}x{height}" for width, height in SIZES) + " |")
    print("| --- " * (1 + len(SIZES)) + "|")
    for folder in sys.argv[1:]:
        kinds = [AutoImageProcessor.from_pretrained(folder, backend=backend) for backend in ("pil", "torchvision")]
        cells = []
        for size in SIZES:
            one, two = (kind(images=[noise(size)], return_tensors="pt")["pixel_values"] for kind in kinds)
            cells.append(f"{float((one - two).abs().max()):.3f}" if one.shape == two.shape else "other shapes")
        print(f"| {folder.rstrip('/').rpartition('/')[2]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
