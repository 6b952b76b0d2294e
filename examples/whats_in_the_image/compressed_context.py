"""
Compressed context: how many image tokens does a new question need?
===================================================================

**Question.** Once the picture has been described, can the model answer another question from the text of that pass
and a few per cent of the image tokens?

**Method.** *What's in the Image?* (Kaduri, Bagon and Dekel, https://arxiv.org/abs/2411.17491) keeps the tokens that
the query attends to most; FastV (Chen et al., https://arxiv.org/abs/2403.06764) keeps those that the last token
attends to most in an early layer. The keys and values of all other image tokens are taken out of the cache, in every
layer, and the question runs behind what is left. As many random image tokens stand beside each choice.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
asked = [(scene, each) for scene in map(nv.shapes.scene, range(9)) for each in nv.shapes.questions(scene)]
asked = [(scene, each) for scene, each in asked if each.family == "color"][:8]
frame = nv.recipes.compressed_context(
    model,
    [nv.encode(model, each.text, scene.image) for scene, each in asked],
    answers=[each.answer for _, each in asked],
    keep=[0, 2, 10, 100],  # per cent of the image tokens
    tokens=["attention", "fastv"],
    timed=0,  # no timing of decoding
    work=nv.recipes.Work(progress=False),
)

# %%
accuracy = frame[frame["measure"] == "accuracy"]
print(accuracy.pivot_table("mean", "kept", ["tokens", "control"], sort=False).round(2).to_string())
kilobytes = frame[(frame["measure"] == "bytes") & (frame["control"] == "none")]
print(kilobytes.pivot_table("mean", "kept", "tokens", sort=False).div(1000).round().to_string())

# %%
nv.plots.compressed_context(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# At 100 per cent stands the accuracy of the whole conversation, and at 0 that of the text alone. A choice of tokens
# is worth what it adds to as many random ones. FastV keeps everything in its first layers, so its cache is larger, at
# 0 per cent too.
#
# What it does not show
# ---------------------
#
# What the model does with the whole picture at hand: a question that is answered without image tokens *could* be
# answered from the text. The first pass is a full one; what is saved comes after it. Eight questions are an
# illustration.
