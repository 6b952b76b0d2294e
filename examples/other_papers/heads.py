"""
Localisation heads: a few heads that look at the object
=======================================================

**Question.** Which heads look at the object that a question is about, and does the answer need them?

**Method.** Kang et al. (https://arxiv.org/abs/2503.06287) find a few such heads among many. Heads are chosen on half
of the pictures, by how often the peak of the last token's attention lies on the object, and scored on the other half.
Then they are cut off from the image, and beside them as many random heads.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
candidates = map(nv.shapes.scene, range(60))  # scenes whose first object is the only one of its shape
scenes = [each for each in candidates if [thing.shape for thing in each.objects].count(each.objects[0].shape) == 1][:12]
objects = [scene.objects[0] for scene in scenes]
frame = nv.recipes.heads(
    model,
    [
        nv.encode(model, f"what color is the {thing.shape}?", scene.image)
        for thing, scene in zip(objects, scenes, strict=True)
    ],
    truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    asked=[f"{thing.color} {thing.shape}" for thing in objects],
    answers=[thing.color for thing in objects],
    draws=2,
    work=nv.recipes.Work(progress=False),
)

# %%
held_out = frame[(frame["split"] == "held out") & (frame["heads"].isin(["chosen", "all"]))]
shown = held_out[held_out["what"].isin(["map", "cut"]) & held_out["measure"].isin(["hit", "mass", "logprob_change"])]
print(shown[["what", "heads", "control", "measure", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.heads(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# Squares frame the chosen heads. A head that was chosen because it fits some pictures fits those better than new
# ones, so only the scores on held-out pictures count. Compare the chosen heads with ``random heads`` and with
# ``other object``.
#
# What it does not show
# ---------------------
#
# Where a head looks is no cause; the rows of ``logprob_change`` say what the last token loses without these heads,
# and other tokens may have read the object before. Six held-out pictures are an illustration.
