"""How certain a number is: means over images, intervals over images, and verdicts on thresholds.

Files: `resampling` draws images again; `intervals` from the images' numbers to an interval; `verdicts` from an interval
to a verdict; `tables` means of a recipe's rows. What intervals cover, and how it was measured, is in docs/intervals.md.
"""

from .intervals import UNKNOWN, Estimate, Means, bootstrap, interval
from .resampling import FEWEST
from .tables import CLUSTER, image_means, summarise
from .verdicts import FAILS, HOLDS, OPEN, Verdict, verdict

__all__ = [
    "CLUSTER",
    "FAILS",
    "FEWEST",
    "HOLDS",
    "OPEN",
    "UNKNOWN",
    "Estimate",
    "Means",
    "Verdict",
    "bootstrap",
    "image_means",
    "interval",
    "summarise",
    "verdict",
]
