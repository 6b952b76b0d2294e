"""The numbers that a page paints are the model's, read with the public functions and not with the viewer's."""
