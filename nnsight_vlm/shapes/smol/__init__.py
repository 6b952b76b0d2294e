"""`shapes-smol`: the synthetic world seen by a vision tower of this package and told by a pretrained language model.

The language model is SmolLM2-135M-Instruct, which comes in a package of its own (`language_model.py`). What is shipped
here is what was trained here: the tower, the projector between the two, and low-rank updates of the language model.
"""
