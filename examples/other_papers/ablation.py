"""
Ablation: which image tokens does an answer need?
=================================================

**Question.** What can the model still say of an object when the image tokens that show it are overwritten?

**Method.** Section 3 of Neo et al. (https://arxiv.org/abs/2410.07149). The features of some image tokens are replaced
by the mean image token of other pictures, and the answer is scored again. The tokens are those whose patch touches
the object, and for comparison as many random ones, those of another object, and those with the largest gradient of
the answer.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
candidates = map(nv.shapes.scene, range(40))  # scenes whose first object is the only one of its shape
scenes = [each for each in candidates if [thing.shape for thing in each.objects].count(each.objects[0].shape) == 1][:8]
objects = [scene.objects[0] for scene in scenes]
frame = nv.recipes.ablation(
    model,
    [
        nv.encode(model, f"what color is the {thing.shape}?", scene.image)
        for thing, scene in zip(objects, scenes, strict=True)
    ],
    truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    asked=[f"{thing.color} {thing.shape}" for thing in objects],
    answers=[thing.color for thing in objects],
    tokens=["object", "random", "gradient"],
    work=nv.recipes.Work(progress=False),
)

# %%
shown = frame[frame["measure"].isin(["logprob_change", "kept", "overlap"])]
print(shown[["tokens", "control", "measure", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.ablation(frame, measure="logprob_change").figure

# %% [markdown]
# How to read it
# --------------
#
# ``logprob_change`` is what the answer loses, in nats, and ``kept`` the share of answers that stay the most probable.
# The object's tokens are needed if their loss is far beyond that of the random ones. ``overlap`` says which share of
# a set shows the object: a large gradient is no proof of being needed.
#
# What it does not show
# ---------------------
#
# What the model does with these tokens; only what it could say without them. A mean token is unlike any picture's,
# and the tokens next to the object may know something of it.
