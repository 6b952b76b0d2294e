"""What a case may share with others of its prompt, and why not.

This is the only place that decides it. Three things can be shared: the run of a prefix, which is then kept as a cache;
one packed sequence behind that prefix; and what the vision tower made of the image, which enters the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arguments import whole_number
from ..device.positions import CACHE_NAMES
from ..execution.caches import keeps_every_key
from ..families import Model, unsupported, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.read_requests import AttentionRequest, ContributionRequest
from ..lowering.resolve import resolver
from ..lowering.sites import SITES
from ..prompts.carried import why_alone, why_uncached
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Capture, start_of_block
from ..specs.measurements import Readout, ReadRequest
from .divergence import Divergence, unshared_divergence

SHARERS = 2
"""Fewest cases that justify running their prefix by itself."""

HAS_EDITS = (
    "the model has edits of its own, which name rows and positions of its runs; packed or as rows they would act "
    'elsewhere. Write execution="single", or compose what the edits do with each variant'
)
READS_EARLY = "a read looks at a stage that runs before the text, so every variant runs it"
READS_IMAGE = "a read looks at image tokens, or text before the image, so every variant runs them"
ON_A_SERVER = "runs on a server begin at the first token"


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Why a case may not share something with others of its prompt; empty where it may.

    Attributes:
        prefix: the cached prefix, which is run once.
        packed: one sequence with other cases behind what they share.
        image: what the vision tower made of the image.
    """

    prefix: str
    packed: str
    image: str


def batching_obstacle(model: Model) -> str:
    """Why no cases of this model may run in one forward; empty where they may."""
    return HAS_EDITS if view_of(model).edits else ""


def sweeping_obstacle(model: Model, prompt: Prompt) -> str:
    """Why no variants of this prompt may run in one forward; empty where they may."""
    alone = why_alone(prompt)
    return batching_obstacle(model) or (f'{alone}; write execution="single"' if alone else "")


MOST_ROWS = 64
"""The most answers that share a batch, unless told otherwise; more gain no time."""
MOST_ROWS_THERE = 32
"""The same on a server, where what is free is not known."""


def answers_per_batch(model: Model, rows: int | None, remote: Remote) -> int:
    """How many answers may be rows of one batch: `rows`, or one where prompts of different length cannot be padded.

    Raises:
        SpecError: `rows` is no number of rows.
    """
    if rows is None:
        rows = MOST_ROWS if remote is False else MOST_ROWS_THERE
    rows = whole_number("rows", rows, least=1, kind="number of cases that share a batch")
    unpadded = "padded generation" in view_of(model).family.limitations
    return 1 if batching_obstacle(model) or unpadded else rows


CACHE_OPTIONS = ("cache_config", "cache_implementation", "generation_config", "use_cache", *CACHE_NAMES)
"""Options of generation that may say which cache is used, or that none is."""


def answers_share_prefix(model: Model, options: Mapping[str, Any]) -> bool:
    """Whether answers may begin in a cache that this package has filled: neither user nor checkpoint asks for another.

    Args:
        model: an nnsight model.
        options: of the generation.
    """
    checkpoint = view_of(model).generation_config
    asked = any(options.get(name) is not None for name in CACHE_OPTIONS)
    return not asked and bool(checkpoint.use_cache) and checkpoint.cache_implementation is None


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """The parts of a run that reads look at, which every case must run itself.

    Attributes:
        position: the first position; None for none.
        layer: the first layer of the decoder.
        early: whether a stage that runs before the decoder is looked at.
    """

    position: int | None = None
    layer: int = 0
    early: bool = False

    def reached(self, model: Model, prompt: Prompt, divergence: Divergence) -> Divergence:
        """The divergence, moved to where the first read is if that comes earlier."""
        if self.position is None:
            return divergence
        if self.position < divergence.position and divergence.donor is not None:
            divergence = unshared_divergence(model, prompt, divergence.whole)
        return replace(
            divergence,
            position=min(self.position, divergence.position),
            layer=min(self.layer, divergence.layer),
            read_first=self.position < divergence.position,
        )


NO_READS = LookedAt()


def looked_at(model: Model, prompt: Prompt, reads: Iterable[Readout]) -> LookedAt:
    """What reads look at of a prompt.

    Raises:
        SpecError: they ask for what the model or the prompt has not got.
    """
    here = resolver(model, one_case_per_row(prompt).placements[0].of_prompt())
    tokens, cropped = prompt.rows[0], prefix_can_be_cropped(model)
    requests = [request for read in reads for request in read.lower(here)]
    if not requests:
        return NO_READS
    early = any(request.stage != "decoder" for request in requests)
    positions = [_first_read(request, cropped) for request in requests]
    first = start_of_block(tokens, max(tokens.start, min(positions)))
    return LookedAt(position=first, layer=max(0, min(request.layer for request in requests)), early=early)


def _first_read(request: ReadRequest, cropped: bool) -> int:
    """The first position that must run for a read; keys may lie in a cache, if that holds all of them."""
    at = request.request
    if request.stage != "decoder" or SITES[request.site].needs == "cross":
        return 0
    if isinstance(at, (AttentionRequest, ContributionRequest)):
        return (at.queries.first or 0) if cropped else 0
    return at.positions.first or 0


def sharing(
    model: Model,
    prompt: Prompt,
    divergence: Divergence,
    remote: Remote,
    reads: LookedAt = NO_READS,
    uncached: str | None = None,
) -> Sharing:
    """What a case may share with others of its prompt.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row.
        divergence: where the case first differs from clean runs.
        remote: see `nv.run`.
        reads: what every case is looked at.
        uncached: what `why_uncached` says of the prompt, where that is known.
    """
    family = view_of(model).family
    limits, early = unsupported(family), READS_EARLY if reads.early else _differs_early(prompt, divergence)
    packed = "the states of another prompt come before it" if divergence.donor else early
    if "packed" in limits:
        packed = f"models of type {family.name!r} cannot run variants behind a shared prefix: {limits['packed']}"
    prefix, image = limits.get("prefix", early), limits.get("embedded", READS_EARLY if reads.early else "")
    if divergence.position <= max(prompt.rows[0].marks, default=0):
        prefix = prefix or "a variant differs from the first token on, or before the image can be seen"
    if any(part.acts_in != "decoder" for part in divergence.case.parts):
        image = image or "a variant changes a stage that runs before the text"
    uncached = why_uncached(prompt) if uncached is None else uncached
    prefix, image = prefix or uncached, image or uncached
    if not prompt.rows[0].visuals:
        image = image or "the prompt has no image"
    if remote is not False:
        prefix = image = ON_A_SERVER
    return Sharing(prefix=prefix, packed=packed, image=image)


def _differs_early(prompt: Prompt, divergence: Divergence) -> str:
    """Why what lies before a case is not shared: the case changes it, or it cannot be run by itself."""
    tokens = prompt.rows[0]
    if any(visual.stretch.stop > max(divergence.position, 0) for visual in tokens.visuals):
        changed = "a variant changes image tokens, or text before the image, which cannot be shared"
        return READS_IMAGE if divergence.read_first else changed
    if any(part.acts_in != "decoder" for part in divergence.case.parts):
        return "a variant changes a stage that runs before the text, which cannot be shared"
    return "a padded prompt cannot be shared" if tokens.start > 0 else ""


def prefix_sharers(reasons: Sequence[Sharing]) -> list[int]:
    """The numbers of the cases that share a prefix; none where too few could to be worth its forward."""
    able = [number for number, reason in enumerate(reasons) if not reason.prefix]
    return able if len(able) >= SHARERS else []


def can_branch(prompt: Prompt, way: str) -> bool:
    """Whether one run of a prompt may hold several answers behind it, which a mask of this package tells apart."""
    masked = "packed" not in unsupported(view_of(prompt.model).family)
    return way == "packed" or (way == "rows" and masked and prompt.rows[0].start == 0)


def prefix_can_be_cropped(model: Model) -> bool:
    """Whether the cache of a whole prompt also gives every shorter prefix."""
    return keeps_every_key(view_of(model).config.get_text_config(decoder=True))


def states_can_be_kept(model: Model, captures: Sequence[Capture]) -> bool:
    """Whether the states that several patches take from one run can come from a kept clean run of its prompt."""
    plain = all((each.under, each.site, each.stage) == (None, "residual", "decoder") for each in captures)
    limited = "prefix" in unsupported(view_of(model).family)
    unpadded = captures[0].prompt.rows[0].start == 0
    return len(captures) >= SHARERS and plain and prefix_can_be_cropped(model) and not limited and unpadded
