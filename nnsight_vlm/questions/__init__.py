"""Questions about pictures, from a table: checked when they are handed over, opened and encoded when they are asked.

Files: `tables` and `parquet_rows` read a table's cells; `cells` says what a cell of text may hold, `picture_cells` what
stands for a picture, `object_cells` what stands for boxes and masks, and `annotations` reads those from files of their
own; `item_lists` puts rows together as `Item`s, and `making` checks them; `things` is one object of a picture.
"""

from .things import Thing

__all__ = ["Thing"]
