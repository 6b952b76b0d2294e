"""How often intervals hold the true value, and how often a verdict is false, over laws that measurements may follow.

`python tests/coverage_table.py` writes the tables of docs/intervals.md, with `--alternatives --samples 1000` the last;
`--save` keeps them in docs/measured. For each law and number of images many samples are drawn and given an interval;
the true value is known. A verdict is asked for at the hardest threshold: the true value itself, which lies neither
above nor below, so that every verdict is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import measured
import numpy as np
import pandas as pd
from scipy import stats

from nnsight_vlm.report.claims import DEPTH, SUMMARY
from nnsight_vlm.statistics import OPEN, Estimate, interval, resampling, verdict
from nnsight_vlm.statistics.intervals import mean_ends

IMAGES = (8, 24, 100)
BLOCK = 500
"""Samples that are computed at a time."""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


class Law(NamedTuple):
    """How numbers of images are distributed: draws `[sample, image]`, the true mean, and whether they are shares."""

    draw: Draw
    mean: float
    share: bool | None = None


class Rates(NamedTuple):
    """Shares of samples: whose interval holds the true value, and on which a false verdict was given."""

    covers: float
    false: float


def sometimes(rate: float, draw: Draw, otherwise: float) -> Draw:
    """A law that gives one number, and rarely something else."""
    return lambda rng, size: np.where(rng.random(size) < rate, draw(rng, size), otherwise)


def bernoulli(share: float) -> Law:
    return Law(lambda rng, size: (rng.random(size) < share).astype(float), share)


LAWS = {
    "0 or 1, share 0.5": bernoulli(0.5),
    "0 or 1, share 0.9": bernoulli(0.9),
    "0 or 1, share 0.99": bernoulli(0.99),
    "shares of 3 words, each right in 0.9": Law(lambda rng, size: rng.binomial(3, 0.9, size) / 3, 0.9, True),
    "shares of 8 words, each right in 0.98": Law(lambda rng, size: rng.binomial(8, 0.98, size) / 8, 0.98, True),
    "shares, 1 in nine of ten images": Law(sometimes(0.1, lambda rng, size: rng.random(size), 1.0), 0.95, True),
    "shares, beta(5, 1)": Law(lambda rng, size: rng.beta(5, 1, size), 5 / 6, True),
    "uniform": Law(lambda rng, size: rng.random(size), 0.5),
    "normal": Law(lambda rng, size: rng.normal(size=size), 0.0),
    "heavy-tailed: t, 3 degrees": Law(lambda rng, size: rng.standard_t(3, size), 0.0),
    "heavy-tailed: t, 2 degrees": Law(lambda rng, size: rng.standard_t(2, size), 0.0),
    "normal, 10 times as wide in 1 of 20": Law(
        lambda rng, size: rng.normal(size=size) * np.where(rng.random(size) < 0.05, 10, 1), 0.0
    ),
    "skewed: exponential": Law(lambda rng, size: rng.exponential(size=size), 1.0),
    "skewed: lognormal, sigma 1": Law(lambda rng, size: rng.lognormal(0, 1, size), np.exp(0.5)),
    "skewed and heavy-tailed: Pareto, 3": Law(lambda rng, size: rng.pareto(3, size), 1 / 2),
    "skewed and heavy-tailed: Pareto, 2.5": Law(lambda rng, size: rng.pareto(2.5, size), 1 / 1.5),
    "0 in nine of ten images, else exponential": Law(
        sometimes(0.1, lambda rng, size: rng.exponential(size=size), 0.0), 0.1, False
    ),
}
"""What intervals are made for."""

BEYOND = {
    "lognormal, sigma 1.5": Law(lambda rng, size: rng.lognormal(0, 1.5, size), np.exp(1.5**2 / 2)),
    "Pareto, 2 (no variance)": Law(lambda rng, size: rng.pareto(2, size), 1.0),
    "100 in one of a hundred images, else normal": Law(
        lambda rng, size: np.where(rng.random(size) < 0.01, 100.0, rng.normal(size=size)), 1.0
    ),
}
"""What no interval over few images can be made for: most samples do not show what decides the mean."""


def descriptions(rng: np.random.Generator, images: int) -> pd.DataFrame:
    """F1 values of pictures with one to four objects, of the kind that claims 1 and 2 are about."""
    objects, hard = rng.integers(1, 5, images), rng.beta(2, 2, images)
    chances = {
        "cut": 0.3 + 0.5 * hard,
        "blind": 0.05 + 0.2 * hard,
        "middle": 0.1 + 0.3 * hard,
        "outer": 0.5 + 0.4 * hard,
    }
    return pd.DataFrame({name: rng.binomial(objects, chance) / objects for name, chance in chances.items()})


RATIOS = {
    "claim 1: ratio of mean F1 values": (SUMMARY, ["cut", "blind"]),
    "claim 2: ratio of mean F1 values": (DEPTH, ["middle", "outer"]),
}


def percentile_ends(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of before: 2.5 % and 97.5 % of the means of 2,000 resamples."""
    images = samples.shape[1]
    draws = np.random.default_rng(0).integers(images, size=(2000, images))
    counts = np.stack([np.bincount(draw, minlength=images) for draw in draws])
    low, high = np.quantile(samples @ counts.T / images, [0.025, 0.975], axis=1)
    return low, high


def blocks(law: Law, images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng((seed, images))
    for start in range(0, samples, BLOCK):
        yield law.draw(rng, (min(BLOCK, samples - start), images))


def rates(law: Law, images: int, samples: int, *, seed: int = 0, before: bool = False) -> Rates:
    """How a law's samples fare, with the intervals of now or of before."""
    covers = false = 0
    for drawn in blocks(law, images, samples, seed):
        lows, highs = percentile_ends(drawn) if before else mean_ends(drawn, share=law.share)
        rounding = 1e-12 * max(1.0, abs(law.mean))
        covers += int(((lows <= law.mean + rounding) & (highs >= law.mean - rounding)).sum())
        missed = np.flatnonzero((lows > law.mean + rounding) | (highs < law.mean - rounding))
        verdicts = [verdict(Estimate(0.0, lows[each], highs[each]), law.mean, images) for each in missed]
        false += len(missed) if before else sum(each != OPEN for each in verdicts)
    return Rates(covers / samples, false / samples)


def ratio_rates(name: str, images: int, samples: int, *, seed: int = 0) -> Rates:
    """The same for a claim that is a ratio of means."""
    criterion, columns = RATIOS[name]
    many = descriptions(np.random.default_rng(1), 500_000)[columns].mean()
    true = float(criterion.statistic({column: np.array([many[column]]) for column in columns})[0])
    rng = np.random.default_rng((seed, images))
    covers = false = 0
    for _ in range(samples):
        estimate = interval(descriptions(rng, images)[columns], criterion.statistic, shares=criterion.shares)
        covers += not (estimate.low > true or estimate.high < true)  # without an interval, every value is possible
        false += verdict(estimate, true, images) != OPEN
    return Rates(covers / samples, false / samples)


def tables(samples: int) -> str:
    """Both tables, before and after, in markdown."""
    head = "| " + " | ".join(["images' numbers", *(f"{images} images" for images in IMAGES)]) + " |"
    covers, false = ([head, "| --- | --- | --- | --- |"] for _ in range(2))
    for name, law in (LAWS | BEYOND).items():
        pairs = [
            (rates(law, images, samples, before=True), rates(law, images, samples, before=False)) for images in IMAGES
        ]
        shown = f"*{name}*" if name in BEYOND else name
        covers.append(_line(shown, [f"{old.covers:.3f} → {new.covers:.3f}" for old, new in pairs]))
        false.append(_line(shown, [f"{100 * old.false:.1f} → {100 * new.false:.1f}" for old, new in pairs]))
    for name in RATIOS:
        found = [ratio_rates(name, images, samples // 10) for images in IMAGES]
        covers.append(_line(name, [f"→ {each.covers:.3f}" for each in found]))
        false.append(_line(name, [f"→ {100 * each.false:.1f}" for each in found]))
    return "\n".join(covers) + "\n\n" + "\n".join(false)


def alternatives(samples: int) -> str:
    """What intervals that aim at 95 % cover: of scipy, and the wider of Student's t and the studentised bootstrap."""
    names = ("percentile bootstrap", "BCa (scipy)", "Student's t (scipy)", "wider of t and studentised, aimed at 95 %")
    lines = [f"| images' numbers | {' | '.join(names)} |", "| --- | --- | --- | --- | --- |"]
    for name, law in list(LAWS.items())[3:]:  # without those that are 0 or 1
        cells = list[list[str]]([[] for _ in names])
        for images in IMAGES[:2]:
            drawn = law.draw(np.random.default_rng((0, images)), (samples, images))
            drawn = drawn[np.ptp(drawn, axis=1) > 0]  # of one number in all images, scipy has no interval
            bca = stats.bootstrap((drawn,), np.mean, axis=1, n_resamples=999, batch=100, method="BCa", rng=0)
            student = stats.ttest_1samp(drawn, 0, axis=1).confidence_interval()
            with mock.patch.object(resampling, "CAUTION", 0):
                wider = mean_ends(drawn, share=False)
            for cell, (low, high) in zip(
                cells, (percentile_ends(drawn), bca.confidence_interval, student, wider), strict=True
            ):
                cell.append(f"{((low <= law.mean + 1e-12) & (high >= law.mean - 1e-12)).mean():.2f}")
        lines.append(_line(name, [", ".join(cell) for cell in cells]))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = measured.parser(__doc__)
    parser.add_argument("--samples", type=int, default=8000, help="of each law and number of images")
    parser.add_argument("--alternatives", action="store_true", help="the third table: other intervals, 8 and 24 images")
    options = parser.parse_args()
    printed = alternatives(options.samples) if options.alternatives else tables(options.samples)
    measured.tell("intervals", printed)
