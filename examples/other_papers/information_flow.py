"""
Information flow: along which edges, in which layers?
=====================================================

**Question.** A question about one object is answered by the last token. Does that token read the object, the rest of
the image, or the question, and in which layers?

**Method.** Section 4 of Zhang et al. (https://arxiv.org/abs/2411.18620), with the attention knockout of Geva et al.
(https://arxiv.org/abs/2304.14767). One edge between two groups of tokens is closed in a window of layers around every
layer, and the probability of the answer is compared with that of the run without a cut.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
candidates = map(nv.shapes.scene, range(40))  # scenes whose first object is the only one of its shape
scenes = [each for each in candidates if [thing.shape for thing in each.objects].count(each.objects[0].shape) == 1][:8]
objects = [scene.objects[0] for scene in scenes]
frame = nv.recipes.information_flow(
    model,
    [
        nv.encode(model, f"what color is the {thing.shape}?", scene.image)
        for thing, scene in zip(objects, scenes, strict=True)
    ],
    answers=[thing.color for thing in objects],
    truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    asked=[f"{thing.color} {thing.shape}" for thing in objects],
    edges=["question->last", "object->last", "rest of the image->last"],
    work=nv.recipes.Work(progress=False),
)

# %%
change = frame[(frame["measure"] == "probability_change") & (frame["control"] == "none")]
print(change.pivot_table("mean", "edge", "centre", sort=False).round(0).to_string())

# %%
nv.plots.information_flow(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# Numbers are per cent of the answer's probability, so -100 is everything. An edge matters in a window where its line
# falls further than the grey lines with the same marker: as many edges elsewhere, as many other patches, and the same
# edge in as many random layers. If one wrong answer fills the axis, draw ``measure="logprob_change"``.
#
# What it does not show
# ---------------------
#
# What the model does: an edge whose cut changes nothing may carry what the last token also gets another way.
