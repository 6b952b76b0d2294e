"""Vision towers whose tokens lie in one line: Qwen's, Pixtral's and others built like them.

The reference is the tower written out by hand (`vision_lines`), or attention written out inside the plain model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from float64 import LIMIT, float64
from PIL import Image
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vision_lines import HAND, Tower, patch_of
from zoo import videos
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.device import lines
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering import towers
from nnsight_vlm.lowering.sites import SITES

SEEN = 1e-3
VISION = {"stage": "vision"}
BY_HAND = tuple(HAND)
LINES = ("qwen2_vl", "qwen3_vl_moe", "qwen3_5", "glm4v", "glm4v_moe", "ernie4_5_vl_moe", "kimi_k25", "paddleocr_vl")
LINES = (*LINES, "exaone4_5", "hunyuan_vl", "lfm3_vl", "lighton_ocr", "llava-pixtral")


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


def model_of(name: str, attention: str = "sdpa") -> Any:
    return zoo.load(name, attention, torch.float64)


@functools.cache
def prompt_of(name: str, attention: str = "sdpa", seed: int = 1, pictures: int = 2) -> nv.Prompt:
    """About pictures of several sizes."""
    with float64():
        member = zoo.ZOO[name]
        shown = [picture(seed + number, size) for number, size in zip(range(pictures), member.sizes, strict=False)]
        return nv.encode(model_of(name, attention), text_of(name, pictures), shown, chat=False)


def text_of(name: str, pictures: int = 1) -> str:
    """A member's text with so many placeholders."""
    before, _, rest = zoo.ZOO[name].text.partition("user : ")
    image, _, question = rest.partition(" what")
    return f"{before}user : {' and '.join([image] * pictures)} what{question}"


def by_hand(name: str, prompt: nv.Prompt, tower: Tower, attention: str = "sdpa") -> torch.Tensor:
    """Logits at the last token of each row."""
    return HAND[name](view_of(model_of(name, attention)).module, prompt.inputs, tower)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= LIMIT * max(1.0, float(expected.abs().max()))


def reads_of(prompt: nv.Prompt) -> list[Any]:
    sites = ("embedding", "attention", "mlp", "residual", "query", "key", "value", "head")
    return [nv.Attention("image", "image", **VISION), *(nv.Residual("image", site=site, **VISION) for site in sites)]


def expected_reads(tower: Tower, order: Sequence[int], layers: int) -> list[torch.Tensor]:
    """The same of the tower by hand; positions are in an order of their own."""
    every = range(layers)
    found = [torch.stack([tower.states["weights", layer][:, order][:, :, order] for layer in every])]
    found.append(tower.states["embedding", -1][order])
    for site in ("attention", "mlp", "residual"):
        found.append(torch.stack([tower.states[site, layer][order] for layer in every]))
    for site in ("query", "key", "value", "head"):
        found.append(torch.stack([tower.states[site, layer][order].transpose(0, 1) for layer in every]))
    return found


# interventions, and what they are by hand -------------------------------------------------------------

TARGETS, SOURCES = ((0, 0, 0), (0, 1, 1), (1, 2, 1)), ((0, 0, 1), (0, 1, 0), (0, 2, 2), (1, 2, 0), (1, 3, 1))
"""`(picture, row, column)`: some of a window, some not."""


def without(patches: dict[str, list[int]], heads: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Weights whose edges are taken, all others as they were."""

    def taken(weights: torch.Tensor) -> torch.Tensor:
        for head in heads:
            for target in patches["targets"]:
                weights[head, target, patches["sources"]] = 0
        return weights

    return taken


def greatest_only(patches: dict[str, list[int]], top: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def limited(weights: torch.Tensor) -> torch.Tensor:
        for head in range(len(weights)):
            for target in patches["targets"]:
                row = weights[head, target].clone()
                ranked = sorted(patches["sources"], key=lambda key: -float(row[key]))
                kept = row.clone()
                kept[ranked[top:]] = 0
                weights[head, target] = kept * row.sum() / kept.sum()
        return weights

    return limited


def written(patches: dict[str, list[int]], values: torch.Tensor, heads: Sequence[int] | None = None) -> Any:
    def put(states: torch.Tensor) -> torch.Tensor:
        if heads is None:
            states[patches["targets"]] = values
        else:
            for head in heads:
                states[patches["targets"], head] = values
        return states

    return put


def cases(positions: dict[str, tuple[int, ...]], patches: dict[str, list[int]], width: int, head_dim: int) -> Any:
    """Each intervention beside the tower by hand."""
    sources, targets = positions["sources"], positions["targets"]
    cut, some = (None, patches["targets"], patches["sources"]), ([1], patches["targets"], patches["sources"])
    generator = torch.Generator().manual_seed(3)
    wide, narrow = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (width, head_dim))
    put = {site: nv.Patch(targets, source=wide, site=site, layers=1, **VISION) for site in ("attention", "mlp")}
    parts = ("query", "key", "value", "head")
    heads = [nv.Patch(targets, source=narrow, site=site, layers=0, heads=[1], **VISION) for site in parts]
    return {
        "mask": (
            nv.Knockout(sources, targets, **VISION),
            {"cuts": {0: [cut], 1: [cut]}},
        ),
        "mask of a head": (
            nv.Knockout(sources, targets, layers=1, heads=[1], **VISION),
            {"cuts": {1: [some]}},
        ),
        "zero": (
            nv.Knockout(sources, targets, layers=1, how="zero", **VISION),
            {"writes": {("weights", 1): without(patches, (0, 1))}},
        ),
        "limit": (
            nv.Limit(sources, targets, top=1, layers=1, **VISION),
            {"writes": {("weights", 1): greatest_only(patches, 1)}},
        ),
        "states": (
            put["attention"] | put["mlp"] | nv.Patch(targets, source=wide, site="embedding", **VISION),
            {"writes": {(site, layer): written(patches, wide) for site, layer in STATES}},
        ),
        "residual": (
            nv.Patch(targets, source=wide, layers=0, **VISION),
            {"writes": {("residual", 0): written(patches, wide)}},
        ),
        "parts": (
            heads[0] | heads[1] | heads[2] | heads[3] | nv.Knockout(sources, targets, layers=0, **VISION),
            {
                "writes": {(site, 0): written(patches, narrow, [1]) for site in parts},
                "cuts": {0: [cut]},
            },
        ),
    }


STATES = (("attention", 1), ("mlp", 1), ("embedding", -1))
CASES = ("mask", "mask of a head", "zero", "limit", "states", "residual", "parts")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BY_HAND)
def test_every_intervention_and_read_equals_a_tower_written_by_hand(name, attention):
    model, prompt, clean = model_of(name, attention), prompt_of(name, attention), Tower()
    expected = by_hand(name, prompt, clean, attention)
    number_of = patch_of(prompt, clean)
    place_of = {number: position for position, number in number_of.items()}
    image, spec = prompt.positions("image", stage="vision"), view_of(model).stage("vision")
    order = [number_of[position] for position in image]
    run = nv.run(model, prompt, reads=reads_of(prompt))
    close(run.logits, expected[0])
    for found, wanted in zip(run.reads, expected_reads(clean, order, spec.layer_count), strict=True):
        close(found, wanted)
    frames = [tuple(place) for place in clean.frames.tolist()]
    patches = {"sources": sorted(map(frames.index, SOURCES)), "targets": sorted(map(frames.index, TARGETS))}
    positions = {kind: tuple(sorted(place_of[patch] for patch in some)) for kind, some in patches.items()}
    listed = cases(positions, patches, spec.width, spec.head_dim[0])
    assert set(listed) == set(CASES)
    for kind, (intervention, changes) in listed.items():
        tower = Tower(**changes)
        expected = by_hand(name, prompt, tower, attention)
        changed = nv.run(model, prompt, intervention, reads=reads_of(prompt))
        close(changed.logits, expected[0])
        for found, wanted in zip(changed.reads, expected_reads(tower, order, spec.layer_count), strict=True):
            close(found, wanted)
        assert float((changed.logits - run.logits).abs().max()) > SEEN, kind


@pytest.mark.parametrize("name", ["qwen2_5_vl", "mistral3"])
def test_reductions_of_attention_are_those_of_its_rows_under_a_cut(name):
    prompt = prompt_of(name)
    image, others = prompt.positions("image.0", stage="vision"), prompt.positions("image.1", stage="vision")
    cut = nv.Knockout(image[1:3], image[:4], **VISION)
    reductions = ("rows", "mean", "mass", "entropy", "top")
    read = functools.partial(nv.Attention, (image[0], others[1]), "image.0", **VISION)
    reads = [read(reduce=each, **({"top": 3} if each == "top" else {})) for each in reductions]
    rows, mean, mass, entropy, top = nv.run(model_of(name), prompt, cut, reads=reads).reads
    assert rows.shape[1:] == (2, 2, len(image)) and not rows[:, :, 1].any(), "pictures do not see each other"
    close(mean, rows.mean(1))
    close(mass, rows.sum(-1))
    share = rows[:, :, :1] / rows[:, :, :1].sum(-1, keepdim=True)
    close(entropy[:, :, :1], torch.special.entr(share).sum(-1))
    most = rows.topk(3, dim=-1)
    close(top[:, :, :1, :, 1], most.values[:, :, :1])
    assert torch.equal(torch.tensor(image)[most.indices[:, :, :1]].double(), top[:, :, :1, :, 0])


# identities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5_vl", "mistral3"])
def test_patching_all_tokens_of_the_last_layer_is_patching_features(name):
    model, prompt, source = model_of(name), prompt_of(name), prompt_of(name, seed=7)
    last = view_of(model).stage("vision").taken[-1]
    features = nv.run(model, prompt, nv.Patch("image", source=source, site="features"))
    residual = nv.run(model, prompt, nv.Patch("image", source=source, layers=last, **VISION))
    close(residual.logits, features.logits)
    close(residual.logits, nv.run(model, source).logits)
    assert float((residual.logits - nv.run(model, prompt).logits).abs().max()) > SEEN


def test_patching_the_layers_that_are_tapped_is_all_that_the_decoder_sees_of_a_picture():
    model, prompt, source = model_of("qwen3_vl"), prompt_of("qwen3_vl"), prompt_of("qwen3_vl", seed=7)
    taken = view_of(model).stage("vision").taken
    assert taken == (0, 1), "one is tapped, and the last is tapped and merged"
    every = nv.run(model, prompt, nv.Patch("image", source=source, layers=taken, **VISION))
    close(every.logits, nv.run(model, source).logits)
    last = nv.run(model, prompt, nv.Patch("image", source=source, layers=1, **VISION))
    assert float((last.logits - every.logits).abs().max()) > SEEN, "a tap was passed before"


@pytest.mark.parametrize("name", BY_HAND)
def test_patches_that_see_themselves_only_make_tokens_of_their_own_pixels(name):
    model, prompt = model_of(name), prompt_of(name, pictures=1)
    image = prompt.positions("image", stage="vision")
    cuts = [nv.Knockout(tuple(p for p in image if p != patch), patch, **VISION) for patch in image]
    alone = functools.reduce(lambda one, other: one | other, cuts)
    grid, tokens = prompt.grid(0, stage="vision"), prompt.grid(0)
    x0, y0, x1, y1 = (round(edge) for edge in grid.boxes[5])
    pixels = np.array(prompt.image(0))
    pixels[y0:y1, x0:x1] = 255 - pixels[y0:y1, x0:x1]
    planted = nv.encode(model, text_of(name), Image.fromarray(pixels), chat=False)
    read = nv.Residual("image", site="embedding")
    before, after = (nv.run(model, each, alone, reads=[read]).reads[0] for each in (prompt, planted))
    moved = {position for position, row in zip(prompt["image"], (before != after).any(-1), strict=True) if row}
    covered = tokens.coverage((x0, y0, x1, y1)) > 0.01
    assert covered.sum() == 1 and moved == {tokens.positions[int(covered.argmax())]}
    clean = [nv.run(model, each, reads=[read]).reads[0] for each in (prompt, planted)]
    assert int((clean[0] != clean[1]).any(-1).sum()) > len(moved), "else patches do not see each other"


# layouts ----------------------------------------------------------------------------------------------


def some(prompt: nv.Prompt) -> dict[str, Any]:
    """Interventions on the tower: on a row's own first picture."""
    image = prompt.positions("image.0", stage="vision")
    cut = nv.Knockout(image[1:3], image[:4], layers=1, **VISION)
    state = nv.Ablate(image[2:5], layers=0, **VISION)
    part = nv.Patch(image[3], source=torch.ones(8, dtype=torch.float64), site="key", layers=1, heads=[1], **VISION)
    return {"cut": cut, "state": state, "all": cut | state | part if part_fits(prompt) else cut | state}


def part_fits(prompt: nv.Prompt) -> bool:
    return view_of(prompt.model).stage("vision").head_dim[0] == 8


@pytest.mark.parametrize("name", BY_HAND)
def test_rows_of_a_batch_are_what_they_are_alone(name):
    model = model_of(name)
    alone = [prompt_of(name, pictures=1), prompt_of(name, seed=5), prompt_of(name, seed=9, pictures=1)]
    batch = nv.stack(alone)
    assert batch.width > alone[0].width, "rows are padded on the left"
    image = alone[0].positions("image.0", stage="vision")
    act = nv.Knockout(image[1:3], image[:4], **VISION)
    act |= nv.Ablate("image.0", layers=0, site="key", how="mean", **VISION)
    reads = [nv.Attention(image[:4], "image.0", **VISION), nv.Residual("image.0", **VISION)]
    together = nv.run(model, batch, act, reads=reads)
    for row, prompt in enumerate(alone):
        expected = nv.run(model, prompt, act, reads=reads)
        close(together.logits[row], expected.logits)
        for found, wanted in zip(together.reads, expected.reads, strict=True):
            close(found[row], wanted)
    assert float((together.logits - nv.run(model, batch).logits).abs().max()) > SEEN
    assert nv.verify(model, batch, act).edges > 0


@pytest.mark.parametrize("name", BY_HAND)
def test_a_sweep_equals_runs_one_by_one(name):
    model, prompt = model_of(name), prompt_of(name)
    variants = [*some(prompt).values(), nv.Knockout("image", "last", layers=1)]
    frames = [nv.sweep(model, prompt, variants, answer="red", execution=how) for how in ("auto", "rows", "single")]
    word = model.processor.tokenizer.convert_tokens_to_ids("red")
    expected = torch.stack([nv.run(model, prompt, variant).logits[word] for variant in variants])
    for frame in frames:
        close(torch.tensor(frame["logit"].to_numpy()), expected)
    assert float((expected - frames[0]["clean_logit"][0]).abs().min()) > SEEN / 10


@pytest.mark.parametrize("name", BY_HAND)
def test_an_answer_is_that_of_one_forward_over_the_whole_sequence(name):
    model, prompt = model_of(name), prompt_of(name)
    act = some(prompt)["all"]
    answer = nv.generate(model, prompt, act, max_new_tokens=3)
    assert answer.tokens == nv.generate(model, prompt, act, max_new_tokens=3, use_cache=False).tokens
    grown = answer.prompt
    logits = nv.run(model, grown, act, positions=range(prompt.width - 1, grown.width - 1)).logits
    said = view_of(model).generation_config.suppress_tokens
    logits[:, said] = -torch.inf
    assert logits.argmax(-1).tolist() == list(grown.rows[0].tokens[prompt.width :])


# proofs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BY_HAND)
def test_proofs_hold(name, attention):
    model, prompt = model_of(name, attention), prompt_of(name, attention)
    image = prompt.positions("image.0", stage="vision")
    for how in ("mask", "zero"):
        cut = nv.Knockout(image[1:3], image[:4], how=how, heads=[1], **VISION)
        proof = nv.verify(model, prompt, cut)
        assert proof.edges == 2 * 2 * 4 and proof.moved > 0
    limit = nv.Limit("image.0", image[:4], top=2, layers=1, **VISION)
    assert nv.verify(model, prompt, limit | some(prompt)["all"]).writes > 0


CHANGE = lines.change_line
FAULTS = {
    "forgotten": lambda writes: writes[:0],
    "another row": lambda writes: [(0, tuple((a + 1, b + 1) for a, b in at), *rest) for _, at, *rest in writes],
    "a row too many": lambda writes: [(0, (*at, (9, 10)), *rest) for _, at, *rest in writes],
    "an edge too few": lambda writes: [(0, at, ((a, b - 1),), *rest) for _, at, [(a, b)], *rest in writes],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cut_of_a_line_that_does_something_else_is_found(fault, monkeypatch):
    model, prompt = model_of("qwen2_5_vl"), prompt_of("qwen2_5_vl")
    image = prompt.positions("image.0", stage="vision")
    cut = nv.Knockout(image[1:3], image[:4], **VISION)

    def change(mixed: Any, writes: Any, window: Any, mask_spec: Any, memo: Any) -> Any:
        return CHANGE(mixed, FAULTS[fault](writes), window, mask_spec, memo)

    monkeypatch.setitem(SITES, "line", dataclasses.replace(SITES["line"], kernel=change))
    monkeypatch.setitem(towers.IN_PIECES, change, change)
    with pytest.raises(nv.InterventionError):
        nv.verify(model, prompt, cut)


# other families ---------------------------------------------------------------------------------------


@contextmanager
def attention_by_hand(module: Any, edges: Sequence[tuple[int, int]]) -> Any:
    """Attention of one module written out, with edges closed: `(query, key)`, counted over all of its calls."""
    passed = [0]

    def attend(owner: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **others: Any) -> Any:
        if owner is not module:
            return REAL(owner, query, key, value, attention_mask, **others)
        first, length = passed[0], key.shape[2]
        passed[0] += length
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores if attention_mask is None else scores + attention_mask
        for one, other in edges:
            if first <= one < first + length and first <= other < first + length:
                scores[:, :, one - first, other - first] = -torch.inf
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    REAL = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = REAL


@pytest.mark.parametrize("name", LINES)
def test_a_cut_in_every_other_tower_equals_attention_written_out(name):
    model, prompt = model_of(name), prompt_of(name)
    spec, module = view_of(model).stage("vision"), view_of(model).module
    layer, second = spec.attention[-1], prompt.positions("image.1", stage="vision")
    edges = [(second[0], second[1]), (second[0], second[3]), (second[2], second[0])]
    cut = nv.Knockout(second[1], second[0], layers=layer, **VISION)
    cut |= nv.Knockout(second[3], second[0], layers=layer, **VISION)
    cut |= nv.Knockout(second[0], second[2], layers=layer, **VISION)
    path = f"{spec.stage.layers}.{layer}.{spec.stage.attention.module}"
    with attention_by_hand(module.get_submodule(path), edges), torch.no_grad():
        expected = module(**prompt.inputs).logits[0, -1]
    found = nv.run(model, prompt, cut).logits
    close(found, expected)
    assert float((found - nv.run(model, prompt).logits).abs().max()) > SEEN / 10


@pytest.mark.parametrize("name", (*LINES, *BY_HAND))
def test_the_tower_s_grid_says_which_patch_saw_which_pixels(name):
    model, prompt, number = model_of(name), prompt_of(name), 1
    grid = prompt.grid(number, stage="vision")
    chosen = grid.positions[7]
    x0, y0, x1, y1 = (round(edge) for edge in grid.boxes[7])
    pixels = np.array(prompt.image(number))
    pixels[y0:y1, x0:x1] = 255 - pixels[y0:y1, x0:x1]
    planted = nv.encode(model, text_of(name, 2), [prompt.image(0), Image.fromarray(pixels)], chat=False)
    read = nv.Residual("image", site="embedding", **VISION)
    before, after = (nv.run(model, each, reads=[read]).reads[0] for each in (prompt, planted))
    most = (before - after).abs().amax(-1).argmax()
    assert prompt.positions("image", stage="vision")[int(most)] == chosen
    assert chosen in prompt.region((x0 + 1, y0 + 1, x1 - 1, y1 - 1), image=number, stage="vision")


# videos, and what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_frames_of_a_video_do_not_see_each_other_and_are_cut_as_by_hand(name):
    model = videos.load(name, "sdpa", torch.float64)
    prompt = nv.encode(model, "what happens then ?", videos=videos.film(name, 4))
    clean, module = Tower(), view_of(model).module
    expected = HAND[name](module, prompt.inputs, clean)
    close(nv.run(model, prompt).logits, expected[0])
    tokens = prompt.rows[0].stage("vision")
    assert len(tokens.blocks) == 2 and len(tokens.frames) == 4, "two frames are one patch"
    grid = prompt.grid(video=0, stage="vision")
    numbers = {tuple(place): number for number, place in enumerate(clean.frames.tolist())}
    number_of = {p: numbers[tile, *cell] for p, tile, cell in zip(grid.positions, grid.tiles, grid.cells, strict=True)}
    frame = prompt.positions("frame.2", stage="vision")
    targets, sources = frame[:2], frame[2:4]
    cut = [([1], [number_of[p] for p in targets], [number_of[p] for p in sources])]
    expected = HAND[name](module, prompt.inputs, Tower(cuts={0: cut, 1: cut}))
    found = nv.run(model, prompt, nv.Knockout(sources, targets, heads=[1], **VISION)).logits
    close(found, expected[0])
    assert float((found - nv.run(model, prompt).logits).abs().max()) > SEEN / 10
    with pytest.raises(nv.SpecError, match="no edge is open there"):
        nv.run(model, prompt, nv.Knockout("frame.0", "frame.2", **VISION))


def test_a_tower_that_runs_twice_is_no_stage():
    model = videos.load("qwen2_vl", "sdpa", torch.float64)
    prompt = nv.encode(model, "what is red ?", [picture(1)], videos=videos.film("qwen2_vl", 4))
    with pytest.raises(nv.SpecError, match="with videos, but not both"):
        prompt.positions("image", stage="vision")


def test_edges_between_pictures_and_between_windows_are_closed_already():
    model, prompt = model_of("qwen2_5_vl"), prompt_of("qwen2_5_vl")
    tokens = prompt.rows[0].stage("vision")
    first, second = (window.positions(tokens.stop) for window in tokens.windows[:2])
    for cut in (
        nv.Knockout("image.0", "image.1", **VISION),
        nv.Knockout(first, second, layers=0, **VISION),
        nv.Limit(first, second, top=1, layers=0, **VISION),
    ):
        with pytest.raises(nv.SpecError, match="changes nothing"):
            nv.run(model, prompt, cut)
    assert nv.verify(model, prompt, nv.Knockout(first, second, **VISION)).edges == 2 * len(first) * len(second)
    with pytest.raises(nv.SpecError, match="no key to attend to"):
        nv.run(model, prompt, nv.Knockout(first, first[0], layers=0, **VISION))


def test_a_tower_that_divides_its_line_otherwise_is_refused():
    model, prompt = model_of("qwen2_vl"), prompt_of("qwen2_vl")
    image = prompt.positions("image.0", stage="vision")
    edited = nv.install(model, prompt, nv.Knockout(image[1:3], image[:4], **VISION))
    other = prompt_of("qwen2_vl", pictures=1)
    with pytest.raises(Exception, match="run on pieces that end at"), edited.trace(**other.inputs):
        edited.output.logits.save()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_no_cut_names_stays_as_it_is_to_the_last_bit(attention):
    model, prompt = model_of("qwen2_5_vl", attention), prompt_of("qwen2_5_vl", attention)
    image = prompt.positions("image.0", stage="vision")
    read = nv.Residual("image.0", site="head", layers=[1], **VISION)
    one_head = nv.Knockout(image[:5], image[7], layers=1, heads=[1], **VISION)
    before, after = (nv.run(model, prompt, each, reads=[read]).reads[0] for each in (None, one_head))
    where = [tuple(each) for each in (before != after).any(-1).nonzero().tolist()]
    assert where == [(0, 1, 7)], "layer, head and patch"
