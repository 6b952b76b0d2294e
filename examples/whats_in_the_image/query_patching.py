"""
Query tokens: do they hold the answer, or does the image?
=========================================================

**Question.** Two pictures give one question two different answers. Which hidden states carry the difference, and in
which layers: those of the image, of the question, or of the last token?

**Method.** Interchange intervention (Geiger et al., https://arxiv.org/abs/2106.02997). The residual stream of one
group of tokens, after one layer, is replaced by that of a run on the other picture. Restoration is scored as in
NOTICE (Golovanevsky et al., https://arxiv.org/abs/2406.16320): 0 where nothing happens, 1 where the other picture's
answer becomes as probable as in its own run. *What's in the Image?* (Kaduri, Bagon and Dekel,
https://arxiv.org/abs/2411.17491) finds a summary of the picture in the query tokens; this tests for one without
cutting anything.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
asked = "what color is the ring?"
purple, yellow = (nv.encode(model, asked, nv.shapes.scene(seed).image) for seed in (8, 9))
pairs = [(purple, yellow, "purple", "yellow"), (yellow, purple, "yellow", "purple")]
frame = nv.recipes.query_patching(model, pairs, layers=nv.depth(0, 1), work=nv.recipes.Work(progress=False))

# %%
restoration = frame[(frame["measure"] == "restoration") & (frame["control"] == "none")]
print(restoration.pivot_table("mean", "group", "layer", sort=False).round(2).abs().to_string())

# %%
nv.plots.query_patching(frame)[0].figure

# %% [markdown]
# How to read it
# --------------
#
# Follow the lines from left to right. Where ``image`` restores everything, the answer still has to be read from the
# image tokens; where ``last`` does, it has arrived at the token that predicts the answer. A summary in the question's
# words would show as a line of ``question`` that rises in between. The control ``another image`` takes the states
# from a third picture, and ``random positions`` takes as many other tokens.
#
# The same patch by hand
# ----------------------
#
# A patch is a value like any other. ``nv.sweep`` runs all of these together and shares what they have in common.

# %%
patches = [
    nv.Patch(group, source=yellow, layers=layer) for group in ("image", "question", "last") for layer in range(10)
]
by_hand = nv.sweep(model, purple, patches, answer="yellow", against="purple")
print(by_hand.pivot(index="where", columns="layers", values="logit_diff").round(1).to_string())

# %% [markdown]
# What it does not show
# ---------------------
#
# The route by which the answer moved, or whether the model could do without it. A whole group is replaced at once, so
# nothing is said about single tokens. And two pictures are an illustration: give the recipe many pairs for a result.
