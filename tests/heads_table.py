"""The tables of docs/recipes/heads.md: `PYTHONPATH=tests python -m heads_table shapes shapes-gist`."""

from __future__ import annotations

import sys
import time

from scene_questions import steered_questions

import nnsight_vlm as nv

COUNT = 24


def main(models: list[str]) -> None:
    for name in models:
        model = nv.load(name)
        prompts, known = steered_questions(model, COUNT)
        for choose in ("peak", "paper"):
            begun = time.perf_counter()
            work = nv.recipes.Work(progress=False)
            frame = nv.recipes.heads(model, prompts, choose=choose, only_correct=True, work=work, **known)
            print(f"{name}, choose={choose}: {time.perf_counter() - begun:.0f} s, {frame.attrs['images']} pictures")
            single = frame[(frame["heads"] == "each") & (frame["control"] == "none")]
            ranked = single[single["rank"].notna() & single["measure"].isin(["hit", "mass", "selected"])]
            shown = ["rank", "layer", "head", "split", "measure", "mean", "low", "high", "p", "survives"]
            print(ranked.sort_values(["rank", "split", "measure"])[shown].round(3).to_string(index=False))
            hits = single[(single["measure"] == "hit") & (single["split"] == "held out")]
            print(f"{int(hits['survives'].sum())} of {len(hits)} heads hold against chance")
            sets = frame[frame["heads"] != "each"].drop(columns=["layer", "head", "split", "rank", "p", "survives"])
            print(sets.round(3).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:] or ["shapes"])
