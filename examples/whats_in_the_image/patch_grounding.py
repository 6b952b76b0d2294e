"""
Grounding: do words attend to the objects they name?
====================================================

**Question.** When the model writes "ring", does it look at the ring? And does it need to?

**Method.** Section 5 of *What's in the Image?* (Kaduri, Bagon and Dekel, https://arxiv.org/abs/2411.17491). For every
object that the model's own description names, the attention to the image is read at the position that predicts the
word, in every layer, and compared with the object's mask. A hit is a peak on the object. Because attention is no
cause, the object's patches are then hidden, and so are as many other patches.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
scenes = [nv.shapes.scene(seed) for seed in range(8)]
prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]
truths = [nv.recipes.shape_truth(scene) for scene in scenes]
frame = nv.recipes.patch_grounding(
    model, prompts, truths=truths, max_new_tokens=24, work=nv.recipes.Work(progress=False)
)

# %%
middle = frame[(frame["layer"] == "middle half") & frame["measure"].isin(["hit", "iou"])]
print(middle[["read_at", "measure", "control", "mean", "low", "high"]].round(2).to_string(index=False))
hidden = frame[frame["measure"] == "logprob_change"]
print(hidden[["measure", "control", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.patch_grounding(frame)[0].figure

# %% [markdown]
# One word, layer by layer
# ------------------------
#
# ``nv.Attention`` reads any rows of the attention; a prompt's grid knows which pixels each image token covers.

# %%
scene = scenes[1]
answer = nv.generate(model, prompts[1], max_new_tokens=24)
word = answer.prompt.find(scene.objects[0].shape, within="generated", occurrence=0)[0]
attention = nv.run(model, answer.prompt, reads=nv.Attention(word - 1, "image")).reads[
    0
]  # [layer, head, 1, image token]
name = scene.objects[0].shape
maps = [
    nv.plots.Overlay.of(
        scene.image, answer.prompt.grid(0), attention[layer].mean(0)[0], title=f"{name}: layer {layer}", label="weight"
    )
    for layer in (0, 3, 5, 8)
]
print(answer.text)
nv.plots.draw_overlays([maps])[0, 0].figure

# %% [markdown]
# How to read it
# --------------
#
# ``hit`` is the share of words whose attention peaks on their object. Compare it with ``random patches``, which is
# chance, and with ``other object``, the same peak held against the picture's other objects. ``logprob_change`` says
# what the word loses, in nats, when its object's patches are hidden from the text, beside as many random patches.
#
# What it does not show
# ---------------------
#
# That attention puts the word there. Hits say where the model looks; only the cut says what it could not do without.
# In this small model the vision tower sees one patch at a time, which makes hits likely: others may differ.
