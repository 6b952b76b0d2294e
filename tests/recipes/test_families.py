"""Every recipe on every kind of family: numbers equal to plain runs, and to a forward without nnsight."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from float64 import LIMIT
from PIL import Image
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import (
    Pair,
    Thing,
    Work,
    attention_share,
    knockout_windows,
    patch_grounding,
    patch_knockout,
    prompt_ablation,
    query_patching,
)
from nnsight_vlm.recipes.prompt_parts import dropped
from nnsight_vlm.recipes.routes import ROUTES, cases_of
from nnsight_vlm.report import single, steps, study, write_report, writing
from nnsight_vlm.studies.controls import blind_cut, with_picture_of
from nnsight_vlm.studies.image_patches import patch_source
from nnsight_vlm.studies.layer_sets import middle_half

pytestmark = [
    pytest.mark.float64,
    pytest.mark.filterwarnings("ignore:.*has a submodule named 'output'.*:UserWarning"),  # nnsight calls it E_output
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

QUIET = Work(progress=False)
STEPS = 4
DECODERS = ["blip-2-opt", "internvl", "llava", "llava_next", "lfm2_vl", "paligemma", "gemma3", "qwen2_5_vl", "idefics3"]
FAMILIES = [*DECODERS, "qwen3_5", "mllama", "blip-2-t5", "florence2"]
LATENTS = ["kosmos-2", "idefics2", "instructblip-t5"]
"""Other families whose patches are read by a stage before the decoder."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Case:
    """A family's model in float64, one text about two pictures of the same size, and the attention that reads them."""

    name: str
    model: Any
    prompts: tuple[nv.Prompt, nv.Prompt]

    @property
    def prompt(self) -> nv.Prompt:
        return self.prompts[0]

    @property
    def outside(self) -> int:
        return self.prompt.rows[0].outside

    @property
    def image_kind(self) -> str:
        """The attention in which the decoder reads the image."""
        return "cross" if self.prompt["image"][0] < 0 else "attention"

    def layers(self, positions: Any) -> tuple[int, ...]:
        """The layers that read positions."""
        return view_of(self.model).stage().cross if min(positions) < 0 else view_of(self.model).stage().attention

    @functools.cached_property
    def answers(self) -> tuple[nv.Generation, ...]:
        return tuple(nv.generate(self.model, prompt, max_new_tokens=STEPS) for prompt in self.prompts)

    @functools.cached_property
    def grown(self) -> reference.Reference:
        """The forward without nnsight over the first prompt and its answer."""
        return reference.forward(*reference.load(self.name, torch.float64), self.answers[0].prompt.inputs)

    def weights(self, queries: Any, keys: Any) -> torch.Tensor:
        """Attention `[layer, head, query, key]` of that forward, in the layers that read the keys."""
        kind, at = ("cross", self.outside) if min(keys) < 0 else ("attention", 0)
        read = [self.grown.weights["decoder", kind, layer][0] for layer in self.layers(keys)]
        return torch.stack([rows[:, list(queries)][..., [key + at for key in keys]] for rows in read])


@functools.cache
def built(name: str) -> Case:
    member = zoo.ZOO[name]
    attention = member.implementations[0]
    last = len(member.sizes) - 1
    pair = tuple(zoo.prompt(name, attention, seed=seed, size=last, dtype=torch.float64) for seed in (1, 2))
    return Case(name=name, model=zoo.load(name, attention, torch.float64), prompts=pair)


@pytest.fixture(params=FAMILIES)
def case(request):
    return built(request.param)


def one(frame: pd.DataFrame, **labels: Any) -> pd.Series:
    """The only row of a frame with these labels."""
    chosen = frame[np.logical_and.reduce([frame[name] == value for name, value in labels.items()])]
    assert len(chosen) == 1, (labels, len(chosen))
    return chosen.iloc[0]


def logprob(case: Case, prompt: nv.Prompt, cut: Any, token: int) -> float:
    return float(nv.run(case.model, prompt, cut).logits.double().log_softmax(-1)[token])


def gap(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference relative to the largest logit; tokens that the model masks out are ignored."""
    finite = expected > torch.finfo(torch.float32).min
    return float(((logits - expected)[finite]).abs().max() / expected[finite].abs().max())


# attention share ---------------------------------------------------------------------------------------


def test_masses_controls_and_entropies_are_those_of_the_forward_without_nnsight(case):
    frame = attention_share(case.model, [case.prompt], max_new_tokens=STEPS, per_image=True, work=QUIET)
    grown = case.answers[0].prompt
    masses = frame.dropna(subset=["mass"])
    assert set(masses["target"]) == {"generated"} | ({"query"} if case.prompt["query"][0] >= 0 else set())
    for (target, source), rows in masses.groupby(["target", "source"]):
        places = group(grown, source)
        assert tuple(rows.loc[rows["control"] == "none", "layer"]) == case.layers(places)
        weights = case.weights(grown[target], places)
        everything = case.weights(grown[target], range(-case.outside, 0) if min(places) < 0 else grown["all"])
        seen, of_all = ((w > 0).any(1).sum(-1).double() for w in (weights, everything))  # [layer, query]
        for control, expected in (
            ("none", weights.sum(-1).mean((1, 2))),
            ("random positions", (seen / of_all).mean(-1)),
        ):
            masses_of_control = rows.loc[rows["control"] == control, "mass"].to_numpy()
            assert masses_of_control == pytest.approx(expected.numpy(), rel=LIMIT, abs=LIMIT), (target, source, control)
    crossing = masses["source"].map(lambda source: group(grown, source)[0] < 0)
    for kind in (masses[crossing], masses[~crossing]):
        assert kind.groupby(["target", "layer", "control"])["mass"].sum().to_numpy() == pytest.approx(1, rel=LIMIT)
    image = case.weights(grown["generated"], grown["image"])
    share = image / image.sum(-1, keepdim=True)
    expected = torch.special.entr(share).sum(-1).mean((1, 2))
    rows = frame[frame["entropy"].notna() & (frame["target"] == "generated")]
    assert rows.loc[rows["control"] == "none", "entropy"].to_numpy() == pytest.approx(
        expected.numpy(), rel=LIMIT, abs=LIMIT
    )
    open_keys = (case.weights(grown["last"], grown["image"]) > 0).any(0).any(0).any(0).sum()
    assert rows.loc[rows["control"] == "uniform", "entropy"].to_numpy() == pytest.approx(np.log(int(open_keys)))


def group(prompt: nv.Prompt, name: str) -> tuple[int, ...]:
    """A group's positions; `other` are the decoder's tokens of no group."""
    if name != "other":
        return prompt[name]
    named = {*prompt["text"], *prompt["image"], *prompt["generated"]}
    return tuple(p for p in prompt["all"] if p not in named)


# knockout windows --------------------------------------------------------------------------------------


def test_descriptions_under_cuts_are_those_of_single_generations(case):
    frame = knockout_windows(case.model, [case.prompt], windows=2, max_new_tokens=STEPS, per_image=True, work=QUIET)
    outside = {route for route in ROUTES if case.prompt.rows[0].ranges(route.split("->")[1]).first < 0}
    assert set(frame["route"]) - {""} == (set(ROUTES) - outside) | {"image->text"}  # the blind row
    for source in ("image", "query"):
        layers = case.layers(case.prompt[source])
        first, second = layers[: -(-len(layers) // 2)], layers[len(layers) // 2 :]
        route = f"{source}->generated"
        by_hand = {
            ("block", "all"): nv.Knockout(source, "generated", layers=layers),
            ("block", spelled(first)): nv.Knockout(source, "generated", layers=first),
            ("allow", spelled(second)): nv.Knockout(source, "generated", layers=first),
        }
        for (form, window), cut in by_hand.items():
            row = one(frame, route=route, form=form, window=window, control="none")
            assert row["text"] == nv.generate(case.model, case.prompt, cut, max_new_tokens=STEPS).text
    assert one(frame, form="clean")["text"] == case.answers[0].text


def spelled(layers: tuple[int, ...]) -> str:
    """Layers as a table shows them."""
    run = layers == tuple(range(layers[0], layers[-1] + 1)) and len(layers) > 1
    return f"{layers[0]}-{layers[-1]}" if run else ",".join(map(str, layers))


def test_an_answers_score_under_a_cut_is_that_of_one_run(case):
    tokens = [answer.tokens[0] for answer in case.answers]
    frame = knockout_windows(case.model, case.prompts, answers=tokens, windows=2, per_image=True, work=QUIET)
    layers = case.layers(case.prompt["image"])
    cut = nv.Knockout("image", "last", layers=layers)
    change = logprob(case, case.prompt, cut, tokens[0]) - logprob(case, case.prompt, None, tokens[0])
    row = one(frame, image=0, route="image->last", form="block", window="all", control="none")
    assert row["logprob_change"] == pytest.approx(change, rel=LIMIT, abs=LIMIT) and abs(change) > 1e-3
    assert row["layers"] == spelled(layers)


def test_the_blind_row_leaves_nothing_of_the_picture(case):
    """Logits of all text tokens equal those of another picture; in a hybrid decoder, states still carry the picture."""
    rows = sorted(set(case.prompt["all"]) - set(case.prompt["image"]))
    blind, clean = (
        [nv.run(case.model, prompt, cut(prompt), positions=rows).logits for prompt in case.prompts]
        for cut in (blind_cut, lambda _: None)
    )
    assert gap(*clean) > 1e-2
    assert (gap(*blind) < LIMIT) == (not view_of(case.model).stage().recurrent)


def test_a_random_cut_closes_as_many_edges_in_the_same_attention(case):
    every = cases_of(case.model, case.prompts, ["image->last", "query->generated"], windows=0)(0)
    drawn = [each for each in every if each.labels["control"] == "random positions"]
    assert drawn
    for each in drawn:
        source, target = each.labels["route"].split("->")
        cut = nv.Knockout(source, target, layers="attention")
        sides = {position < 0 for position in each.intervention.source}
        assert sides == {case.prompt[source][0] < 0}
        assert len(each.intervention.source) == len(case.prompt[source])
        assert each.intervention.layers == case.layers(case.prompt[source])
        assert case.prompt.rows[0].ranges(each.intervention.target) == case.prompt.rows[0].ranges(cut.target)


def test_the_query_of_another_image_leaves_nothing_of_this_one(case):
    if view_of(case.model).stage().recurrent:
        pytest.skip("states carry the picture past every cut")
    frame = knockout_windows(
        case.model,
        case.prompts,
        routes=["image->generated"],
        windows=0,
        max_new_tokens=STEPS,
        per_image=True,
        work=QUIET,
    )
    row = one(frame, image=0, control="query of another image")
    layers = case.layers(case.prompt["image"])
    stage = "encoder" if case.prompt["query"][0] < 0 else "decoder"
    swap = nv.Patch("query", source=case.prompts[1], stage=stage)
    cut = nv.Knockout("image", "generated", layers=layers) | swap
    assert row["text"] == nv.generate(case.model, case.prompt, cut, max_new_tokens=STEPS).text


@pytest.mark.parametrize("name", ["blip-2-t5", "florence2"])
def test_a_route_into_the_encoder_is_refused(name):
    case = built(name)
    for route in ("image->query", "image->text"):
        with pytest.raises(nv.SpecError, match="lies outside the sequence of the decoder"):
            knockout_windows(case.model, case.prompts, routes=[route], max_new_tokens=STEPS, work=QUIET)


# query patching ----------------------------------------------------------------------------------------


COLORS = ("black", "white", "red", "blue", "lime")


@functools.cache
def pair_of(name: str) -> Pair:
    """Two pictures of which the model's most probable answers differ."""
    member, model = zoo.ZOO[name], built(name).model
    size, tops = member.sizes[-1], dict[int, nv.Prompt]()
    for shown in (*(Image.new("RGB", size, color) for color in COLORS), *(picture(seed, size) for seed in range(20))):
        prompt = nv.encode(model, member.text, shown)
        tops.setdefault(int(nv.run(model, prompt).logits.argmax()), prompt)
        if len(tops) == 2:
            break
    (answer, prompt), (other_answer, other) = tops.items()
    return Pair(prompt, other, answer, other_answer)


def test_a_restored_share_is_that_of_one_patch(case):
    pair, layer = pair_of(case.name), 1
    frame = query_patching(case.model, [pair], layers=[layer], per_image=True, work=QUIET)
    has_encoder = "encoder" in view_of(case.model).family.stages
    groups = [g for g in ("image", "question", "last") if pair.prompt[g][0] >= 0 or has_encoder]
    assert sorted(set(frame["group"])) == sorted(groups)
    before, after = (
        float(nv.run(case.model, p).logits.double().softmax(-1)[pair.other_answer]) for p in (pair.prompt, pair.other)
    )
    for name in groups:
        of_group = pair.prompt["query" if name == "question" else name]
        others = (*pair.prompt["last"], *pair.prompt["markers"]) if name == "question" else ()
        places = [p for p in of_group if p not in others]
        stage = "decoder" if places[0] >= 0 else "encoder"
        where = [place + (case.outside if stage == "encoder" else 0) for place in places]
        patch = nv.Patch(where, source=pair.other, layers=layer, stage=stage)
        patched = float(nv.run(case.model, pair.prompt, patch).logits.double().softmax(-1)[pair.other_answer])
        row = one(frame, group=name, control="none")
        assert row["restoration"] == pytest.approx((patched - before) / (after - before), rel=LIMIT, abs=LIMIT)


def test_every_layer_of_a_groups_own_stage_is_patched(case):
    frame = query_patching(case.model, [pair_of(case.name)], groups=["query"], per_image=True, work=QUIET)
    stage = "encoder" if case.prompt["query"][0] < 0 else "decoder"
    layers = frame.loc[frame["control"] == "none", "layer"]
    assert list(layers) == list(range(view_of(case.model).stage(stage).layer_count))


def test_a_group_without_hidden_states_is_refused():
    pair = pair_of("mllama")
    with pytest.raises(nv.SpecError, match="'image' lies outside the decoder's sequence"):
        query_patching(built("mllama").model, [pair], groups=["image"], work=QUIET)


@pytest.mark.parametrize("name", ["fuyu", "mllama", "qwen2_5_vl"])
def test_a_journal_tells_pairs_with_different_pictures_apart(name, tmp_path):
    case = built(name)
    third = nv.encode(case.model, zoo.ZOO[name].text, picture(3, zoo.ZOO[name].sizes[-1]))
    work = Work(journal=tmp_path, progress=False)
    for other in (case.prompts[1], third, third):
        query_patching(case.model, [Pair(case.prompt, other, 5, 6)], groups=["last"], layers=[0], work=work)
    assert len(list(tmp_path.glob("*.parquet"))) == 2


QUESTIONS = ("what is red ?", "what where is blue ?")
MOVED = [*FAMILIES, *LATENTS, "instructblip-llama", "gemma4", "fuyu", "llava_onevision"]


@pytest.mark.parametrize("name", MOVED)
def test_the_same_words_about_another_picture(name):
    """Equal to the text encoded with that picture; None where the picture's tokens are laid out differently."""
    model, member = built(name).model, zoo.ZOO[name]
    size = member.sizes[-1]
    texts = [member.text.replace(QUESTIONS[0], question) for question in QUESTIONS]
    assert texts[0] != texts[1]
    mine, theirs = (nv.encode(model, text, picture(seed, size)) for seed, text in enumerate(texts, 1))
    expected = nv.encode(model, texts[0], picture(2, size))
    for other in (theirs, expected):
        moved = with_picture_of(mine, other)
        assert moved.rows == expected.rows
        names = [name for name in view_of(model).family.inputs if name in expected.inputs]
        assert names and all(torch.equal(moved.inputs[name], expected.inputs[name]) for name in names)
        assert torch.equal(nv.run(model, moved).logits, nv.run(model, expected).logits)
    wide = nv.encode(model, texts[1], picture(3, (60, 14)))
    if wide.rows[0].cells != mine.rows[0].cells:
        assert with_picture_of(mine, wide) is None


# prompt ablation ---------------------------------------------------------------------------------------


def test_descriptions_without_the_question_are_those_of_single_generations(case):
    frame = prompt_ablation(case.model, [case.prompt], max_new_tokens=STEPS, per_image=True, work=QUIET)
    query = tuple(p for p in case.prompt["query"] if p not in case.prompt["last"] + case.prompt["markers"])
    drop = closed(case, query)
    for access, cut in (
        ("direct", drop),
        ("none", drop | nv.Knockout("image", "generated", layers=case.layers(case.prompt["image"]))),
    ):
        row = one(frame, part="question", access=access, control="none")
        assert row["text"] == nv.generate(case.model, case.prompt, cut, max_new_tokens=STEPS).text
    if len(query) <= 12:
        assert sum(part[0].isdigit() for part in frame["part"].unique()) == len(query)


def closed(case: Case, places: tuple[int, ...]) -> nv.Intervention:
    """Every edge from tokens to others closed, in each sequence that has them."""
    prompt = case.prompt
    rest = [position for position in prompt["all"] if position not in places]
    cut = nv.Knockout(places, [*rest, "generated"], layers=case.layers(places))
    if places[0] >= 0:
        return cut
    inner = [place + case.outside for place in places]
    others = [position for position in range(case.outside) if position not in inner]
    return cut | nv.Knockout(inner, others, stage="encoder")


def test_nothing_depends_on_a_word_that_was_dropped(case):
    if view_of(case.model).stage().recurrent:
        pytest.skip("states carry the word past every cut")
    place = case.prompt["query"][1]
    words = case.prompt.inputs["input_ids"].clone()
    words[0, place] = case.model.tokenizer.convert_tokens_to_ids("dog")
    changed = nv.encode(case.model, inputs={**case.prompt.inputs, "input_ids": words})
    cut, clean = (
        [nv.run(case.model, prompt, change).logits for prompt in (case.prompt, changed)]
        for change in (dropped(case.prompt, (place,)), None)
    )
    assert gap(*clean) > 1e-3
    assert gap(*cut) < LIMIT


# patches -----------------------------------------------------------------------------------------------


def map_by_hand(case: Case, place: int) -> tuple[str, nv.Grid, list[int], np.ndarray]:
    """The stage, its grid, which of its tokens have a place, and a position's attention to these, layer by layer."""
    stage = next((n for n, s in view_of(case.model).family.stages.items() if s.keys), "decoder")
    grid = case.prompt.grid(0, stage)
    kept = [at for at, box in enumerate(grid.boxes) if not np.isnan(box).any()]
    if stage == "decoder":
        positions = [grid.positions[at] for at in kept]
        return stage, grid, kept, case.weights([place], positions).double().mean(1)[:, 0].numpy()
    latents = case.weights([place], case.prompt["image"]).double().mean(1)[:, 0]
    crossing = [w[0] for (at, kind, _), w in case.grown.weights.items() if (at, kind) == (stage, "cross")]
    read = torch.stack(crossing).double().mean((0, 1))[: latents.shape[-1]]
    keys = [grid.positions[at] + read.shape[-1] for at in kept]
    return stage, grid, kept, (latents @ read[:, keys]).numpy()


@pytest.mark.parametrize("name", [*FAMILIES, *LATENTS])
def test_maps_and_cuts_of_a_word_are_those_of_the_forward_without_nnsight(name):
    case = built(name)
    answer, prompt = case.answers[0], case.prompt
    word = answer.text.split()[-1]
    place = answer.prompt.find(word, within="generated", occurrence=0)[-1]
    width, height = prompt.image().size
    mask = np.zeros((height, width), bool)
    mask[: height // 3, : width // 3] = True
    truths = [(Thing(name=word, mask=mask),)]
    frame = patch_grounding(
        case.model, [prompt], truths=truths, top=3, max_new_tokens=STEPS, per_image=True, work=QUIET
    )
    stage, grid, kept, maps = map_by_hand(case, place - 1)
    object_patches = np.asarray(grid.coverage(mask))[kept] > 0
    spelled_as = case.model.tokenizer.decode([answer.tokens[place - prompt.rows[0].answer]]).strip()
    labels = {"word": spelled_as, "read_at": "predicting", "control": "none"}
    layers = {str(layer): one_map for layer, one_map in zip(case.layers(prompt["image"]), maps, strict=True)}
    layers["middle half"] = maps[list(middle_half(len(maps)))].mean(0)
    for layer, weights in layers.items():
        row = one(frame[frame["top_mass"].notna()], layer=layer, **labels)
        best = np.argsort(-weights, kind="stable")
        assert row["top_mass"] == pytest.approx(weights[best[:3]].sum() / weights.sum(), rel=LIMIT, abs=LIMIT)
        assert row["hit"] == object_patches[best[0]]
        tile, (line, column) = grid.tiles[kept[best[0]]], grid.cells[kept[best[0]]]
        several = f"{tile}:" if len(grid.shapes) > 1 else ""
        assert row["top"].split()[0] == f"{several}{line},{column}"
    assert 0 < object_patches.sum() <= len(kept) / 2
    said = place - prompt.rows[0].answer
    before, mine = (
        prompt.grown(answer.tokens[:said]),
        [grid.positions[at] for at, hit in zip(kept, object_patches, strict=True) if hit],
    )
    hidden = (
        nv.Knockout(mine, ("last", "generated"), layers=case.layers(mine))
        if stage == "decoder"
        else nv.Knockout(mine, range(len(prompt["image"])), stage=stage)
    )
    change = logprob(case, before, hidden, answer.tokens[said]) - logprob(case, before, None, answer.tokens[said])
    row = one(frame[frame["logprob_change"].notna()], word=spelled_as, control="none")
    assert row["logprob_change"] == pytest.approx(change, rel=LIMIT, abs=LIMIT) and abs(change) > 1e-5


@pytest.mark.parametrize("name", [*FAMILIES, *LATENTS])
def test_a_neighbourhood_lies_in_one_tile_and_is_hidden_as_by_one_cut(name):
    case = built(name)
    token = case.answers[0].tokens[0]
    frame = patch_knockout(case.model, case.prompt, answer=token)
    stage, grid, kept, _ = map_by_hand(case, case.prompt["last"][0])
    assert list(frame["token"]) == [grid.positions[at] for at in kept]
    for number in (0, len(kept) // 2, len(kept) - 1):
        at = kept[number]
        (line, column), tile = grid.cells[at], grid.tiles[at]
        rows, columns = range(line - 1, line + 2), range(column - 1, column + 2)
        around = [
            grid.positions[n]
            for n in kept
            if grid.tiles[n] == tile and grid.cells[n][0] in rows and grid.cells[n][1] in columns
        ]
        cut = (
            nv.Knockout(around, "last", layers=case.layers(around))
            if stage == "decoder"
            else nv.Knockout(around, "query", stage=stage)
        )
        row = frame.iloc[number]
        assert (row["tile"], row["row"], row["column"], row["hidden"]) == (tile, line, column, len(around))
        change = logprob(case, case.prompt, cut, token) - logprob(case, case.prompt, None, token)
        assert row["logprob_change"] == pytest.approx(change, rel=LIMIT, abs=LIMIT)


def test_patches_can_be_hidden_from_single_queries_of_a_q_former():
    case = built("blip-2-opt")
    token = case.answers[0].tokens[0]
    frame = patch_knockout(case.model, case.prompt, answer=token, target=[1, 2], layers=[2], size=1)
    cut = nv.Knockout([int(frame["token"][4])], [1, 2], layers=[2], stage="qformer")
    change = logprob(case, case.prompt, cut, token) - logprob(case, case.prompt, None, token)
    assert frame["logprob_change"][4] == pytest.approx(change, rel=LIMIT, abs=LIMIT) and abs(change) > 1e-5


@pytest.mark.parametrize(("name", "why"), [("aria", "does not expose its attention"), ("idefics2-split", "one crop")])
def test_image_tokens_without_patches_say_why(name, why):
    case = built(name)
    with pytest.raises(nv.SpecError, match=why):
        patch_knockout(case.model, case.prompt, answer=5)
    with pytest.raises(nv.SpecError, match=why):
        patch_grounding(case.model, case.prompts, max_new_tokens=STEPS, work=QUIET)


# report and command line -------------------------------------------------------------------------------


@pytest.fixture
def named(monkeypatch):
    """Makes the report load models of the zoo by their names."""
    for room in (single, writing):
        monkeypatch.setattr(room, "load_by_name", lambda name, *_: built(name).model)


@pytest.mark.parametrize("name", ["blip-2-opt", "internvl", "llava_next", "qwen3_5", "mllama", "blip-2-t5", "aria"])
def test_one_picture_can_be_grounded_and_cut(name, named, tmp_path):
    case, text = built(name), zoo.ZOO[name].text
    shown = case.prompt.image()
    word = case.answers[0].text.split()[-1]
    if name != "aria":
        options = {"words": (word,), "layers": None, "limit": STEPS}
        answer, table = single.ground_one(name, shown, text, tmp_path / "ground.png", **options)
        _, grid = patch_source(case.prompt)
        place = case.answers[0].prompt.find(word, within="generated", occurrence=0)[-1]
        maps = map_by_hand(case, place - 1)[3]
        x0, y0, x1, y1 = grid.boxes[maps[list(middle_half(len(maps)))].mean(0).argmax()]
        assert answer == case.answers[0].text
        assert (table["peak x"][0], table["peak y"][0]) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.06)
    options = {"source": "image", "target": "last", "layers": "attention", "answer": None, "limit": STEPS}
    _, table = single.knockout_one(name, shown, text, tmp_path / "cut.png", **options)
    token = case.answers[0].tokens[0]
    cut = nv.Knockout("image", "last", layers=case.layers(case.prompt["image"]))
    change = logprob(case, case.prompt, cut, token) - logprob(case, case.prompt, None, token)
    assert table["logprob_change"][0] == pytest.approx(change, rel=LIMIT, abs=LIMIT)
    assert {path.name for path in tmp_path.iterdir()} == {"cut.png", *(["ground.png"] if name != "aria" else [])}


@pytest.mark.parametrize("name", ["blip-2-t5", "mllama"])
def test_a_report_is_written_for_families_of_any_kind(name, named, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "check_model_name", lambda _: None)
    (tmp_path / "pictures").mkdir()
    picture(1, zoo.ZOO[name].sizes[-1]).save(tmp_path / "pictures" / "one.png")
    options = {"query": zoo.ZOO[name].text, "max_new_tokens": STEPS, "progress": False}
    done = write_report(tmp_path / "out", model=name, images=str(tmp_path / "pictures"), **options)
    text = built(name).answers[0].text
    rows = pd.read_csv(tmp_path / "out" / "frames" / "knockout_windows_per_image.csv")
    assert one(rows, form="clean")["text"] == text
    assert re.search(r"!\[.*\]\(figures/windows.png\)", (tmp_path / "out" / "report.md").read_text())
    assert set(done.frames) == {"knockout_windows", "patch_grounding", "attention_share", "prompt_ablation"}


def test_a_report_leaves_out_the_grounding_of_image_tokens_without_patches():
    for name in ("aria", "idefics2-split", "llava"):
        prompts = built(name).prompts
        known = [study.seen_of(prompt).no_patches for prompt in prompts]
        pictures = study.Study(
            asked=prompts,
            prompts=prompts,
            ids=range(len(prompts)),
            objects=None,
            routes=(),
            patches=known,
            lacks=study.OF_A_FOLDER,
        )
        chosen = steps.steps(built(name).model, pictures, study.ReportConfig())
        names = [step.name for step in chosen if not step.lacks]
        assert ("patch_grounding" in names) == (name == "llava")
