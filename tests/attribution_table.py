"""Attribution on the model `shapes`: how well it agrees with patching, and whether the heads that it finds matter.

`python tests/attribution_table.py` prints the tables of docs/attribution.md. Pairs of scenes differ in the color of one
object, which a question asks for; pairs whose two answers are not both right are left out. Heads are found on other
pairs than those on which they are knocked out. `--save` keeps both tables.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, NamedTuple

import measured
import numpy as np
import pandas as pd
from page_tables import markdown

import nnsight_vlm as nv
from nnsight_vlm.statistics import interval

SIZES, DRAWS = (6, 12), 5
"""How many heads are knocked out together, and how many random choices of as many."""
PARTS, TOGETHER = ("system", "image", "query"), "image, query and system"


class Pair(NamedTuple):
    """A question about two scenes, and the token of each answer."""

    clean: nv.Prompt
    corrupt: nv.Prompt
    answer: int
    against: int


def pairs(model: Any) -> Any:
    """Pairs whose answers are both right, without end."""
    for seed in itertools.count():
        scenes = nv.shapes.pair(seed, "color")
        asked = [
            {each.text: each.answer for each in nv.shapes.questions(one) if each.family == "color"} for one in scenes
        ]
        differ = [text for text in asked[0] if text in asked[1] and asked[0][text] != asked[1][text]]
        for text in differ[:1]:
            prompts = [nv.encode(model, text, scene.image) for scene in scenes]
            words = [model.processor.tokenizer(one[text])["input_ids"][0] for one in asked]
            if [int(nv.run(model, prompt).logits.argmax()) for prompt in prompts] == words:
                yield Pair(*prompts, *words)


def estimates(model: Any, pair: Pair, exact: int) -> pd.DataFrame:
    return nv.attribute(
        model, pair.clean, pair.corrupt, answer=pair.answer, against=pair.against, where=(*PARTS, "last"), exact=exact
    )


def agreement(model: Any, some: list[Pair]) -> pd.DataFrame:
    """The correlation of estimate and exact, for each pair over all layers (and heads) of a site and group."""
    rows = []
    for pair in some:
        frame = estimates(model, pair, 10**6)
        for site in ("residual", "head"):
            for group in (*PARTS, "last", TOGETHER):
                known = frame[(frame["site"] == site) & frame["group"].isin(PARTS if group == TOGETHER else [group])]
                if known["exact"].abs().max() > 1e-6:
                    rows.append({"site": site, "group": group, "correlation": known["estimate"].corr(known["exact"])})
        wanted = frame[frame["group"].isin(PARTS)]
        largest = wanted.loc[wanted["site"] == "head"].sort_values("estimate", key=abs).tail(20)
        rows.append(
            {"site": "head", "group": "the 20 largest", "correlation": largest["estimate"].corr(largest["exact"])}
        )
    return pd.DataFrame(rows)


def found_heads(model: Any, some: list[Pair]) -> list[tuple[int, int]]:
    """The heads whose patches would move the metric most towards the clean run, on average, the first the most."""
    shares = []
    for pair in some:
        frame = estimates(model, pair, 0)
        heads = frame[(frame["site"] == "head") & frame["group"].isin(PARTS)]
        total = frame.attrs["clean"] - frame.attrs["corrupt"]
        shares.append(heads.groupby(["layer", "head"])["estimate"].sum() / total)
    mean = sum(shares[1:], shares[0]) / len(shares)
    return [(int(layer), int(head)) for layer, head in mean.nlargest(max(SIZES)).index]


def knocked_out(model: Any, some: list[Pair], found: list[tuple[int, int]]) -> pd.DataFrame:
    """For each pair's clean prompt: whether its answer is still the most probable, and how far its logit leads.

    Heads are set to 0, or to what they give in the other scene, at all positions.
    """
    rows = []
    for number, pair in enumerate(some):
        variants = {
            (how, size, kind): nv.Ablate(
                "all", site="head", heads=heads, layers=layers_of(heads), how=how, source=source
            )
            for how, source in (("zero", None), ("resample", pair.corrupt))
            for size in SIZES
            for kind, heads in choices(model, found, size).items()
        }
        with nv.reuse(model):
            mine, theirs = (
                nv.sweep(model, pair.clean, list(variants.values()), answer=token)
                for token in (pair.answer, pair.against)
            )
        leads = (mine["logit"] - theirs["logit"]).tolist()
        clean = float((mine["clean_logit"] - theirs["clean_logit"])[0])
        rows.append({"pair": number, "how": "none", "size": 0, "heads": "none", "right": 1.0, "lead": clean})
        for (how, size, kind), rank, ahead in zip(variants, mine["rank"], leads, strict=True):
            heads = kind.split()[0]
            row = {"pair": number, "how": how, "size": size, "heads": heads, "right": float(rank == 0), "lead": ahead}
            rows.append(row)
    return pd.DataFrame(rows).groupby(["pair", "how", "size", "heads"], as_index=False)[["right", "lead"]].mean()


def choices(model: Any, found: list[tuple[int, int]], size: int) -> dict[str, list[tuple[int, int]]]:
    """So many of the heads that were found, and random choices of as many others."""
    rng, text = np.random.default_rng(size), model._module.config.get_text_config()
    every = itertools.product(range(text.num_hidden_layers), range(text.num_attention_heads))
    others = [head for head in every if head not in found[:size]]
    draws = (rng.choice(len(others), size, replace=False) for _ in range(DRAWS))
    random = {f"random {number}": sorted(others[at] for at in draw) for number, draw in enumerate(draws)}
    return {"found": sorted(found[:size]), **random}


def layers_of(heads: list[tuple[int, int]]) -> list[int]:
    return sorted({layer for layer, _ in heads})


def told(values: Any, share: bool = False) -> str:
    """A mean with its interval over pairs."""
    estimate = interval(pd.DataFrame({"value": values}), lambda means: means["value"], shares=share)
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def told_correlation(values: Any) -> str:
    """A mean correlation with its interval over pairs, both through Fisher's transformation."""
    turned = pd.DataFrame({"turned": np.arctanh(np.asarray(values).clip(-0.9999, 0.9999))})
    estimate = interval(turned, lambda means: means["turned"])
    value, low, high = np.tanh([estimate.value, estimate.low, estimate.high])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def told_heads(scores: pd.DataFrame, scenes: int) -> str:
    """The table of heads that were knocked out."""
    rows = []
    for (how, size, heads), chosen in scores.groupby(["how", "size", "heads"]):
        right, ahead = told(chosen["right"], share=True), told(chosen["lead"])
        rows.append([f"{size or ''} {heads}".strip(), how if size else "", right, ahead])
    return markdown([f"heads knocked out, {scenes} pairs", "how", "answer still first", "lead of its logit"], rows)


def told_agreement(table: pd.DataFrame, exact: int) -> str:
    """The table of estimates beside patches."""
    rows = [
        [site, group, told_correlation(chosen["correlation"])]
        for (site, group), chosen in table.groupby(["site", "group"], sort=False)
    ]
    return markdown(["site", "group", f"correlation over layers and heads, {exact} pairs"], rows)


def main() -> None:
    parser = measured.parser(__doc__)
    parser.add_argument("--scenes", type=int, default=30, help="pairs on which heads are knocked out")
    parser.add_argument("--exact", type=int, default=10, help="pairs of which every patch is run")
    options = parser.parse_args()
    model = nv.load("shapes")
    endless = pairs(model)
    some = list(itertools.islice(endless, options.exact))
    heads = found_heads(model, some)
    print(f"heads found on {options.exact} pairs: {heads}", file=sys.stderr)
    scores = knocked_out(model, list(itertools.islice(endless, options.scenes)), heads)
    table = told_agreement(agreement(model, some), options.exact)
    measured.tell("attribution", f"{table}\n{told_heads(scores, options.scenes)}")


if __name__ == "__main__":
    main()
