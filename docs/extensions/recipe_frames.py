"""Every page of a recipe makes a frame of that recipe, and the frame says where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .page_code import RAN

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SHOWN = {"README": "knockout_windows"}
"""The recipe that a page shows which is not named after one."""


def check(app: Sphinx, docname: str, space: dict[str, Any]) -> None:
    """Look at what a page's code left behind.

    Raises:
        ValueError: there is no frame, or it does not say of which recipe, model and pictures it is.
    """
    import pandas as pd

    from nnsight_vlm.studies import provenance

    folder, _, name = docname.rpartition("/")
    if folder != "recipes":
        return
    frame, recipe = space.get("frame"), SHOWN.get(name, name)
    if not isinstance(frame, pd.DataFrame) or not len(frame):
        raise ValueError("the code of a recipe's page must leave its table in `frame`")
    missing = sorted(set(provenance.KEYS) - set(frame.attrs))
    if missing or frame.attrs["recipe"] != recipe:
        raise ValueError(f"frame.attrs must say {', '.join(provenance.KEYS)}, of {recipe}; it lacks {missing}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect(RAN, check)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
