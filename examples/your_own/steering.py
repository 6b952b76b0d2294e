"""
Steering: add a direction, and see what it does in which layer
==============================================================

**Question.** Is "red" a direction in the hidden states of the last token, and in which layers does adding it change
the answer?

**Method.** Activation addition (Turner et al., https://arxiv.org/abs/2308.10248). The direction is the mean state of
prompts whose answer is "red" minus that of prompts whose answer is "blue". It is added to other prompts whose answer
is "blue"; beside it stands a random direction of the same length.
"""

# %%
import pandas as pd
import torch

import nnsight_vlm as nv

model = nv.load("shapes")


def about(color, count):
    """Questions whose answer is this colour."""
    prompts = []
    for seed in range(200):
        scene = nv.shapes.scene(seed)
        for thing in scene.objects:
            if thing.color == color and sum(other.shape == thing.shape for other in scene.objects) == 1:
                prompts.append(nv.encode(model, f"what color is the {thing.shape}?", scene.image))
        if len(prompts) >= count:
            return prompts[:count]
    raise LookupError(color)


red, blue = about("red", 6), about("blue", 9)
towards = nv.direction(model, red, blue[:6], "last")  # [layer, 1, width]
generator = torch.Generator().manual_seed(0)
random = torch.randn(towards.shape, generator=generator)
random *= towards.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)

# %% [markdown]
# The three prompts that are steered were not used to make the direction.

# %%
frames = []
for name, vectors in (("towards red", towards), ("random", random)):
    adds = [nv.Add("last", vectors[layer], layers=layer) for layer in range(10)]
    for number, prompt in enumerate(blue[6:]):
        swept = nv.sweep(model, prompt, adds, answer="red", against="blue")
        frames.append(
            pd.DataFrame({"layer": range(10), "added": name, "prompt": number, "logit_diff": swept["logit_diff"]})
        )
frame = pd.concat(frames).groupby(["added", "layer"], sort=False)["logit_diff"].mean().reset_index(name="value")
print(frame.pivot(index="layer", columns="added", values="value").round(1).to_string())

# %%
axes = nv.plots.layer_lines(frame, hue="added", value="value")
axes.set_ylabel("logit of red minus blue")
axes.figure

# %% [markdown]
# While it generates
# ------------------
#
# The same value acts on every token that is generated.

# %%
steer = nv.Add("last", towards[6], layers=6, scale=1.0)
for prompt in blue[6:]:
    print(
        nv.generate(model, prompt, max_new_tokens=4).text,
        "->",
        nv.generate(model, prompt, steer, max_new_tokens=4).text,
    )

# %% [markdown]
# How to read it
# --------------
#
# Above 0 the model would say "red". Where the line of the direction is high and that of the random one stays low, the
# layer's state at the last token holds the colour in a form that adds up.
#
# What it does not show
# ---------------------
#
# That the model uses this direction by itself. A large push can also lead to states that no picture gives; compare
# lengths (``scale=``) and other answers before believing in a concept.
