"""Asks the package and the reference the same, and compares what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch

import nnsight_vlm as nv

from .cases import Case, draw
from .edits import Shift, answered, composed, planned
from .usable import TOKENS
from .worlds import Question, Unusable, World

LIMIT = 1e-9
"""Two computations of one thing differ by about 1e-14 of the scale in float64."""

Pair = tuple[str, Any, Any]
"""What is compared, as found, and as expected."""


def gap(found: Any, expected: Any) -> float:
    """The greatest difference as a share of the scale, infinite where shapes or what is not finite differ."""
    found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    if found.shape != expected.shape or not torch.equal(found.isfinite(), expected.isfinite()):
        return float("inf")
    there = expected.isfinite()
    if not there.any():
        return 0.0
    scale = expected[there].abs().max().clamp(min=1e-3)
    return float((found[there] - expected[there]).abs().max() / scale)


def ask(world: World, mode: str, seed: int) -> None:
    """One case; an AssertionError says what it was, and how far the answers lie apart."""
    case = draw(Random(f"{world.name} {mode} {seed}"), world, mode)
    try:
        for what, found, expected in ASKED[mode](world, case):
            away = gap(found, expected)
            if away > LIMIT:
                raise AssertionError(f"{what} is {away:.2g} of its scale off")
    except Unusable:
        return
    except nv.SpecError as error:
        if not is_refused(world, case, str(error)):
            raise AssertionError(f"refused: {error}\n{told(case)}") from error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{told(case)}") from error


def told(case: Case) -> str:
    """The case, line by line."""
    rows = "\n".join(f"  {question}" for question in case.questions)
    edits = "\n".join(f"  {some}" for some in dict.fromkeys(case.edits))
    reads = "\n".join(f"  read {read}" for read in case.reads)
    return f"{case.mode} {case.execution if case.mode == 'sweep' else ''}\n{rows}\n{edits}\n{reads}"


REFUSED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("", ("packed",), "which cannot be shared"),
    ("", ("packed",), "cannot run variants behind a shared prefix"),
)
"""What the package says that it does not do: of which member (any), how, and a part of its words."""


def is_refused(world: World, case: Case, message: str) -> bool:
    """Whether the package says that it does not do this, in words that are expected here."""
    way = case.execution if case.mode == "sweep" else case.mode
    return any(name in (world.name, "") and way in ways and words in message for name, ways, words in REFUSED)


# modes ---------------------------------------------------------------------------------------------------------


def padding(world: World, prompt: Any, questions: Sequence[Question]) -> list[Shift]:
    """How far each row's positions lie from where they are alone: encoders are padded on the right."""
    width = prompt.inputs["input_ids"].shape[1]
    missing = [width - world.inputs(question)["input_ids"].shape[1] for question in questions]
    return [Shift(outside=by) if world.has_encoder else Shift(inside=by) for by in missing]


def ask_run(world: World, case: Case) -> Iterator[Pair]:
    """Logits at every position, and what is read."""
    (question,), (edits,) = case.questions, case.edits
    prompt = world.prompt(question)
    ids = "decoder_input_ids" if world.has_encoder else "input_ids"
    yield "encoding", prompt.inputs[ids], world.inputs(question)[ids]
    run = nv.run(
        world.model, prompt, composed(world, edits), positions="all", reads=[read.build(world) for read in case.reads]
    )
    expected = answered(world, question, edits)
    yield "logits", run.logits, expected.logits
    for read, found in zip(case.reads, run.reads, strict=True):
        yield str(read), read.found(found), read.expected(world, question, expected)


def ask_verify(world: World, case: Case) -> Iterator[Pair]:
    """A proof of what is right."""
    prompts = [world.prompt(question) for question in case.questions]
    prompt = nv.stack(prompts) if len(prompts) > 1 else prompts[0]
    nv.verify(world.model, prompt, composed(world, case.edits[0]))
    yield "verify", 0.0, 0.0


def ask_batch(world: World, case: Case) -> Iterator[Pair]:
    """Rows of a batch, each of which is a prompt alone for the reference."""
    prompt = nv.stack([world.prompt(question) for question in case.questions])
    paddings = padding(world, prompt, case.questions)
    built: Any = [composed(world, edits, by) for edits, by in zip(case.edits, paddings, strict=True)]
    if case.shared:
        built = composed(world, case.edits[0])
    run = nv.run(world.model, prompt, built, reads=[read.build(world) for read in case.reads])
    for row, (question, edits) in enumerate(zip(case.questions, case.edits, strict=True)):
        expected = answered(world, question, edits)
        yield f"logits of row {row}", run.logits[row], expected.logits[-1]
        for number, read in enumerate(case.reads):
            yield f"row {row}: {read}", read.found(run.reads[number][row]), read.expected(world, question, expected)


def ask_sweep(world: World, case: Case) -> Iterator[Pair]:
    """Variants of one prompt, against one reference each."""
    (question,) = case.questions
    prompt, built = world.prompt(question), [composed(world, edits) for edits in case.edits]
    token = world.processor.tokenizer.convert_tokens_to_ids("red")
    frame = nv.sweep(world.model, prompt, built, answer=token, execution=case.execution)
    clean = world.outcome(question).logits[-1]
    yield "clean logit", float(frame["clean_logit"].iloc[0]), clean[token]
    for number, edits in enumerate(case.edits):
        logits, row = answered(world, question, edits).logits[-1], frame.iloc[number]
        yield f"logit of variant {number}", float(row["logit"]), logits[token]
        yield f"logprob of variant {number}", float(row["logprob"]), logits.log_softmax(-1)[token]
        if bool((logits - logits[token]).abs().sort().values[1] > LIMIT):
            yield f"rank of variant {number}", int(row["rank"]), (logits > logits[token]).sum()


def spoken(world: World, question: Question, edits: Sequence[Any]) -> list[int]:
    """Greedy tokens of the reference, each from one forward over the whole sequence."""
    never = world.reference.module.generation_config.suppress_tokens or []
    said: list[int] = []
    for _ in range(TOKENS):
        grown = dataclasses.replace(question, answer=tuple(said))
        logits = world.outcome(grown, *planned(world, grown, edits, question)).logits[-1].clone()
        logits[never] = -torch.inf
        said.append(int(logits.argmax()))
    return said


def ask_generate(world: World, case: Case) -> Iterator[Pair]:
    """Cached generation, against one forward over the whole sequence for every token."""
    (question,), (edits,) = case.questions, case.edits
    expected = spoken(world, question, edits)
    out = nv.generate(world.model, world.prompt(question), composed(world, edits), max_new_tokens=TOKENS)
    yield "tokens", list(out.tokens), expected


def ask_generations(world: World, case: Case) -> Iterator[Pair]:
    """Answers to several prompts, each under its own edits."""
    expected = [spoken(world, question, edits) for question, edits in zip(case.questions, case.edits, strict=True)]
    asked = [
        (world.prompt(question), composed(world, edits))
        for question, edits in zip(case.questions, case.edits, strict=True)
    ]
    for number, out in enumerate(nv.generations(world.model, asked, max_new_tokens=TOKENS)):
        yield f"tokens of case {number}", list(out.tokens), expected[number]


ASKED = {
    "run": ask_run,
    "verify": ask_verify,
    "batch": ask_batch,
    "sweep": ask_sweep,
    "generate": ask_generate,
    "generations": ask_generations,
}
