"""
Prompt ablation: what are the words of the request for?
=======================================================

**Question.** Which words of "describe the image" does a description need, when the model sees the image and when its
answer cannot?

**Method.** *What's in the Image?* (Kaduri, Bagon and Dekel, https://arxiv.org/abs/2411.17491). A part of the prompt
is dropped by closing every attention edge from it to other tokens, so that all positions stay as they were.
``access`` is ``direct``, or ``none`` where the generated tokens cannot attend to the image. If the query tokens hold
a summary of the picture, a description without access has to read it there.
"""

# %%
import nnsight_vlm as nv

scenes = [nv.shapes.scene(seed) for seed in range(6)]
frames = {}
for name in ("shapes", "shapes-gist"):
    model = nv.load(name)
    prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]
    frames[name] = nv.recipes.prompt_ablation(
        model, prompts, parts={"the verb": "describe"}, max_new_tokens=24, work=nv.recipes.Work(progress=False)
    )

# %% [markdown]
# ``shapes-gist`` is a positive control: it was fine-tuned so that its query tokens must carry the picture. A recipe
# that finds the summary there, and not in ``shapes``, can tell the two apart.

# %%
for name, frame in frames.items():
    f1 = frame[(frame["measure"] == "f1") & (frame["control"] == "none")]
    print(name, f1.pivot_table("mean", "part", "access", sort=False).round(2).to_string(), sep="\n", end="\n\n")

# %%
nv.plots.prompt_ablation(frames["shapes-gist"]).figure

# %% [markdown]
# How to read it
# --------------
#
# ``nothing`` is the whole prompt and ``blind`` an answer that sees no image at all. A part matters if dropping it
# costs more than dropping as many random tokens, which are drawn in grey. The distance between the two kinds of
# access in the row ``nothing`` is what the answer reads from the image directly.
#
# What it does not show
# ---------------------
#
# What a part does where it is present: this is what the model could do without it.
