"""The claims of "What's in the Image?" (arXiv 2411.17491), measured on a model and written to a folder.

`write_report` runs everything; `judge` decides the claims from recipes' frames that you have already.
"""

from .claims import CLAIMS, Claim, judge
from .writing import Report, write_report

__all__ = ["CLAIMS", "Claim", "Report", "judge", "write_report"]
