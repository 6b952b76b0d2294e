"""
Composing interventions: cut, patch, prove, generate, sweep
===========================================================

**Question.** Which layers carry the picture to a one-word answer, and is a cut really a cut?

**Method.** Interventions are values. They say what flows from where to where, they compose with ``|``, and the same
value acts in one forward, in cached generation and in a sweep of many variants.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
scene = nv.shapes.scene(11)
prompt = nv.encode(model, "how many objects are there ?", scene.image)
answer = nv.generate(model, prompt, max_new_tokens=1)
print(len(scene.objects), "objects; the model says:", answer.text)

# %% [markdown]
# One value, three uses
# ---------------------
#
# Information flows from the first name to the second: ``Knockout("image", "text")`` keeps every text token from
# attending to the image. ``verify`` recomputes the attention from the query, key and mask that the model really used.

# %%
cut = nv.Knockout("image", "text", layers=nv.window(3, 6))
dim = nv.Scale("image", 0.5, site="features")
print(nv.verify(model, prompt, cut | dim))
print("generated:", nv.generate(model, prompt, cut | dim, max_new_tokens=1).text)
mass = nv.run(model, prompt, cut, reads=nv.Attention("last", "image", reduce="mass")).reads[0]
print("attention of the last token to the image, by layer:", mass.mean((1, 2)).numpy().round(2))

# %% [markdown]
# Many variants
# -------------
#
# A sweep runs the prompt once, and each variant only from the position and layer where it first differs.

# %%
windows = [
    nv.Knockout(source, "last", layers=nv.window(first, first + 3))
    for source in ("image", "query")
    for first in range(8)
]
frame = nv.sweep(model, prompt, windows, answer=answer.text)
frame["change"] = frame["logprob"] - frame["clean_logprob"]
print(frame.pivot(index="layers", columns="source", values="change").round(2).to_string())
print("run as", frame.attrs["execution"], "in", frame.attrs["passes"])

# %%
nv.plots.layer_lines(frame, hue="source").figure

# %% [markdown]
# How to read it
# --------------
#
# Each point is the change of the answer's log-probability when three layers are cut, drawn at their centre. 0 is no
# change.
#
# What it does not show
# ---------------------
#
# That the other layers do nothing: a cut of three layers leaves seven in which the picture can still be read. This is
# one prompt without a control. Recipes add random controls and intervals over images.
