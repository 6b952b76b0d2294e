"""
A folder of photographs
=======================

**Question.** You have pictures in a folder and one question about all of them. What does the model say, and what does
it look at?

**Method.** ``nv.items`` makes a table of questions of any list, data frame or file. Pictures are opened one at a
time, turned as their EXIF says, and a file that is no picture is named before the model runs.
"""

# %%
import tempfile
from pathlib import Path

from PIL import Image

import nnsight_vlm as nv

folder = Path(tempfile.mkdtemp())
for seed in range(4):  # photographs, as a camera writes them: large, JPEG, one of them lying on its side
    photo = nv.shapes.scene(seed).image.resize((960, 960), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if seed == 2:
        photo, exif[0x0112] = photo.rotate(90), 6  # the tag that says "turn me by 90 degrees"
    photo.save(folder / f"photo-{seed}.jpg", quality=90, exif=exif)
(folder / "broken.jpg").write_text("this is no picture")

# %%
rows = [{"image": path, "id": path.stem} for path in sorted(folder.iterdir())]
photographs = nv.items(rows, question="describe the image .", unusable="leave out")
print(photographs)

# %%
model, quiet = nv.load("shapes"), nv.recipes.Work(progress=False)
frame = nv.recipes.attention_share(model, items=photographs, max_new_tokens=24, work=quiet)
print("measured:", frame.attrs["ids"])
print("left out:", frame.attrs["left_out"])
prompts = [item.encode(model) for item in photographs if item.id in frame.attrs["ids"]]
for name, prompt in zip(frame.attrs["ids"], prompts, strict=True):
    print(name, nv.generate(model, prompt, max_new_tokens=40).text, sep=": ")

# %%
nv.plots.attention_share(frame)[0].figure

# %% [markdown]
# Pixels and tokens
# -----------------
#
# Boxes are in pixels of the upright photograph. Resizing, cropping, padding and tiles are undone for you.

# %%
first = prompts[0]
corner = first.region((640, 0, 960, 320))
print(
    first.image().size,
    "pixels;",
    len(first["image"]),
    "image tokens, of which",
    len(corner),
    "show the upper right corner",
)
print("without that corner:", nv.generate(model, first, nv.Knockout(corner, "text"), max_new_tokens=40).text)

# %% [markdown]
# How to read it
# --------------
#
# ``left_out`` has every row that was not used and why, so that a count of pictures in a paper is the true one.
# Without ``unusable="leave out"`` such a row is an error that names it.
#
# What it does not show
# ---------------------
#
# Whether the answers are right: for that the table needs a column ``answer``, ``boxes`` or ``masks``. From a terminal
# the same is ``nnsight-vlm report --images photos/ --query "Describe the image."``
