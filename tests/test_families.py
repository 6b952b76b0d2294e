"""Every family, under every attention that it runs: what is changed and read equals the reference without nnsight."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from float64 import FACTOR, LIMIT, float64
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.execution.decoding import decode_logits
from nnsight_vlm.execution.preparing import prepare
from nnsight_vlm.families import Family, view_of
from nnsight_vlm.families.support import unsupported
from nnsight_vlm.lowering.layouts import one_case_per_row
from nnsight_vlm.lowering.plan import SITES, locate
from nnsight_vlm.prompts.token_map import TokenMap
from nnsight_vlm.specs.interventions import CLEAN

SEEN = 1e-3
"""The share of the logits' scale that every intervention here must move."""
STEPS = 4
PLACEHOLDER = re.compile(r"(?:<(?!s>)[^>\s]*>|\[IMG\])+")
"""What stands for a picture in a member's text."""
LAYERED = ("residual", "attention", "cross", "mlp")
PAIRS = (("image", "query"), ("image", "last"), ("earlier", "last"), ("text", "image"), ("system", "query"))
PAIRS += (("query", "last"), ("text", "query"))
"""Sources and targets; `earlier` is the query without its last token, which keeps a key to read."""


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference as a share of the expected values' scale; tokens that a model never says are as unsaid."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    said = expected > torch.finfo(torch.float32).min
    assert torch.equal(found > torch.finfo(torch.float32).min, said)
    found, expected = (value.where(said, torch.zeros(())).double() for value in (found, expected))
    away = (found - expected).abs().max()
    return float(away / expected.abs().max().clamp(min=1e-30)) if bool(away.isfinite()) else float("inf")


@dataclass(frozen=True, kw_only=True, repr=False)
class Case:
    """A member under one attention, in float64, and its reference.

    Attributes:
        prompt, other: one text about two pictures of the first size.
        tiled, twin: the same of the last size.
        module, family: for the reference.
        clean: the reference of `prompt`, nothing changed.
    """

    member: Any
    model: Any
    prompt: nv.Prompt
    other: nv.Prompt
    tiled: nv.Prompt
    twin: nv.Prompt
    module: Any
    family: Family
    clean: reference.Reference

    def reference(self, prompt: nv.Prompt, cuts: Any = None, writes: Any = None) -> reference.Reference:
        """A forward of the reference."""
        return reference.forward(self.module, self.family, prompt.inputs, cuts, writes)

    def layers(self, stage: str, kind: str) -> list[int]:
        """The layers of a stage with an attention."""
        return [layer for at, called, layer in self.clean.weights if (at, called) == (stage, kind)]

    def edges(self, stage: str = "decoder") -> list[Edges]:
        """Sources and targets between which attention flows in a clean run."""
        tokens = self.prompt.rows[0].stage(stage)
        found = []
        for source, target in PAIRS:
            edges = Edges(stage, source, target, tokens)
            if edges.queries and edges.keys and not set(edges.queries) & set(edges.keys):
                layers = self.layers(stage, edges.kind)
                if all(edges.reach(self.clean, n) for n in layers) and any(edges.flows(self.clean, n) for n in layers):
                    found.append(edges)
        return found


def places(tokens: TokenMap, where: Any) -> list[int]:
    """Positions of a group, none where it is empty."""
    if where == "earlier":
        return places(tokens, "query")[:-1]
    return list(tokens.ranges(where).positions(tokens.stop))


def stages(prompt: nv.Prompt) -> list[str]:
    """The stages that have tokens of this prompt; vision towers are tested by themselves."""
    return [*(name for name in dict(prompt.rows[0].stages) if name != "vision"), "decoder"]


def tokens_of(case: Case, stage: str) -> TokenMap:
    return case.prompt.rows[0].stage(stage)


class Edges:
    """Edges of one stage, from named sources to named targets: both in positions, and as scores are indexed."""

    def __init__(self, stage: str, source: Any, target: Any, tokens: TokenMap):
        self.stage, self.tokens = stage, tokens
        self.queries, self.keys = [p for p in places(tokens, target) if p >= 0], places(tokens, source)
        self.source, self.target = (tuple(self.keys) if source == "earlier" else source), target
        self.kind = "cross" if self.keys and self.keys[0] < 0 else "attention"
        self.columns = [p + tokens.outside if self.kind == "cross" else p for p in self.keys]
        self.every = tuple(range(-tokens.outside, 0)) if self.kind == "cross" else "all"

    def weights(self, run: reference.Reference, layer: int) -> torch.Tensor:
        """`[head, query, every key]` of the targets in one layer."""
        return run.weights[self.stage, self.kind, layer][0][:, self.queries]

    def mass(self, run: reference.Reference, layer: int) -> torch.Tensor:
        """`[head, query]`: how much attention the targets pay to the sources."""
        return self.weights(run, layer)[..., self.columns].sum(-1)

    def reach(self, run: reference.Reference, layer: int) -> bool:
        """Whether the targets have this attention: a question in a Q-Former does not look at the image."""
        return max(self.queries) < run.weights[self.stage, self.kind, layer].shape[2]

    def flows(self, run: reference.Reference, layer: int) -> bool:
        """Whether they pay any attention to the sources."""
        return bool(self.mass(run, layer).any())

    def cuts(self, layers: Sequence[int], heads: Any = None) -> Any:
        """For the reference."""
        return reference.cuts(layers, self.queries, self.columns, heads, self.stage, self.kind)


@functools.cache
def clean(name: str) -> reference.Reference:
    module, family = reference.load(name, torch.float64)
    prompt = zoo.prompt(name, zoo.ZOO[name].implementations[0], dtype=torch.float64)
    return reference.forward(module, family, prompt.inputs)


@functools.cache
def built(name: str, attention: str) -> Case:
    module, family = reference.load(name, torch.float64)
    last, encoded = len(zoo.ZOO[name].sizes) - 1, functools.partial(zoo.prompt, name, attention, dtype=torch.float64)
    return Case(
        member=zoo.ZOO[name],
        model=zoo.load(name, attention, torch.float64),
        prompt=encoded(),
        other=encoded(seed=2),
        tiled=encoded(size=last),
        twin=encoded(seed=2, size=last),
        module=module,
        family=family,
        clean=clean(name),
    )


PARAMETERS = [(name, attention) for name, member in zoo.ZOO.items() for attention in member.implementations]
ONE_OF_ALIKE = [
    each for each in PARAMETERS if each[0] not in zoo.ALIKE or each[1] == zoo.ZOO[each[0]].implementations[0]
]
"""All members, those of `zoo.ALIKE` under one attention: members that have their parts run under all of them."""
IN_FULL = ("llava", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "internvl", "gemma3", "mllama", "blip-2", "idefics3")
"""What the names of members begin with that stand for a kind of decoder or of image tokens each."""
ONE_EACH = [
    (name, attention)
    for name, attention in PARAMETERS
    if name.startswith(IN_FULL) or attention == zoo.ZOO[name].implementations[0]
]
"""All members, most under one attention: for what an attention's implementation makes no difference to."""
NEED_PICTURE = ("got_ocr2", "paligemma", "fuyu", "florence2")
"""Families whose processor takes no text without a picture, or whose decoder has no text."""
WITHOUT_PICTURE = [
    (name, attention)
    for name, attention in ONE_EACH
    if not name.startswith(NEED_PICTURE) and "text alone" not in unsupported(zoo.row(name))
]
under_one = pytest.mark.parametrize("case", ONE_EACH, ids=["-".join(each) for each in ONE_EACH], indirect=True)
under_every = pytest.mark.parametrize("case", PARAMETERS, ids=["-".join(each) for each in PARAMETERS], indirect=True)


@pytest.fixture(params=ONE_OF_ALIKE, ids="-".join)
def case(request):
    with float64():
        yield built(*request.param)


# 1 -----------------------------------------------------------------------------------------------------


@under_every
def test_the_family_fits_the_model_and_an_empty_intervention_changes_nothing(case):
    plain = case.model._module
    assert zoo.row(case.member.name).name == case.family.name == view_of(case.model).family.name
    with torch.no_grad():
        logits = plain(**case.prompt.inputs).logits[0]
    for empty in (None, nv.Knockout("image", "generated", layers="attention")):
        assert torch.equal(nv.run(case.model, case.prompt, empty, positions="all", empty="ignore").logits, logits)
    assert gap(case.clean.logits[0], logits) < LIMIT
    paths = dict(plain.named_modules())
    for stage in case.family.stages:
        spec = view_of(case.model).stage(stage)
        assert (spec.stage.entry or spec.stage.layers) in paths
        assert len(reference.layers(plain, spec.stage)) == spec.layer_count
        assert case.layers(stage, "attention") == list(spec.attention)
        assert case.layers(stage, "cross") == list(spec.cross)
        heads = {weights.shape[1] for (at, *_), weights in case.clean.weights.items() if at == stage}
        assert heads == {spec.head_count}
        missing = {"cross": spec.stage.cross, "silence": spec.stage.cross, "mlp": spec.stage.mlp}
        missing |= {
            "cross mask": spec.stage.cross,
            "embedding": spec.stage.embedding,
            **dict.fromkeys(("projector", "features"), case.family.projector),
        }
        of_lines = ("pieces", "query kept", "key kept", "value kept", "line")
        missing |= dict.fromkeys(of_lines, spec.stage.attention.line)
        for name, site in SITES.items():
            if name.endswith(" gate") and name.removesuffix(" gate") not in spec.stage.gates:
                continue
            within = {"attention": spec.attention, "cross": spec.cross}.get(site.needs, range(spec.layer_count))
            for layer in within if missing.get(name, name) is not None else ():
                assert reference.plain(locate(case.family, stage, name, layer)[0]) in paths


# 2 -----------------------------------------------------------------------------------------------------


@under_every
def test_knockouts_equal_the_reference_and_leave_what_comes_before_them_alone(case):
    before = nv.run(case.model, case.prompt, positions="all").logits
    if view_of(case.model).stage().recurrent:
        with pytest.raises(nv.SpecError, match='layers="attention"'):
            nv.run(case.model, case.prompt, nv.Knockout("image", "query", layers="all"))
    for stage in stages(case.prompt):
        found = case.edges(stage)
        kinds = {kind for kind in ("attention", "cross") if case.layers(stage, kind)}
        assert {edges.kind for edges in found} == kinds - (
            {"attention"} if len(tokens_of(case, stage).tokens) == 1 else set()
        )
        for edges in found:
            cut = nv.Knockout(edges.source, edges.target, layers="attention", stage=stage)
            expect_cut(case, cut, edges, case.layers(stage, edges.kind), before=before, least=SEEN)


def test_single_layers_heads_and_allowed_routes_equal_the_reference(case):
    for stage in stages(case.prompt):
        for edges in {edges.kind: edges for edges in reversed(case.edges(stage))}.values():
            layers, named = case.layers(stage, edges.kind), (edges.source, edges.target)
            first, last = layers[0], layers[-1]
            least = SEEN / 10 if stage == "decoder" else None  # what an encoder's last layer writes may not be read
            expect_cut(case, nv.Knockout(*named, layers=[first], stage=stage), edges, [first], least=least)
            heads = {first: [1], last: [0]} if first != last else {first: [0, 1]}
            pairs = [(layer, head) for layer, some in heads.items() for head in some]
            cut = nv.Knockout(*named, layers=[first, last][: len(heads)], heads=pairs, stage=stage)
            expect_cut(case, cut, edges, list(heads), heads=heads, least=least)
            if first != last:
                expect_cut(case, nv.Allow(*named, layers=[last], stage=stage), edges, layers[:-1], least=least)
                route = nv.Allow(*named, layers=[first], heads=0, stage=stage)
                expect_cut(case, route, edges, layers[1:], heads={layer: [0] for layer in layers[1:]}, least=least)


def expect_cut(
    case: Case,
    cut: nv.Knockout,
    edges: Edges,
    layers: Sequence[int],
    heads: Any = None,
    before: torch.Tensor | None = None,
    least: float | None = None,
) -> None:
    """Logits everywhere and attention rows are the reference's, what is cut has no weight, and all of it matters."""
    expected, there = case.reference(case.prompt, edges.cuts(layers, heads)), case.layers(edges.stage, edges.kind)
    named = {"layers": there, "stage": edges.stage}
    reads = [
        nv.Attention(edges.target, edges.every, **named),
        nv.Attention(edges.target, edges.source, reduce="mass", **named),
    ]
    run = nv.run(case.model, case.prompt, cut, positions="all", reads=reads)
    assert gap(run.logits, expected.logits[0]) < LIMIT, cut
    cut_mass = [edges.mass(case.clean, layer)[slice(None) if heads is None else heads[layer]] for layer in layers]
    assert sum(float(mass.sum()) for mass in cut_mass) > 0, cut
    if least is not None:
        assert gap(expected.logits, case.clean.logits) > least, cut
    for number, layer in enumerate(there):
        rows, mass = run.reads[0][number], run.reads[1][number]
        assert float((rows - edges.weights(expected, layer)).abs().max()) < LIMIT, (cut, layer)
        assert float((mass - edges.mass(expected, layer)).abs().max()) < LIMIT, (cut, layer)
        some = slice(None) if heads is None else heads.get(layer, [])
        if layer in layers:
            assert not rows[some][..., edges.columns].any() and not mass[some].any(), (cut, layer)
    if before is not None and case.family.blocks == "none" and edges.stage == "decoder":
        untouched = slice(0, min(edges.queries))
        assert untouched.stop == 0 or gap(run.logits[untouched], before[untouched]) < LIMIT, cut


# 3 -----------------------------------------------------------------------------------------------------


def written(tokens: TokenMap) -> str:
    """A group to write: the image where it is in the sequence."""
    return next(name for name in ("image", "query", "all") if min(places(tokens, name)) >= 0)


def sites(case: Case) -> list[tuple[str, str]]:
    """Every stage and site of states that the family has."""
    there = stages(case.tiled)
    found = [(stage, site) for stage in there for site in LAYERED if has(case, stage, site)]
    found += [(stage, "embedding") for stage in there if case.family.stages[stage].embedding is not None]
    found += [("features", "features")] if case.family.projector is not None else []
    return [(stage, site) for stage, site in found if site not in case.family.limitations]


def has(case: Case, stage: str, site: str) -> bool:
    return any((at, name) == (stage, site) for at, name, _ in case.clean.states)


def spots(run: reference.Reference, stage: str, site: str) -> list[reference.Spot]:
    return [spot for spot in run.states if spot[:2] == (stage, site)]


def rows_of(case: Case, prompt: nv.Prompt, stage: str, site: str) -> list[int]:
    """Where a site of the reference holds what `written` names."""
    if site != "features":
        tokens = prompt.rows[0].stage(stage)
        return places(tokens, written(tokens))
    tokens = prompt.rows[0]
    image = [place + tokens.outside if place < 0 else place for place in places(tokens, "image")]
    if case.family.image_at == "cross":  # they are the keys themselves
        return image
    found = reference.feature_rows(case.module, case.family, prompt.inputs, image, case.family.image_at)
    return [number for number in found if number >= 0]


def named(case: Case, stage: str, site: str) -> tuple[str, dict[str, Any]]:
    """The same for an intervention."""
    if site == "features":
        return "image", {"site": site}
    return written(case.tiled.rows[0].stage(stage)), {"site": site, "stage": stage}


@under_one
def test_patches_and_ablations_equal_the_reference(case):
    clean, source = case.reference(case.tiled), case.reference(case.twin)
    assert gap(nv.run(case.model, case.tiled, positions="all").logits, clean.logits[0]) < LIMIT
    for site in ("features", "embedding"):
        if site in case.family.limitations:
            with pytest.raises(nv.SpecError, match=re.escape(case.family.limitations[site])):
                nv.run(case.model, case.tiled, nv.Ablate("image", site=site))
    for stage, site in sites(case):
        there = spots(clean, stage, site)
        chosen = sorted({there[0], there[len(there) // 2]})
        at, (where, how) = rows_of(case, case.tiled, stage, site), named(case, stage, site)
        how |= {"layers": [layer for *_, layer in chosen]} if site in LAYERED else {}
        values = {spot: source.states[spot][0, at] for spot in chosen}
        swap, expected = {spot: reference.setter(0, at, value) for spot, value in values.items()}, clean
        for change, writes in (
            (nv.Patch(where, source=case.twin, **how), swap),
            (nv.Ablate(where, how="resample", source=case.twin, **how), None),
            (nv.Ablate(where, **how), dict.fromkeys(swap, reference.setter(0, at, 0.0))),
            (nv.Ablate(where, how="mean", **how), dict.fromkeys(swap, reference.mean(0, at))),
            (steered(where, clean, chosen[0], **how), dict.fromkeys(swap, steer(at, clean, chosen[0]))),
        ):
            expected = expected if writes is None else case.reference(case.tiled, writes=writes)  # None: as before it
            assert gap(nv.run(case.model, case.tiled, change, positions="all").logits, expected.logits[0]) < LIMIT
            same = all(gap(expected.states[spot][0, at], clean.states[spot][0, at]) < LIMIT for spot in chosen[:1])
            assert same or gap(expected.logits, clean.logits) > SEEN, change
            assert not same or not isinstance(change, nv.Ablate) or change.how != "zero", change


def vector(run: reference.Reference, spot: reference.Spot) -> torch.Tensor:
    """A vector of the size of the states at a site, `[...]` as one position of it."""
    states = run.states[spot]
    drawn = torch.randn(states.shape[2:], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return drawn * states[0].std()


def steered(where: Any, run: reference.Reference, spot: reference.Spot, **how: Any) -> nv.Intervention:
    """Twice a vector is added to the states at a site, and the sum is halved."""
    return nv.Add(where, vector(run, spot).flatten(), scale=2.0, **how) | nv.Scale(where, 0.5, **how)


def steer(at: Sequence[int], run: reference.Reference, spot: reference.Spot) -> reference.Write:
    """The same for the reference."""

    def write(state: torch.Tensor) -> torch.Tensor:
        state[0, list(at)] = state[0, list(at)] / 2 + vector(run, spot)
        return state

    return write


@under_one
def test_states_that_are_read_equal_the_reference(case):
    there, clean = sites(case), case.reference(case.tiled)
    reads = []
    for stage, site in there:
        where, how = named(case, stage, site)
        layers = [layer for *_, layer in spots(clean, stage, site)] if site in LAYERED else "all"
        reads.append(nv.Residual(where, layers=layers, **how))
    for (stage, site), found in zip(there, nv.run(case.model, case.tiled, reads=reads).reads, strict=True):
        at = rows_of(case, case.tiled, stage, site)
        expected = torch.stack([clean.states[spot][0, at].flatten(1) for spot in spots(clean, stage, site)])
        assert gap(found, expected if site in LAYERED else expected[0]) < LIMIT, (stage, site)


# 4 -----------------------------------------------------------------------------------------------------


def test_cached_generation_equals_the_reference_without_a_cache(case):
    caches = [{}] if "static cache" in case.family.limitations else [{}, {"cache_implementation": "static"}]
    middle = view_of(case.model).stage().layer_count // 2
    spot, stop = ("decoder", "residual", middle - 1), case.prompt.width

    def cut(step):
        edges = Edges("decoder", "image", "last", case.prompt.rows[0])
        edges.queries = list(range(stop, stop + step))
        return edges.cuts(case.layers("decoder", edges.kind)) if step else {}, {}

    def zero(step):
        return {}, {spot: reference.setter(0, range(stop - 1, stop + step), 0.0)}

    def pushed(step):
        return {}, {spot: steer(range(stop - 1, stop + step), case.clean, spot)}

    for change, planned in (
        (nv.Knockout("image", "generated", layers="attention"), cut),
        (nv.Ablate(["last", "generated"], layers=middle - 1), zero),
        (steered(["last", "generated"], case.clean, spot, layers=middle - 1), pushed),
        (None, lambda _: ({}, {})),
    ):
        tokens, logits = reference.greedy(
            case.module, case.family, STEPS, lambda more: case.prompt.grown(more).inputs, planned
        )
        plan = prepare(case.model, one_case_per_row(case.prompt), [change or CLEAN], {})
        chosen, found = decode_logits(case.model, case.prompt, plan, STEPS, False)
        assert chosen[0].tolist() == tokens, change
        assert gap(found[0], logits) < LIMIT, change
        for options in caches:
            answer = nv.generate(case.model, case.prompt, change, max_new_tokens=STEPS, **options)
            assert list(answer.tokens) == tokens, (change, options)
            assert gap(step_logits(case, change, **options), logits) < LIMIT, (change, options)
        if change is not None:
            whole = case.reference(case.prompt.grown(tokens[:-1])).logits[0, stop - 1 :]
            assert gap(logits, whole) > SEEN, change


@under_one
def test_states_at_decoded_tokens_equal_the_reference_without_a_cache(case):
    stop, steps = case.prompt.width, 3
    clean = case.reference(case.prompt)
    for site in (*LAYERED, "embedding"):
        there = spots(clean, "decoder", site)
        if site in case.family.limitations or not there:
            continue
        spot = there[len(there) // 2]
        layers = {"layers": spot[2]} if site in LAYERED else {}
        for where, first in (("generated", stop), (["last", "generated"], stop - 1)):
            change = nv.Ablate(where, site=site, **layers)

            def zero(step, spot=spot, first=first):
                at = range(first, stop + step)
                return {}, {spot: reference.setter(0, at, 0.0)} if at else {}

            tokens, logits = reference.greedy(
                case.module, case.family, steps, lambda more: case.prompt.grown(more).inputs, zero
            )
            plan = prepare(case.model, one_case_per_row(case.prompt), [change], {})
            chosen, found = decode_logits(case.model, case.prompt, plan, steps, False)
            assert chosen[0].tolist() == tokens, change
            assert gap(found[0], logits) < LIMIT, change
            assert list(nv.generate(case.model, case.prompt, change, max_new_tokens=steps).tokens) == tokens, change


def step_logits(case: Case, change: Any, **options: Any) -> torch.Tensor:
    """Logits `[step, vocabulary]` of an installed model's cached generation."""
    edited = nv.install(case.model, case.prompt, change)
    options = {"max_new_tokens": STEPS, "do_sample": False, **case.family.generate_with, **options}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), edited.generate(**case.prompt.inputs, **options) as tracer:
        result = tracer.result.save()
    return torch.stack(result.logits)[:, 0]


# 5 -----------------------------------------------------------------------------------------------------


def test_interventions_are_verified_and_a_sweep_is_the_same_however_it_is_run(case):
    proof = nv.verify(case.model, case.prompt, nv.Knockout("image", "generated", layers="attention"))
    assert proof.tokens == 4 and proof.edges >= 1
    middle, where = view_of(case.model).stage().layer_count // 2, written(case.prompt.rows[0])
    for change in (
        nv.Patch(where, source=case.other, layers=middle),
        nv.Ablate("last", how="mean", layers=middle),
        steered("last", case.clean, ("decoder", "residual", middle), layers=middle),
    ):
        assert nv.verify(case.model, case.prompt, change).writes == 1
    tokens = case.prompt.rows[0]
    end = max([*places(tokens, "image"), *tokens.borders.positions(tokens.stop)])
    after = tuple(place for place in places(tokens, "all") if place > end)
    whole, part = (Edges("decoder", "image", target, tokens) for target in ("last", after))
    layers = case.layers("decoder", whole.kind)
    zeros = [where for where in (after[-1:], after[:-1]) if where]
    variants = [nv.Knockout("image", "last", layers="attention"), nv.Knockout("image", after, layers=layers[:1])]
    variants += [nv.Ablate(where, layers=0) for where in zeros]
    runs = [
        case.clean,
        case.reference(case.prompt, whole.cuts(layers)),
        case.reference(case.prompt, part.cuts(layers[:1])),
    ]
    runs += [
        case.reference(case.prompt, writes={("decoder", "residual", 0): reference.setter(0, where, 0.0)})
        for where in zeros
    ]
    scores = torch.stack([run.logits[0, -1] for run in runs])
    answer, allowed = int(scores[0].argmax()), LIMIT * float(scores[0].abs().max())
    clean, *expected = scores[:, answer].tolist()
    packs = "packed" not in case.family.limitations and not view_of(case.model).stage().recurrent
    for execution in ("packed", "rows", "single"):
        if execution == "packed" and not packs:
            with pytest.raises(nv.SpecError, match=re.escape(case.family.limitations.get("packed", "carry a state"))):
                nv.sweep(case.model, case.prompt, variants, answer=answer, execution=execution)
            continue
        frame = nv.sweep(case.model, case.prompt, variants, answer=answer, execution=execution)
        assert frame["clean_logit"].sub(clean).abs().max() < allowed, execution
        assert frame["logit"].sub(expected).abs().max() < allowed, execution


# 6 -----------------------------------------------------------------------------------------------------


def two_pictures(case: Case) -> list[Any]:
    """Of different sizes, where the family's own processor takes such together."""
    small, large = case.member.sizes[0], case.member.sizes[-1]
    pictures = [picture(1, small), picture(2, large)]
    try:
        case.model.processor.image_processor(pictures, return_tensors="pt")
    except ValueError:
        return [picture(1, large), picture(2, large)]
    return pictures


def test_rows_of_a_batch_equal_each_row_alone(case):
    texts, pictures = [case.member.text, case.member.text + " see the big red dog"], two_pictures(case)
    both, last = nv.encode(case.model, texts, pictures), view_of(case.model).stage().layer_count - 1
    target = "query" if min(places(both.rows[0], "query")) >= 0 else "last"
    where = written(both.rows[0])
    change = nv.Knockout("image", target, layers="attention") | nv.Ablate(where, layers=last, site="mlp")
    found = nv.run(case.model, both, change, positions=target).logits
    later = nv.Knockout("image", "generated", layers="attention")
    answers = None
    if "padded generation" in case.family.limitations:
        with pytest.raises(nv.SpecError, match=re.escape(case.family.limitations["padded generation"])):
            nv.generate(case.model, both, later, max_new_tokens=STEPS)
    else:
        answers = nv.generate(case.model, both, later, max_new_tokens=STEPS, empty="ignore")
    for number, (text, shown) in enumerate(zip(texts, pictures, strict=True)):
        alone = nv.encode(case.model, text, shown)
        tokens = alone.rows[0]
        edges = Edges("decoder", "image", target, tokens)
        write = {("decoder", "mlp", last): reference.setter(0, places(tokens, where), 0.0)}
        expected = case.reference(alone, edges.cuts(case.layers("decoder", edges.kind)), write)
        assert gap(found[number], expected.logits[0, edges.queries]) < LIMIT, number
        one = nv.generate(case.model, alone, later, max_new_tokens=STEPS, empty="ignore")
        assert answers is None or answers.tokens[number] == one.tokens, number


def test_the_second_of_two_images_is_cut_alone(case):
    text = f"{case.member.text} {case.member.text.removeprefix('<s>')}"
    if "several images" in case.family.limitations:
        pytest.skip(case.family.limitations["several images"])
    prompt = nv.encode(case.model, text, two_pictures(case))
    tokens = prompt.rows[0]
    first, second = places(tokens, "image.0"), places(tokens, "image.1")
    assert sorted(first + second) == places(tokens, "image") and max(first) < min(second)
    later = tuple(place for place in places(tokens, "query") if place > max(second))
    edges = Edges("decoder", "image.1", later, tokens)
    layers = case.layers("decoder", edges.kind)
    expected = case.reference(prompt, edges.cuts(layers))
    reads = [nv.Attention(later, edges.every, layers=layers)]
    run = nv.run(case.model, prompt, nv.Knockout("image.1", later, layers=layers), positions="all", reads=reads)
    assert gap(run.logits, expected.logits[0]) < LIMIT
    assert gap(expected.logits, case.reference(prompt).logits) > SEEN
    rows = torch.stack([edges.weights(expected, layer) for layer in layers])
    assert float((run.reads[0] - rows).abs().max()) < LIMIT
    assert not run.reads[0][..., edges.columns].any()


@pytest.mark.parametrize("case", WITHOUT_PICTURE, ids=map("-".join, WITHOUT_PICTURE), indirect=True)
def test_a_text_alone_equals_the_reference(case):
    prompt = nv.encode(case.model, PLACEHOLDER.sub("", case.member.text), chat=False)
    tokens = prompt.rows[0]
    edges = Edges("decoder", tuple(range(1, prompt.width - 1)), "last", tokens)
    expected = case.reference(prompt, edges.cuts(case.layers("decoder", "attention")))
    run = nv.run(case.model, prompt, nv.Knockout(edges.source, "last", layers="attention"), positions="all")
    assert gap(run.logits, expected.logits[0]) < LIMIT
    clean = case.reference(prompt)
    assert gap(nv.run(case.model, prompt, positions="all").logits, clean.logits[0]) < LIMIT
    assert gap(expected.logits, clean.logits) > SEEN


# 7 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, attention", ONE_OF_ALIKE, ids=map("-".join, ONE_OF_ALIKE))
def test_in_float32_runs_are_as_far_from_float64_as_the_clean_run_is(name, attention):
    model, last = zoo.load(name, attention), len(zoo.ZOO[name].sizes) - 1
    prompts = {(seed, size): zoo.prompt(name, attention, seed, size) for seed in (1, 2) for size in {0, last}}
    prompt, twin = prompts[1, 0], prompts[2, 0]
    with float64():
        case = built(name, attention)
        exact = {key: case.reference(zoo.prompt(name, attention, *key, torch.float64)) for key in prompts}
        edges = case.edges()[0]
        layers = case.layers("decoder", edges.kind)
        middle, where = view_of(case.model).stage().layer_count // 2, written(edges.tokens)
        spot, at = ("decoder", "residual", middle), places(edges.tokens, where)
        cut = case.reference(case.prompt, edges.cuts(layers))
        wiped = case.reference(case.prompt, writes={spot: reference.setter(0, at, 0.0)})
        swap = {spot: reference.setter(0, at, exact[2, 0].states[spot][0, at])}
        swapped = case.reference(case.prompt, writes=swap)
    clean = {key: nv.run(model, given, positions="all").logits for key, given in prompts.items()}
    with torch.no_grad():
        assert torch.equal(clean[1, 0], model._module(**prompt.inputs).logits[0])
    allowed = FACTOR * max(gap(logits, exact[key].logits[0]) for key, logits in clean.items())
    knockout = nv.Knockout(edges.source, edges.target, layers="attention")
    runs = {
        knockout: cut,
        nv.Ablate(where, layers=middle): wiped,
        nv.Patch(where, source=twin, layers=middle): swapped,
    }
    for change, expected in runs.items():
        assert gap(nv.run(model, prompt, change, positions="all").logits, expected.logits[0]) < allowed, change
