"""The time of a run, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from .beginning import Settings


@dataclass(kw_only=True)
class Clock:
    """The time of a run, that of interrupted attempts included.

    Attributes:
        seconds: that training may take in all.
        used: before this attempt.
    """

    seconds: float
    used: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds used so far."""
        return self.used + time.monotonic() - self.started

    @property
    def share(self) -> float:
        """The share of the time that has passed."""
        return self.elapsed / self.seconds


def rate_share(step: int, share: float, settings: Settings) -> float:
    """The share of the full learning rate: a rise by steps, then constant, then half a cosine to zero by time."""
    falling = min(max((share - settings.hold) / (1 - settings.hold), 0.0), 1.0)
    return min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * falling))
