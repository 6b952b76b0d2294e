"""
Attention shares: how much of its attention goes to the picture?
================================================================

**Question.** While a model describes a picture, which tokens does it attend to, layer by layer?

**Method.** Section 3 of *What's in the Image?* (Kaduri, Bagon and Dekel, https://arxiv.org/abs/2411.17491). The model
writes its own description. Then the attention of the query's tokens and of the generated tokens is read in every
layer, averaged over heads, and summed over each group of tokens.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")  # the small trained model inside the package; a name on the hub works the same way
scenes = [nv.shapes.scene(seed) for seed in range(8)]
prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]
quiet = nv.recipes.Work(progress=False)
frame = nv.recipes.attention_share(model, prompts, max_new_tokens=24, work=quiet)

# %% [markdown]
# The frame has one row for each target (the tokens that attend), source (the tokens attended to), layer and control:
# a mean over pictures with its 95 % interval. Here are the shares of the generated tokens:

# %%
shares = frame[(frame["measure"] == "mass") & (frame["target"] == "generated")]
print(shares.pivot_table("mean", "layer", ["source", "control"], sort=False).round(2).to_string())

# %%
nv.plots.attention_share(frame)[0].figure

# %% [markdown]
# How to read it
# --------------
#
# In each layer, the shares of a target add up to 1. The control ``random positions`` is the share that as many tokens
# get when they are drawn at random from all that the target can see. A group draws attention only where it lies above
# its control: the image has most of the tokens, so chance alone gives it a large share.
#
# The last panel is the entropy of the attention over the image tokens. Low entropy means that a few patches get it
# all.
#
# What it does not show
# ---------------------
#
# Causes. A token can draw attention and change nothing, and a small weight can matter. Cut the route to find out: see
# the example on knockout windows.
