"""Attribution on the model `shapes`: how well it agrees with patching, and whether the heads that it finds matter.

`python tests/attribution_table.py` prints the tables of docs/attribution.md. Pairs of scenes differ in the color of one
object, which a question asks for; pairs whose two answers are not both right are left out. Heads are found on other
pairs than those on which they are knocked out.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import nnsight_vlm as nv
from nnsight_vlm.statistics import interval

HEADS, DRAWS = 6, 5
"""Heads that are knocked out together, and how many random choices of as many."""
PARTS = ("system", "image", "query")


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
            for group in (*PARTS, "last", "all of them"):
                known = frame[
                    (frame["site"] == site) & frame["group"].isin([group] if group != "all of them" else PARTS)
                ]
                if known["exact"].abs().max() > 1e-6:
                    rows.append({"site": site, "group": group, "correlation": known["estimate"].corr(known["exact"])})
        wanted = frame[frame["group"].isin(PARTS)]
        largest = wanted.loc[wanted["site"] == "head"].sort_values("estimate", key=abs).tail(20)
        rows.append({"site": "head", "group": "20 largest", "correlation": largest["estimate"].corr(largest["exact"])})
    return pd.DataFrame(rows)


def found_heads(model: Any, some: list[Pair]) -> list[tuple[int, int]]:
    """The heads whose patches would move the metric most towards the clean run, on average."""
    shares = []
    for pair in some:
        frame = estimates(model, pair, 0)
        heads = frame[(frame["site"] == "head") & frame["group"].isin(PARTS)]
        total = frame.attrs["clean"] - frame.attrs["corrupt"]
        shares.append(heads.groupby(["layer", "head"])["estimate"].sum() / total)
    mean = sum(shares[1:], shares[0]) / len(shares)
    return [(int(layer), int(head)) for layer, head in mean.nlargest(HEADS).index]


def knocked_out(model: Any, some: list[Pair], heads: list[tuple[int, int]], seed: int = 0) -> pd.DataFrame:
    """For each pair's clean prompt: whether its answer is still the most probable, and how far its logit leads."""
    rng = np.random.default_rng(seed)
    spec = model._module.config.get_text_config()
    others = [
        (layer, head)
        for layer in range(spec.num_hidden_layers)
        for head in range(spec.num_attention_heads)
        if (layer, head) not in heads
    ]
    draws = [[others[at] for at in rng.choice(len(others), len(heads), replace=False)] for _ in range(DRAWS)]
    variants = {
        name: nv.Ablate("all", site="head", heads=sorted(chosen), layers=sorted({layer for layer, _ in chosen}))
        for name, chosen in (("found", heads), *((f"random {number}", draw) for number, draw in enumerate(draws)))
    }
    rows = []
    for number, pair in enumerate(some):
        with nv.reuse(model):
            mine, theirs = (
                nv.sweep(model, pair.clean, variants, answer=token) for token in (pair.answer, pair.against)
            )
        rows.append({"pair": number, "heads": "none", "right": 1.0, "lead": lead(mine, theirs, "clean_logit")[0]})
        leads = lead(mine, theirs, "logit")
        for name, rank, ahead in zip(variants, mine["rank"], leads, strict=True):
            rows.append({"pair": number, "heads": name.split()[0], "right": float(rank == 0), "lead": ahead})
    frame = pd.DataFrame(rows)
    return frame.groupby(["pair", "heads"], as_index=False)[["right", "lead"]].mean()


def lead(mine: pd.DataFrame, theirs: pd.DataFrame, column: str) -> list[float]:
    return (mine[column] - theirs[column]).tolist()


def told(values: Any, share: bool = False) -> str:
    """A mean with its interval over pairs."""
    estimate = interval(pd.DataFrame({"value": values}), lambda means: means["value"], shares=share)
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=30, help="pairs on which heads are knocked out")
    parser.add_argument("--exact", type=int, default=10, help="pairs of which every patch is run")
    options = parser.parse_args()
    model = nv.load("shapes")
    endless = pairs(model)
    some = list(itertools.islice(endless, options.exact))
    heads = found_heads(model, some)
    print(f"\nheads found on {options.exact} pairs: {heads}")
    scores = knocked_out(model, list(itertools.islice(endless, options.scenes)), heads)
    print(
        f"\n| heads knocked out ({options.scenes} pairs) | answer still first | lead of its logit |\n| --- | --- | --- |"
    )
    for name in ("none", "found", "random"):
        chosen = scores[scores["heads"] == name]
        print(f"| {name} | {told(chosen['right'], share=True)} | {told(chosen['lead'])} |")
    table = agreement(model, some)
    print(f"\n| site | group | correlation over layers and heads, {options.exact} pairs |\n| --- | --- | --- |")
    for (site, group), chosen in table.groupby(["site", "group"], sort=False):
        print(f"| {site} | {group} | {told(chosen['correlation'])} |")


if __name__ == "__main__":
    main()
