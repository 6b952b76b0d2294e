"""Which patches does a generated word attend to? The attention of the position that predicts it, over the picture.

Run: python examples/grounding.py  (writes grounding.png)
"""

import matplotlib.pyplot as plt

import nnsight_vlm as nv


def main(path: str = "grounding.png") -> None:
    model = nv.load("shapes")
    scene = nv.shapes.scene(7)
    out = nv.generate(model, nv.encode(model, "describe the image .", scene.image), max_new_tokens=40)
    first = scene.objects[0]
    word = out.prompt.find(first.shape, within="generated", occurrence=0)[0]
    attention = nv.run(model, out.prompt, reads=[nv.Attention(word - 1, "image")]).reads[0]  # [layer, head, 1, key]
    grid = out.prompt.grid(0)
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
    for layer, axis in enumerate(axes.flat):
        axis.imshow(scene.image)
        axis.imshow(grid.heatmap(attention[layer].mean(0)[0]), alpha=0.6, cmap="magma")
        axis.set(title=f"layer {layer}", xticks=[], yticks=[])
    figure.suptitle(f"{out.text!r}: attention of the position that predicts {first.shape!r}")
    figure.savefig(path, dpi=120)
    print(out.text)


if __name__ == "__main__":
    main()
