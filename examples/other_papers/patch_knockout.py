"""
Patch knockout: which part of the picture does an answer need?
==============================================================

**Question.** Hide one patch at a time. Which of them does the answer need, and do they show the object it is about?

**Method.** Attention knockout (Geva et al., https://arxiv.org/abs/2304.14767), patch by patch: the last token cannot
attend to a square of 3 x 3 patches, in any layer. All squares of a picture go through one sweep.
"""

# %%
import nnsight_vlm as nv

model, scene = nv.load("shapes"), nv.shapes.scene(8)
thing = next(each for each in scene.objects if each.shape == "ring")
prompt = nv.encode(model, f"what color is the {thing.shape}?", scene.image)
patches = nv.recipes.patch_knockout(model, prompt, answer=thing.color)
print(f"{thing.color} {thing.shape} in the box {thing.box}")
columns = ["x0", "y0", "x1", "y1", "logprob_change", "random_patches"]
print(patches.nsmallest(3, "logprob_change")[columns].round(2).to_string(index=False))

# %%
nv.plots.patch_knockout(patches, picture=prompt.image()).figure

# %% [markdown]
# Several pictures
# ----------------
#
# Given several prompts, the recipe says what their maps have in common.

# %%
candidates = map(nv.shapes.scene, range(40))  # scenes whose first object is the only one of its shape
scenes = [each for each in candidates if [thing.shape for thing in each.objects].count(each.objects[0].shape) == 1][:8]
objects = [scene.objects[0] for scene in scenes]
frame = nv.recipes.patch_knockout(
    model,
    [
        nv.encode(model, f"what color is the {thing.shape}?", scene.image)
        for thing, scene in zip(objects, scenes, strict=True)
    ],
    answers=[thing.color for thing in objects],
    truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    asked=[f"{thing.color} {thing.shape}" for thing in objects],
    work=nv.recipes.Work(progress=False),
)
print(frame[["region", "control", "measure", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.patch_knockout(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# ``random_patches`` is the change when as many patches elsewhere are hidden; a map whose changes are no larger shows
# nothing. ``hit`` says how often the patch with the largest drop touches the object, beside what a random order would
# give.
#
# What it does not show
# ---------------------
#
# Where the model looks: a patch whose loss changes nothing may be seen elsewhere too. A picture with a hole is also
# unlike any other picture, and the random patches show how much of a drop that alone gives.
