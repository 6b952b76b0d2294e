"""One model in two places, on this machine with its weights and on the server: the calls that both are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
import zoo
from transformers import AutoProcessor
from zoo.parts import picture as noise

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.remote import together
from nnsight_vlm.studies.words import shape_truth
from nnsight_vlm.viewing.asking import LIMIT, asked_given
from nnsight_vlm.viewing.making import columns_of

STEPS = 5
"""How many tokens are decoded."""

QUIET = nv.recipes.Work(progress=False)
SHORT = {"max_new_tokens": STEPS, "work": QUIET}
Asks = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that a server can load, with questions and pictures for it.

    Attributes:
        name: the model's name or folder, as `nv.load` and the server take it.
        processor: makes its processor.
        texts: three questions of different lengths; most calls use the first.
        pictures: four of one size.
        truths: the objects in each picture; None where they are not known.
        question: a question to which the pictures have different answers; None if that is the first of `texts`.
    """

    name: str
    processor: Callable[[], Any]
    texts: tuple[str, str, str]
    pictures: tuple[Any, ...]
    truths: tuple[Any, ...] | None = None
    question: str | None = None

    def side(self, *, attention: str = "sdpa", remote: bool | str = False, weights: bool | None = None) -> Side:
        """The model in one place; by default it has its weights if it runs on this machine, and none for a server."""
        dispatch = remote is False if weights is None else weights
        model = nv.load(self.name, dispatch=dispatch, processor=self.processor(), attn_implementation=attention)
        return Side(subject=self, model=model, remote=remote)


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """A subject's model in one place."""

    subject: Subject
    model: Any
    remote: bool | str

    @cached_property
    def prompts(self) -> list[nv.Prompt]:
        """The question about each of the four pictures."""
        return [nv.encode(self.model, self.subject.texts[0], picture) for picture in self.subject.pictures]

    @cached_property
    def questions(self) -> list[nv.Prompt]:
        """The question that has different answers, about each of the four pictures."""
        question = self.subject.question
        if question is None:
            return self.prompts
        return [nv.encode(self.model, question, picture) for picture in self.subject.pictures]

    @cached_property
    def rows(self) -> nv.Prompt:
        """Three questions of different length in one encoding, padded on the left."""
        questions = zip(self.subject.texts, self.subject.pictures, strict=False)
        return nv.stack([nv.encode(self.model, text, picture) for text, picture in questions])

    def every_answer(self, asks: Asks) -> dict[str, Any]:
        """The results of several computations; for a server they run side by side and share their jobs."""
        return dict(zip(asks, together(list(asks.values()), self.remote), strict=True))


def from_shapes() -> Subject:
    """The trained model inside the package, and scenes of its world."""
    folder = nv.shapes.checkpoint("shapes")
    scenes = [nv.shapes.scene(number) for number in (3, 4, 5, 6)]
    return Subject(
        name="shapes",
        processor=partial(AutoProcessor.from_pretrained, folder),
        texts=("describe the image .", "what color is the triangle ?", "describe ."),
        pictures=tuple(scene.image for scene in scenes),
        truths=tuple(shape_truth(scene) for scene in scenes),
        question="what shape is at center ?",
    )


def from_tiny(folder: Path) -> Subject:
    """The tiny LLaVA, with pictures of noise."""
    keep(tiny.build_module(), folder)
    return Subject(
        name=str(folder),
        processor=tiny.build_processor,
        texts=("what is the red square ?", "describe the big red square left of the circle .", "see the dog"),
        pictures=tuple(tiny.picture(number) for number in range(4)),
    )


def from_zoo(name: str, folder: Path) -> Subject:
    """A member of the zoo, with pictures of noise."""
    member, words = zoo.ZOO[name], "what is red ?"
    keep(member.module("sdpa"), folder)
    return Subject(
        name=str(folder),
        processor=member.processor,
        texts=(member.text, member.text.replace(words, "see the big dog"), member.text.replace(words, "describe .")),
        pictures=tuple(noise(number, member.sizes[0]) for number in range(1, 5)),
    )


def keep(module: Any, folder: Path) -> None:
    """Save a model as a server finds it.

    Some processors of the zoo are put together in memory and cannot be saved. A server needs a processor in the folder
    but never uses it, because prompts are encoded on this machine; so any processor will do.
    """
    module.save_pretrained(folder)
    tiny.build_processor().save_pretrained(folder)


# the calls --------------------------------------------------------------------------------


def interventions(model: Any, prompt: nv.Prompt, twin: nv.Prompt) -> dict[str, Any]:
    """Every kind of intervention, at every site; the clean run comes first."""
    last, width = view_of(model).stage().layer_count - 1, model._module.config.get_text_config().hidden_size
    return {
        "nothing": None,
        "knockout": nv.Knockout("image", "query", layers=[1, 2]),
        "heads": nv.Knockout("image", "last", heads=[(0, 1), (last, 2)]),
        "allow": nv.Allow("image", "text", layers=nv.depth(0.25, 0.5)),
        "patch": nv.Patch("query", source=twin, layers=[0, 2]),
        "patch under": nv.Patch(
            "image", source=prompt, under=nv.Knockout("system", "image"), layers=1, site="attention"
        ),
        "tensor": nv.Patch("last", source=torch.linspace(-1, 1, width)[None], layers=2, site="mlp"),
        "zero": nv.Ablate("image", layers=1),
        "mean": nv.Ablate("query", how="mean", layers=2, site="attention"),
        "resample": nv.Ablate("query", how="resample", source=twin, layers=last),
        "parts": nv.Patch("image", source=twin, site="key", layers=[1, 2], heads=[(1, 0), (2, 1)])
        | nv.Ablate("image", how="mean", site="value", layers=2, heads=[0])
        | nv.Patch("query", source=twin, site="head", layers=1, heads=[1])
        | nv.Ablate("last", site="query", layers=2),
        "steering": nv.Add(["last", "generated"], torch.linspace(-1, 1, width), layers=1, scale=2.0)
        | nv.Scale("image", 0.5, layers=2, site="mlp"),
        "weights": nv.Knockout("image", "query", layers=1, how="zero") | nv.Limit("image", "last", top=3, layers=2),
        "tower": nv.Knockout(0, 1, layers=0, stage="vision")
        | nv.Patch("image", source=twin, site="head", layers=0, heads=[1], stage="vision")
        | nv.Scale("image", 0.5, layers=0, stage="vision"),
        "embedding": nv.Ablate("image", how="mean", site="embedding"),
        "features": nv.Patch("image", source=twin, site="features"),
        "generated": nv.Knockout("image", "generated") | nv.Ablate("generated", layers=1, site="mlp"),
        "everything": nv.Knockout("image", "text", layers=1)
        | nv.Patch("image", source=twin, site="features")
        | nv.Ablate("last", layers=2),
    }


READS = (
    nv.Attention("query", "image", layers=[0, 2]),
    nv.Attention("query", "image", layers=[1, 2], reduce="mean"),
    nv.Attention("last", "all", reduce="mass", heads=[1]),
    nv.Attention("last", "image", reduce="entropy", layers=0),
    nv.Attention("last", "image", reduce="top", top=3, layers=1),
    nv.Attention("query", "image", reduce="contribution", layers=[1, 2]),
    *(nv.Attention("last", "image", reduce="contribution", over=over) for over in ("keys", "heads")),
    *(nv.Residual("image", site=site) for site in ("features", "embedding")),
    *(nv.Residual("query", site=site) for site in ("residual", "attention", "mlp")),
    *(nv.Residual("query", site=site, layers=[1, 2], heads=[0, 1]) for site in ("query", "key", "value", "head")),
    nv.Lens(["image", "last"], layers=[1, 3], top=3),
    nv.Lens("last", layers=2, tokens=[20, 21]),
    *(nv.Residual("image", site=site, layers=0, stage="vision") for site in ("residual", "head")),
)
ANSWER_READS = (nv.Attention("generated", "image", reduce="mass"), nv.Residual("generated"), nv.Lens("generated"))


TOWER_READS = (
    nv.Attention("last", "image", layers=0, stage="vision"),
    *(nv.Residual("image", site=site, layers=0, stage="vision") for site in ("query", "value")),
)
TOWER_PARTS = nv.Limit("image", "image", top=2, layers=0, heads=[1], stage="vision") | nv.Ablate(
    "image", how="mean", site="value", layers=0, heads=[0], stage="vision"
)
"""What an attention of the tower is handed, read and changed."""


def every_run(side: Side, said: Sequence[Sequence[int]]) -> Asks:
    """Every intervention with every readout, on the prompt, and on the prompt with the answer `said` behind it."""
    model, remote = side.model, side.remote
    both = side.prompts[:2]
    grown = [prompt.grown(tokens) for prompt, tokens in zip(both, said, strict=False)]
    asks = {}
    for name, case in interventions(model, *both).items():
        asks[f"run {name}"] = partial(
            nv.run, model, both[0], case, reads=READS, positions="query", empty="ignore", remote=remote
        )
    for name, case in interventions(model, *grown).items():
        asks[f"answered {name}"] = partial(
            nv.run, model, grown[0], case, reads=ANSWER_READS, positions=("last", "generated"), remote=remote
        )
    return asks


def every_generation(side: Side) -> Asks:
    """Answers under every intervention: one by one, as rows of a prompt, and as many cases."""
    model, remote, prompts = side.model, side.remote, side.prompts
    cases = interventions(model, *prompts[:2])
    asks: dict[str, Callable[[], Any]] = {
        f"generate {name}": partial(nv.generate, model, prompts[0], case, max_new_tokens=STEPS, remote=remote)
        for name, case in cases.items()
    }
    many = [(prompt, cases[name]) for prompt in prompts[:2] for name in ("nothing", "patch", "generated")]
    many += [(side.rows.row(1), nv.Knockout("image", "query")), (side.rows.row(2), None)]
    asks["generations"] = lambda: list(nv.generations(model, many, max_new_tokens=STEPS, rows=3, remote=remote))
    return asks


def every_row(side: Side) -> Asks:
    """A prompt of several rows, padded on the left: one intervention for all, and one for each."""
    model, remote, rows = side.model, side.remote, side.rows
    cut, zero = nv.Knockout("image", "query", layers=[1, 2]), nv.Ablate("generated", layers=1)
    return {
        "rows clean": partial(nv.run, model, rows, remote=remote),
        "rows run": partial(nv.run, model, rows, cut, reads=READS[:4], remote=remote),
        "rows generate": partial(
            nv.generate, model, rows, [cut, None, cut | zero], max_new_tokens=STEPS, remote=remote
        ),
    }


def every_sweep(side: Side, answer: int) -> Asks:
    """Variants of one prompt in each way of running them, and the words of its states."""
    prompt = side.prompts[0]
    cases = interventions(side.model, *side.prompts[:2])
    late = {name: cases[name] for name in ("knockout", "heads", "patch", "tensor", "mean", "resample")}
    asks: dict[str, Callable[[], Any]] = {
        f"sweep {how}": partial(nv.sweep, side.model, prompt, late, answer=answer, execution=how, remote=side.remote)
        for how in ("packed", "rows", "single")
    }
    for name, more in (("lens", {"top": 3}), ("lens of words", {"tokens": [answer, 20]})):
        asks[name] = partial(
            nv.lens, side.model, prompt, cases["patch"], where=["image", "last"], remote=side.remote, **more
        )
    asks |= {
        f"sweep answers {how}": partial(
            nv.sweep,
            side.model,
            prompt,
            {**late, "generated": cases["generated"]},
            answer=[(answer, answer), (answer, 5, 7), answer],
            against=(7, 5),
            reads=nv.Attention("last", "image", layers=1, heads=[0], reduce="mass"),
            execution=how,
            remote=side.remote,
        )
        for how in ("packed", "rows")
    }
    every = {name: case for name, case in cases.items() if case is not None}
    asks["sweep auto"] = partial(nv.sweep, side.model, prompt, every, answer=answer, empty="ignore", remote=side.remote)
    return asks


def every_page(side: Side) -> Asks:
    """The columns of a page, clean and under a cut, as the numbers that are packed into it."""
    cut = nv.Knockout("image", ["last", "generated"], layers=[1, 2])
    asks: dict[str, Callable[[], Any]] = {"page": partial(page_numbers, side, side.prompts[0], cut)}
    return asks


def page_numbers(side: Side, prompt: nv.Prompt, cut: nv.Knockout) -> list[dict[str, Any]]:
    """What `nv.view` measures of two columns, before it becomes bytes."""
    asked = asked_given(
        side.model,
        prompt,
        cut,
        quantities=["weight", "contribution", "causal"],
        layers=[1, 2],
        heads=[1],
        words=None,
        objects=None,
        sinks=1.5,
        lens=[2],
        max_new_tokens=3,
        limit=LIMIT,
        empty="error",
        remote=side.remote,
    )
    columns = columns_of(side.model, asked, memory=None, empty="error", remote=side.remote)
    return [
        {
            "words": [(word.text, word.part, word.read_at) for word in column.words],
            "logprobs": [score for score in column.logprobs if score is not None],
            "maps": {name: torch.as_tensor(maps.values) for name, maps in column.maps.items()},
            "sinks": torch.as_tensor(column.sinks),
            "lens": torch.as_tensor(column.lens.probability),
        }
        for column in columns
    ]


def every_proof(side: Side) -> Asks:
    """What `verify` proves, also for tokens that are not generated yet and for several rows."""
    cases = interventions(side.model, *side.prompts[:2])
    asks: dict[str, Callable[[], Any]] = {
        f"verify {name}": partial(nv.verify, side.model, side.prompts[0], cases[name], remote=side.remote)
        for name in ("heads", "everything", "generated")
    }
    asks["verify rows"] = partial(nv.verify, side.model, side.rows, cases["knockout"], remote=side.remote)
    return asks


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the model does without any intervention, found out on this machine once: arguments of recipes.

    Attributes:
        answers: for each picture, the most probable first token.
        shapes: the same for the question that has different answers.
        said: for each picture, the tokens of the answer.
        truths: the objects in each picture, real or invented.
    """

    answers: tuple[int, ...]
    shapes: tuple[int, ...]
    said: tuple[tuple[int, ...], ...]
    truths: tuple[tuple[nv.recipes.Thing, ...], ...]


def known(side: Side) -> Known:
    """What is known of a subject. Unknown objects are invented: the answer's first words, in the picture's corners."""
    answered = [nv.generate(side.model, prompt, max_new_tokens=STEPS) for prompt in side.prompts]
    truths = side.subject.truths
    if truths is None:
        words = [nv.recipes.content_words(generation.text)[:2] for generation in answered]
        truths = tuple(
            tuple(nv.recipes.Thing(name=word, mask=_corner(picture, place)) for place, word in enumerate(names))
            for names, picture in zip(words, side.subject.pictures, strict=True)
        )
    answers, shapes = (
        tuple(int(nv.run(side.model, prompt).logits.argmax()) for prompt in prompts)
        for prompts in (side.prompts, side.questions)
    )
    said = tuple(generation.tokens for generation in answered)
    return Known(answers=answers, shapes=shapes, said=said, truths=truths)


def _corner(picture: Any, number: int) -> np.ndarray:
    """The pixels of one corner of a picture."""
    mask = np.zeros(picture.size[::-1], bool)
    if number:
        mask[-8:, -8:] = True
    else:
        mask[:8, :8] = True
    return mask


def pairs_of(side: Side, facts: Known) -> list[tuple[Any, ...]]:
    """Pairs of pictures about which the model says different things, three at most."""
    answered = list(zip(side.questions, facts.shapes, strict=True))
    pairs = [
        (prompt, other, answer, other_answer)
        for prompt, answer in answered
        for other, other_answer in answered
        if answer != other_answer
    ]
    return pairs[:3]


OF_GRADIENTS = ("attribution_map",)
"""The recipes that need gradients, which a sandbox does not give."""
OF_OBJECTS = ("ablation", "heads", "image_lens", "object_score")
"""The recipes that need an object in every picture."""


def every_recipe(side: Side, facts: Known, *, count: int = 2, windows: int = 2, per_image: bool = True) -> Asks:
    """Each recipe on the first pictures."""
    model, remote, recipes = side.model, side.remote, nv.recipes
    prompts, first = side.prompts[:count], facts.answers[:count]
    plain = {"per_image": per_image, "remote": remote}
    truths, pairs = facts.truths[:count], pairs_of(side, facts)
    of_answers = {"answers": first, "windows": windows, "work": QUIET}
    of_objects = {
        "truths": truths,
        "asked": [truth[0].name for truth in truths if truth],
        "answers": first,
        "work": QUIET,
    }
    asks: Asks = {
        "ablation": partial(
            recipes.ablation, model, prompts, tokens=["object", "random", "register-like"], **of_objects, **plain
        ),
        "heads": partial(recipes.heads, model, prompts, top=2, draws=2, **of_objects, **plain),
        "compressed_context": partial(
            recipes.compressed_context,
            model,
            prompts,
            answers=first,
            request=None,
            keep=[0, 10, 100],
            timed=0,
            work=QUIET,
            **plain,
        ),
        "image_lens": partial(
            recipes.image_lens, model, prompts, truths=truths, answers=first, bank=["a red square"], work=QUIET, **plain
        ),
        "knockout_windows": partial(recipes.knockout_windows, model, prompts, windows=windows, **plain, **SHORT),
        "knockout_windows of answers": partial(recipes.knockout_windows, model, prompts, **of_answers, **plain),
        "attention_share": partial(recipes.attention_share, model, prompts, **plain, **SHORT),
        "query_patching": partial(recipes.query_patching, model, pairs, layers=[0, 2], work=QUIET, **plain),
        "joint_routes": partial(
            recipes.joint_routes,
            model,
            [pair[0] for pair in pairs],
            answers=[pair[2] for pair in pairs],
            pairs=pairs,
            routes=["image->last", "image->question"],
            work=QUIET,
            **plain,
        ),
        "path_patching": partial(
            recipes.path_patching,
            model,
            pairs,
            sender=recipes.Place("image", layers=0),
            receivers="last",
            work=QUIET,
            **plain,
        ),
        "attribution_map": partial(recipes.attribution_map, model, pairs, layers=[0, 2], exact=2, work=QUIET, **plain),
        "patching_map": partial(recipes.patching_map, model, pairs, layers=[0, 2], work=QUIET, **plain),
        "patching_map of heads": partial(
            recipes.patching_map, model, pairs, over="head", layers=[2], work=QUIET, **plain
        ),
        "pair_routes": partial(recipes.pair_routes, model, pairs, cuts=[0, 2], work=QUIET, **plain),
        "causal_trace": partial(
            recipes.causal_trace, model, prompts, answers=first, corrupt="noise", layers=[0, 2], work=QUIET, **plain
        ),
        "object_score": partial(
            recipes.object_score, model, prompts, truths=truths, objects=recipes.content_words, **plain, **SHORT
        ),
        "patch_grounding": partial(recipes.patch_grounding, model, prompts, truths=truths, **plain, **SHORT),
        "patch_grounding of phrases": partial(
            recipes.patch_grounding,
            model,
            prompts,
            truths=truths,
            of="phrase",
            quantity=["weight", "contribution"],
            heads="each",
            sinks=1.5,
            ablate=True,
            **plain,
            **SHORT,
        ),
        "prompt_ablation": partial(recipes.prompt_ablation, model, prompts, truths=truths, **plain, **SHORT),
        "information_flow": partial(recipes.information_flow, model, prompts, **of_answers, **plain),
        "patch_knockout": partial(recipes.patch_knockout, model, prompts[0], answer=first[0], remote=remote),
        "patch_knockout of several": partial(
            recipes.patch_knockout, model, prompts, answers=first, work=QUIET, **plain
        ),
    }
    if not all(truths):  # the model's own words about a picture name nothing
        asks = {name: ask for name, ask in asks.items() if name not in OF_OBJECTS}
    return asks
