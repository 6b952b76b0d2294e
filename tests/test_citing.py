"""A frame as a paragraph of a methods section."""

from __future__ import annotations

import re

import hostile
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

import nnsight_vlm as nv
from nnsight_vlm.citing.numbers_told import digits
from nnsight_vlm.studies.papers import PAPERS
from nnsight_vlm.studies.registry import RECIPES

QUIET = nv.recipes.Work(progress=False)


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes")


@pytest.fixture(scope="module")
def prompts(model):
    return [nv.encode(model, "what color is the ring ?", nv.shapes.scene(number).image) for number in (3, 4, 5)]


@pytest.fixture(scope="module")
def frame(model, prompts):
    routes = ["image->last", "query->last"]
    return nv.recipes.knockout_windows(
        model, prompts, answers=["red"] * 3, routes=routes, windows=2, seed=5, work=QUIET
    )


def made(rows, **said):
    """A frame of means with chosen numbers, as `knockout_windows` would have given it."""
    frame = pd.DataFrame(rows, columns=["route", "control", "measure", "mean", "low", "high", "images"])
    attrs = {
        "recipe": "knockout_windows",
        "call": "knockout_windows(model, prompts)",
        "method": "Routes were closed.",
        "settings": {},
        "shows": "could",
        "prompts": 24,
        "images": 12,
        "left_out": [],
        "seed": 3,
        "model": "org/a-model",
        "architecture": "LlavaForConditionalGeneration",
        "revision": "0123abc",
        "weights": "89ab",
        "adapter": None,
        "edits": 0,
        "dtype": "bfloat16",
        "attention": {"text": "sdpa", "vision": "eager"},
        "device": "cuda:0",
        "remote": "here",
        "versions": {
            "python": "3.11.7",
            "nnsight_vlm": "0.1.0",
            "nnsight": "0.8.1",
            "torch": "2.9",
            "transformers": "5",
        },
    }
    frame.attrs = {**attrs, **said}
    return frame


ROWS = [
    ("a->b", "none", "f1", 0.25, 0.125, 0.5, 12),
    ("a->b", "random positions", "f1", 0.75, 0.5, 1.0, 12),
    ("b->c", "none", "f1", 0.5, 0.25, 0.625, 11),
    ("b->c", "random positions", "f1", 0.625, -np.inf, np.inf, 1),
    ("c->d", "none", "f1", 1.0, 1.0, 1.0, 12),
    ("c->d", "none", "objects", 99.0, 98.0, 100.0, 12),
    ("d->e", "none", "f1", np.nan, np.nan, np.nan, 0),
]


def test_the_paragraph_says_what_the_frame_says():
    text = nv.cite(made(ROWS, left_out=[["a.png", "no picture"], ["b.png", "no picture"], ["c.png", "no answer"]]))
    paragraph, _, rest = text.partition("\n\n")
    assert "\n" not in paragraph
    for words in (
        "recipe knockout_windows of nnsight_vlm 0.1.0",
        "Routes were closed. This analysis is after Kaduri et al. 2024; Geva et al. 2023. ",
        "The model org/a-model (LlavaForConditionalGeneration), revision 0123abc, weights 89ab, ran in bfloat16 "
        "on cuda:0, with sdpa attention (text) and eager attention (vision); "
        "versions: python 3.11.7, nnsight 0.8.1, torch 2.9, transformers 5.",
        "24 prompts about 12 images were measured; 3 were left out, 2 because no picture (a.png, b.png); "
        "1 because no answer (c.png).",
        "seed 3",
        "95 % intervals",
        "what the model could do",
        "Controls: random positions.",
        "2 means of f1 with a matched control",
        "the greatest was 0.5 [0.25, 0.625] over 11 images (route b->c), beside 0.625 [-∞, ∞] over 1 image for random "
        "positions",
        "the least was 0.25 [0.125, 0.5] over 12 images (route a->b), beside 0.75 [0.5, 1] over 12 images for random "
        "positions.",
    ):
        assert words in paragraph, words
    assert rest.startswith("Call: knockout_windows(model, prompts)\n\nReferences:\nKaduri Omri")
    assert [line[-17:] for line in rest.splitlines()[3:]] == [
        f"arXiv {number}." for number in ("2411.17491", "2304.14767", "2407.14561")
    ]


def test_reasons_that_quote_other_words_are_told_as_one():
    wrong = [[str(number), f"the model answers 'a{number}', and 'b' is right"] for number in range(30)]
    text = nv.cite(made(ROWS, left_out=[*wrong, ["x", "no 'c'"]]))
    assert "31 were left out, 30 because the model answers '...', and '...' is right (0, 1, " in text
    assert ", 11, ...); 1 because no 'c' (x)." in text
    text = nv.cite(made(ROWS, left_out=[[str(number), f"reason {number}"] for number in range(9)]))
    assert "1 because reason 4 (4); 4 for other reasons." in text and "reason 5" not in text


def test_numbers_without_a_control_are_told_where_none_has_one():
    text = nv.cite(made(ROWS[4:5]))
    assert "one mean of f1: it was 1 [1, 1] over 12 images (route c->d)." in text and "no controls" in text
    assert "No image gave a number" in nv.cite(made(ROWS[6:]))
    assert "No image gave a number" in nv.cite(made([]))


COLUMNS = ["route", "form", "window", "layers", "control", "measure", "mean"]
OF_WINDOWS = [
    ("a->b", "block", "all", "0-9", "none", "logprob_change", -1.85),
    ("a->b", "block", "all", "0-9", "random positions", "logprob_change", -5.75),
    ("a->b", "block", "all", "0-9", "random positions", "overlap", 0.8125),
    ("a->b", "block", "0-1", "0-1", "none", "logprob_change", -0.25),
    ("a->b", "allow", "0-1", "0-1", "none", "logprob_change", -9.5),
    ("a->b", "block", "2-4", "2-4", "none", "logprob_change", -1.5),
    ("a->b", "block", "any 2", "", "random layers", "logprob_change", -0.375),
    ("a->b", "block", "any 3", "", "random layers", "logprob_change", -0.625),
    ("c->d", "block", "all", "0-9", "none", "logprob_change", -1.86),
    ("c->d", "block", "all", "0-9", "random positions", "logprob_change", -0.0625),
    ("c->d", "block", "all", "0-9", "random positions", "overlap", 0.0),
    ("c->d", "block", "2-4", "2-4", "none", "logprob_change", -0.875),
]


@pytest.fixture
def windows():
    """A frame of windows of layers, and of routes in all layers that differ by nothing."""
    frame = pd.DataFrame(OF_WINDOWS, columns=COLUMNS)
    frame = frame.assign(low=frame["mean"] - 0.5, high=frame["mean"] + 0.5, images=9)
    frame.attrs = made([]).attrs
    return frame


def test_windows_of_layers_are_told_each_beside_as_many_random_layers(windows):
    text = nv.cite(windows)
    for words in (
        "The frame has 3 means of logprob_change in windows of layers: ",
        "the greatest was -0.25 [-0.75, 0.25] nats over 9 images (route a->b, form block, window 0-1, layers 0-1), "
        "beside -0.375 [-0.875, 0.125] nats over 9 images for random layers; ",
        "the least was -1.5 [-2, -1] nats over 9 images (route a->b, form block, window 2-4, layers 2-4), "
        "beside -0.625 [-1.12, -0.125] nats over 9 images for random layers; ",
        "in all layers it was -1.85 [",
    ):
        assert words in text, words
    assert "c->d" not in text and "-9.5" not in text


def test_a_control_says_how_much_of_it_is_the_route_itself(windows):
    says = "Overlap is the share of a control's random positions that lie in the route's own source"
    assert "for random positions of overlap 0.812. " + says in nv.cite(windows)
    chosen = nv.cite(windows, {"control": "random positions", "measure": "logprob_change"})
    assert "(route a->b, form block, window all, layers 0-9, control random positions of overlap 0.812)" in chosen
    assert "(route c->d, form block, window all, layers 0-9, control random positions)" in chosen and says in chosen
    without = nv.cite(windows[windows["route"] == "c->d"])
    assert "for random positions." in without and says not in without


def test_a_user_chooses_the_rows_that_are_told():
    frame = made(ROWS)
    text = nv.cite(frame, {"route": ["b->c", "c->d"], "measure": "f1"})
    assert (
        "Measured were: f1 0.5 [0.25, 0.625] over 11 images (route b->c); f1 0.625 [-∞, ∞] over 1 image (route b->c, "
        "control random positions); f1 1 [1, 1] over 12 images (route c->d)."
    ) in text
    assert text == nv.cite(frame, frame["route"].isin(["b->c", "c->d"]) & (frame["measure"] == "f1"))
    assert nv.cite(frame, [True, *[False] * 6]) == nv.cite(frame, frame.index == 0)


@pytest.mark.parametrize(
    "rows",
    [
        3,
        "f1",
        {"colour": "f1"},
        {"measure": "no such"},
        [True],
        [1, 0, 0, 0, 0, 0, 0],
        [False] * 7,
        np.ones((7, 1), bool),
    ],
)
def test_rows_that_cannot_be_told_are_refused(rows):
    with pytest.raises(nv.SpecError, match="rows"):
        nv.cite(made(ROWS), rows)


def test_more_rows_than_a_paragraph_holds_are_refused():
    with pytest.raises(nv.SpecError, match="rows= chooses 25 of 25 rows"):
        nv.cite(made([(f"{n}->b", *ROWS[0][1:]) for n in range(25)]), {"measure": "f1"})


def test_the_frame_of_every_kind_of_call_is_cited(frame, model, prompts, tmp_path):
    frame.to_parquet(tmp_path / "frame.parquet")
    assert nv.cite(pd.read_parquet(tmp_path / "frame.parquet")) == nv.cite(frame)
    assert "routes=['image->last', 'query->last']" in nv.cite(frame) and "seed 5" in nv.cite(frame)
    assert nv.cite(frame[frame["route"] == "image->last"]).startswith("We asked: Which route carries")
    rows = nv.recipes.knockout_windows(
        model, prompts, answers=["red"] * 3, routes=["image->last"], windows=0, per_image=True, work=QUIET
    )
    assert f"The frame has {len(rows)} rows and no means" in nv.cite(rows)
    with pytest.raises(nv.SpecError, match="per_image"):
        nv.cite(rows, {"route": "image->last"})


def test_a_model_on_a_server_is_not_said_to_be_known():
    unknown = "unknown: runs on http://host:1"
    said = {"dtype": unknown, "device": unknown, "weights": unknown, "remote": "http://host:1", "revision": None}
    text = nv.cite(made(ROWS, **said, attention={"text": "sdpa", "vision": unknown}))
    assert (
        "revision not known, ran on the server http://host:1, whose dtype, device and versions are not known here"
        in text
    )
    assert "with sdpa attention (text);" in text and "unknown:" not in text


def test_adapters_and_edits_are_said():
    text = nv.cite(made(ROWS, adapter="my-lora", edits=2))
    assert "with the adapter my-lora, with 2 installed edits" in text


def test_pairs_are_called_pairs():
    text = nv.cite(made(ROWS, recipe="query_patching", prompts=1, images=1))
    assert "1 pair about 1 image was measured; none was left out." in text and "what the model does" in text
    assert "for the questions of Kaduri et al. 2024" in text and "arXiv 2411.17491." in text


def test_what_numbers_show_follows_the_rows_that_are_cited(model):
    """A frame may hold what was read beside what a cut did: of a cut it is never said that nothing was changed."""
    scene, could, no_cause = nv.shapes.scene(3), "what the model could do without", "Nothing in the model was changed"
    prompt = nv.encode(model, "describe the image.", scene.image)
    frame = nv.recipes.patch_grounding(
        model, [prompt], truths=[nv.recipes.shape_truth(scene)], max_new_tokens=8, work=QUIET
    )
    assert {"hit", "logprob_change"} <= set(frame["measure"])
    read, cut = (nv.cite(frame, (frame["measure"] == name) & (frame["layer"] == "all")) if name == "logprob_change"
                 else nv.cite(frame) for name in ("hit", "logprob_change"))  # fmt: skip
    assert f"Of hit: {no_cause[0].lower()}{no_cause[1:]}" in read and could not in read
    assert f"Of logprob_change: the result shows {could}" in cut and no_cause.lower() not in cut.lower()
    rows = (frame["measure"] == "logprob_change") | (frame["measure"] == "hit") & (frame["layer"] == "middle half")
    both = nv.cite(frame, rows)
    assert both.count("Of hit: nothing") == both.count(f"Of logprob_change: the result shows {could}") == 1
    assert no_cause.lower() not in nv.cite(frame[frame["measure"] == "logprob_change"]).lower()


def test_rows_of_cuts_and_of_swaps_each_say_what_they_show():
    cut, swap = [("a->b", "none", measure, 0.5, 0.25, 0.75, 9) for measure in ("needed", "restoration")]
    frame = made([cut, swap], recipe="joint_routes").assign(shows=["could", "does"])
    text = nv.cite(frame, [True, True])
    assert "Of needed: the result shows what the model could do" in text
    assert "Of restoration: states were interchanged" in text
    assert "what the model could do" not in nv.cite(frame, [False, True])
    assert "The result shows what the model could do" in nv.cite(frame, [True, False])
    each = nv.cite(frame.drop(columns=["measure", "mean"]))
    assert "Of rows that show 'could': the result" in each and "Of rows that show 'does': states were" in each


def test_estimates_are_not_cited_as_interchanged_states():
    """A frame has estimates by gradients beside the patches that were made, and how far both agree."""
    rows = [("a->b", "none", name, 0.5, 0.25, 0.75, 9) for name in ("estimate_restored", "exact", "correlation")]
    frame, swapped = made(rows, recipe="attribution_map"), "states were interchanged and every route was left open"
    estimated = nv.cite(frame, {"measure": "estimate_restored"})
    assert "Of estimate_restored: no state was interchanged: the result is a first-order estimate" in estimated
    assert swapped not in estimated.lower() and swapped in nv.cite(frame, {"measure": "exact"}).lower()
    assert "Of correlation: the result describes the method, and not the model." in nv.cite(frame, [False, False, True])
    both = nv.cite(frame, [True, True, False])
    assert f"Of exact: {swapped}" in both and "Of estimate_restored: no state" in both


def test_what_a_cut_took_says_nothing_of_the_model():
    rows = [("a->b", "none", name, 0.5, 0.25, 0.75, 9) for name in ("f1", "overlap")]
    assert "The result describes the method" in nv.cite(made(rows), {"measure": "overlap"})
    assert "The result shows what the model could do" in nv.cite(made(rows), {"measure": "f1"})
    assert "Of f1: the result shows what the model could do" in nv.cite(made(rows), [True, True])


def test_a_citation_says_whose_the_definitions_are():
    """pair_routes asks the question of a paper, with definitions that are not taken from it."""
    text = nv.cite(made(ROWS, recipe="pair_routes"))
    after = "This analysis is after Pathways (arXiv 2607.03358); Pearl 2001; Vig et al. 2020. "
    assert f"{after}The definitions are nnsight_vlm's own" in text
    assert "Pearl Judea. Direct and Indirect Effects. 2001. arXiv 1301.2300." in text
    assert "  year = {2001}," in nv.cite(made(ROWS, recipe="pair_routes"), style="bibtex")


def test_numbers_of_fewer_images_say_why_there_are_fewer():
    few = "Where a number is over fewer than the 12 images, the others have no such number"
    assert f"{few}. " in nv.cite(made(ROWS))
    assert f"{few}: a pair counts where" in nv.cite(made(ROWS, recipe="pair_routes"))
    assert few not in nv.cite(made(ROWS[:2])) and few not in nv.cite(made(ROWS), [True, True, *[False] * 5])


@pytest.mark.parametrize("ignore_index", [True, False])
def test_frames_that_were_put_together_are_refused(frame, ignore_index):
    """pd.concat keeps what two halves of one data set say of themselves, the number of prompts among it."""
    both = pd.concat([frame, frame.assign(mean=0.5)], ignore_index=ignore_index)
    assert both.attrs["prompts"] == frame.attrs["prompts"]
    with pytest.raises(nv.SpecError, match="put together from several frames"):
        nv.cite(both)
    assert nv.cite(frame.sample(frac=1, random_state=0))


def test_what_no_recipe_made_is_refused_in_words(frame, tmp_path):
    frame.to_csv(tmp_path / "frame.csv", index=False)
    incomplete = made(ROWS)
    del incomplete.attrs["model"]
    for given, words in (
        (None, "frame"),
        ("text", "frame"),
        (pd.DataFrame({"a": [1]}), "CSV files"),
        (pd.read_csv(tmp_path / "frame.csv"), "CSV files"),
        (made(ROWS, recipe="no_such"), "no recipe of this version"),
        (made(ROWS, recipe=["a"]), "no recipe of this version"),
        (incomplete, "'model'"),
        (made(ROWS, versions="1"), "'versions'"),
        (made(ROWS, left_out=["a"]), "'left_out'"),
    ):
        with pytest.raises(nv.SpecError, match=re.escape(words)):
            nv.cite(given)
    with pytest.raises(nv.SpecError, match="no style 'latex': write one of text, markdown, bibtex"):
        nv.cite(frame, style="latex")


def test_tables_of_a_sweep_or_a_lens_are_told_that_they_are_no_recipes(model, prompts):
    sweep = nv.sweep(model, prompts[0], [nv.Knockout("image", "last")], answer="red")
    words = nv.lens(model, prompts[0], where="last", layers=0)
    for table, made in ((sweep, "nv.sweep"), (sweep.drop(columns=["logit"]).copy(), "nv.sweep"), (words, "nv.lens")):
        with pytest.raises(nv.SpecError, match=f"frame= is a table of {made}, which is no recipe") as refused:
            nv.cite(table)
        assert "CSV" not in str(refused.value)


def test_bibtex_has_an_entry_for_each_paper_with_keys_of_their_own(frame):
    entries = nv.cite(frame, style="bibtex").split("\n\n")
    assert [entry.partition("{")[2].partition(",")[0] for entry in entries] == [
        "kaduri2024",
        "geva2023",
        "fiottokaufman2024",
    ]
    assert "  eprint = {2304.14767}," in entries[1] and all(entry.count("{") == entry.count("}") for entry in entries)
    from nnsight_vlm.citing.references import bibtex, reference

    keys = re.findall(r"@misc{([^,]+),", bibtex(list(PAPERS.values())))
    assert len(set(keys)) == len(keys) == len(PAPERS)
    assert reference(PAPERS["2604.09364"]) == "arXiv 2604.09364."
    assert reference(PAPERS["2607.03358"]) == "Pathways. arXiv 2607.03358."


@pytest.mark.parametrize("text", hostile.IN_FRAMES)
def test_texts_of_others_are_shown_as_their_characters(text):
    rows = [(text, "none", "f1", 0.5, 0.25, 0.75, 9)]
    given = made(rows, model=text or "x", method=f"Routes {text} were closed.", left_out=[[text, text]])
    plain = nv.cite(given)
    assert hostile.seen(f"(route {text})") in plain or not text
    marked = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(nv.cite(given, style="markdown"))
    assert [token.type for token in marked if token.type.endswith("_open")][:2] == ["paragraph_open", "paragraph_open"]
    inline = marked[1].children
    assert {token.type for token in inline} == {"text"} or {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == plain.partition("\n\n")[0]


def test_every_recipe_asks_and_has_papers():
    assert {"knockout_windows", "patch_grounding"} <= set(RECIPES)
    for entry in RECIPES.values():
        assert entry.asks.endswith("?") and entry.papers and entry.method
        assert all((part if isinstance(part, str) else part.text).endswith(".") for part in entry.method)
        assert entry.function is getattr(nv.recipes, entry.name)


def test_digits():
    assert [digits(number) for number in (1, 0.99951, -0.00001234, 123456.0)] == ["1", "1", "-1.23e-05", "1.23e+05"]
