"""
Knockout windows: which layers carry the picture into the words?
================================================================

**Question.** A description needs the picture. Along which route of attention does the picture reach the words, and in
which layers?

**Method.** Attention knockout (Geva et al., https://arxiv.org/abs/2304.14767), applied to image tokens as in *What's
in the Image?* (Kaduri, Bagon and Dekel, https://arxiv.org/abs/2411.17491). A route such as ``image->generated`` is
closed in one window of layers at a time: its attention probabilities are exactly 0 there, and nothing else is
touched. The model describes the picture again, and the objects it names are compared with those it named without a
cut.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
scenes = [nv.shapes.scene(seed) for seed in range(8)]
prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]
frame = nv.recipes.knockout_windows(
    model,
    prompts,
    routes=["image->query", "image->generated"],
    windows=3,
    max_new_tokens=24,
    work=nv.recipes.Work(progress=False),
)

# %% [markdown]
# ``block`` closes the route in a window, ``allow`` everywhere but there. ``clean`` has no cut, and in ``blind`` no
# text token sees the image in any layer: these two are the ends of the scale.

# %%
f1 = frame[(frame["measure"] == "f1") & (frame["control"] == "none")]
print(f1[["route", "form", "window", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.knockout_windows(frame)[0].figure

# %% [markdown]
# How to read it
# --------------
#
# A window matters if ``block`` falls there towards ``blind``, and further than both controls: as many random edges
# (``random positions``) and the same route in as many random layers (``random layers``). ``overlap`` in the frame
# says how much of a random cut happens to hit the route itself.
#
# The same cuts as values
# -----------------------
#
# A recipe is made of interventions that you can use yourself. This one closes a route in the middle half of the
# layers; ``verify`` proves that all of its edges, and no others, were closed.

# %%
cut = nv.Knockout("image", "generated", layers=nv.depth(0.25, 0.75))
print("clean:", nv.generate(model, prompts[0], max_new_tokens=24).text)
print("cut:  ", nv.generate(model, prompts[0], cut, max_new_tokens=24).text)
print(nv.verify(model, prompts[0], cut))

# %% [markdown]
# What it does not show
# ---------------------
#
# What the model does. A knockout shows what the model *could* do without a route. If a cut changes nothing, the route
# may still be in use, because the model can fall back on another one. The examples on joint routes and on query
# patching ask that question.
