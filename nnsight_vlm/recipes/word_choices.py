"""Which maps of object words are asked for: checked before the model runs, and told apart in the recipe's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from ..arguments import listed, one_of, refuse, whole_number, words_given
from ..errors import SpecError
from ..execution.checking import check
from ..families import Model, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..specs.measurements import Attention
from ..specs.states import Ablate
from ..studies.image_patches import PatchSource, patch_source
from ..studies.labels import READ_AT, ReadAt
from ..studies.object_words import OF, Of
from ..studies.sinks import check_sinks, sinks_given
from ..studies.words import Thing

W = TypeVar("W", bound=str)

Quantity = Literal["weight", "contribution"]
"""What a map shows of attention: its weights, or how long the vectors are that the patches add to the word's row."""
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
Heads = Literal["mean", "each"]
HEADS: tuple[Heads, ...] = get_args(Heads)
ALL_PATCHES = "all patches"
WITHOUT_SINKS = "without sinks"
PLAIN_OF: tuple[Of, ...] = ("token",)
PLAIN_QUANTITY: tuple[Quantity, ...] = ("weight",)


class Asked(NamedTuple):
    """Which maps were asked for.

    Attributes:
        read_at: where a word's attention is read.
        top: how many of the best patches are listed.
        of: what of a name is measured.
        quantity: what a map shows.
        heads: the mean over heads, or single heads too.
        tau: the threshold of sinks; None where sinks are not looked for.
    """

    read_at: tuple[ReadAt, ...]
    top: int
    of: tuple[Of, ...]
    quantity: tuple[Quantity, ...]
    heads: Heads
    tau: float | None

    @property
    def extra(self) -> dict[str, Any]:
        """What differs from a plain call, for settings."""
        named = {"of": (self.of, PLAIN_OF), "quantity": (self.quantity, PLAIN_QUANTITY), "heads": (self.heads, "mean")}
        chosen = {name: value for name, (value, plain) in named.items() if value != plain}
        return chosen | ({} if self.tau is None else {"sinks": self.tau})

    def labels(self, *, of: str, quantity: str = "", head: str = "", patches: str = "") -> dict[str, str]:
        """The columns that tell more than one kind of row apart; a kind that nobody asked for has no column."""
        named = {
            "of": (of, self.of != PLAIN_OF),
            "quantity": (quantity, self.quantity != PLAIN_QUANTITY),
            "head": (head, self.heads != "mean"),
            "map": (patches, self.tau is not None),
        }
        return {name: value for name, (value, shown) in named.items() if shown}


def asked_maps(model: Model, *, read_at: Any, top: Any, of: Any, quantity: Any, heads: Any, sinks: Any) -> Asked:
    """The maps as a user asks for them.

    Raises:
        SpecError: an unknown word, or a number that is none.
    """
    return Asked(
        words_given("read_at", read_at, READ_AT, "read_at"),
        whole_number("top", top, least=1, kind="number of patches"),
        _some("of", of, OF),
        _some("quantity", quantity, QUANTITIES),
        one_of("heads", heads, HEADS),
        sinks_given(sinks, view_of(model).stage().width),
    )


def _some(name: str, given: Any, words: Sequence[W]) -> tuple[W, ...]:
    """One word or a list of them, each once, in the order of `words`."""
    chosen = words_given(name, [given] if isinstance(given, str) else given, words, name)
    return tuple(word for word in words if word in chosen)


def words_asked(words: Any) -> tuple[str, ...] | None:
    """The words that are looked for in the answers, in small letters and each once; None where none were given.

    Raises:
        SpecError: no list of texts.
    """
    if words is None:
        return None
    write = 'words=["red bike", "dog"], a list of words or phrases'
    given = listed("words", words, write, kind=str)
    if not given or not all(word.strip() for word in given):
        refuse("words", words, "list of one word or more", write)
    return tuple(dict.fromkeys(word.strip().lower() for word in given))


def check_maps(
    model: Model,
    prompts: Sequence[Prompt],
    truths: Sequence[Sequence[Thing]] | None,
    asked: Asked,
    *,
    ablate: bool,
    frame: int | None,
) -> None:
    """Refuse what cannot be read of the first prompt, and masks of another size than their picture.

    Raises:
        SpecError: more patches than there are, such a mask, sinks of patches without hidden states, contributions or
            ablations of patches that are not the decoder's.
    """
    source = patch_source(prompts[0], frame=frame)
    patches = len(source.grid.positions)
    if asked.top > patches:
        raise SpecError(f"top={asked.top} of {patches} patches; write a number from 1 to {patches}")
    if asked.tau is not None:
        check_sinks(source)
    if asked.quantity != PLAIN_QUANTITY or asked.heads != "mean" or ablate:
        _check_decoder(model, prompts[0], source, asked, ablate)
    if truths is None:
        return
    for prompt, truth in zip(prompts, truths, strict=True):
        grid = patch_source(prompt, frame=frame).grid
        for thing in truth:
            if thing.mask is not None:
                grid.coverage(thing.mask)


def _check_decoder(model: Model, prompt: Prompt, source: PatchSource, asked: Asked, ablate: bool) -> None:
    """What is only known of patches that are image tokens of the decoder."""
    named = {
        'quantity="contribution"': "contribution" in asked.quantity,
        'heads="each"': asked.heads != "mean",
        "ablate=True": ablate,
    }
    if source.stage != "decoder":
        names = " and ".join(name for name, is_asked in named.items() if is_asked)
        raise SpecError(
            f"{names} asks for patches that the decoder's attention has as keys, and here image tokens are latents, "
            "none of which stands for a patch; leave it out"
        )
    if "contribution" in asked.quantity:
        here = resolver(model, one_case_per_row(prompt).placements[0])
        read = Attention("last", source.grid.positions, layers="attention", reduce="contribution")
        list(read.lower(here))
    if ablate:
        check(model, prompt, Ablate(source.grid.positions, site="features"))
