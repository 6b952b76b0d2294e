"""`nnsight-vlm recipes`, `families` and `draft`: what there is, and a row for what there is not."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Debug, Json, examples
from .output import print_json, print_table, print_words
from .working import working

RECIPES = examples(
    "nnsight-vlm recipes",
    "nnsight-vlm recipes --json",
    "nnsight-vlm run knockout_windows --help",
)
FAMILIES = examples(
    "nnsight-vlm families",
    "nnsight-vlm families qwen2_5_vl",
    "nnsight-vlm families --json",
)
DRAFT = examples("nnsight-vlm draft some-lab/new-vlm-7b", "nnsight-vlm draft models/new-vlm")


def recipes(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/recipes/README.md has it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the recipes: what each asks, and the paper that it follows."""
    with working(debug=debug):
        from . import listing
    if as_json:
        print_json(listing.recipe_facts())
    elif markdown:
        typer.echo(listing.recipes_markdown())
    else:
        print_table(listing.recipes_table())


def families(
    family: Annotated[
        str | None,
        typer.Argument(metavar="FAMILY", help="One family, or a model type: all that works in it.", show_default=False),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/families.md has it.")] = False,
    towers: Annotated[bool, typer.Option("--towers", help="Print vision towers as docs/vision.md has them.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the families of models that have a row, and what works in each."""
    with working(debug=debug):
        from ..families import support, tower_support
        from . import family_list

        chosen = family_list.families_named(family)
    if as_json:
        print_json(family_list.family_facts(chosen))
    elif towers:
        typer.echo(tower_support.towers_markdown(chosen))
    elif markdown:
        typer.echo(support.markdown(chosen))
    elif family is not None:
        for each in chosen:
            print_table(family_list.one_family(each))
    else:
        print_table(family_list.families_table(chosen))
        for words in family_list.LEGEND:
            print_words(words)


def draft(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name on the hub, or a local folder.", show_default=False)
    ],
    debug: Debug = False,
) -> None:
    """Print a row to try for a family that has none; only the model's config is read."""
    with working(debug=debug):
        from transformers import AutoConfig

        from ..errors import SpecError, reason_of
        from ..families import drafting
        from ..opening.files import Checkpoint
        from ..opening.hub import refuse_unreachable
        from ..opening.refusals import refuse_name

        refuse_name(model)
        try:
            refuse_unreachable(Checkpoint(name=model))
            config = AutoConfig.from_pretrained(model)
        except SpecError:
            raise
        except Exception as error:  # whatever a folder of others makes transformers raise
            raise SpecError(f"no model {model!r} that transformers knows: {reason_of(error)}") from error
        row = drafting.source(drafting.draft(config))
    typer.echo(row)
