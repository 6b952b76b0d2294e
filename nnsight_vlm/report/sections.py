"""The further analyses of a report, one row of data each.

A section is small, a few pictures and a few layers: it says whether more of the recipe is worth while. To add one is to
add a row to `SECTIONS`.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from .. import plots
from .section import Section, Told

FEW_LAYERS = 4
"""In how many layers, spread over the depth, a section measures what could be measured in each."""
MOST = 16
"""Most numbers of one section that report.md tells; the frame has all."""


def _graph_or_map(frame: pd.DataFrame) -> Axes:
    """The graph of what holds; where nothing does, the map of what the heads read at the last group."""
    if frame["survives"].any():
        return plots.attribution_map(frame, routes=True)
    return plots.attribution_map(frame, site="edge")


OF_CHOSEN = {"what": ("map",), "heads": ("chosen",)}
CHOSEN_CUT = {"what": ("cut",), "heads": ("chosen",)}
EDGES = ("image->last", "question->last", "image->question", "last->last")

SECTIONS: tuple[Section, ...] = (
    Section(
        name="object_score",
        title="What descriptions name, and what is there",
        of="descriptions",
        takes=("truths",),
        told=tuple(Told("{measure}", measure, ("scorer",)) for measure in ("precision", "recall", "f1", "chair_i")),
        plot=plots.object_score,
        drawn=("f1",),
        reading="`chair_i` is the share of all named objects that are not there, so less of it is better.",
    ),
    Section(
        name="image_lens",
        title="Words in image tokens, and the answer at the last token",
        of="questions",
        layers=True,
        takes=("truths", "answers"),
        told=(
            Told(
                "object's tokens that read as its name, layer {layer}",
                "named",
                ("layer", "tokens"),
                {"tokens": ("object",)},
            ),
            Told("answer first at the last token, layer {layer}", "first", ("layer", "tokens"), {"tokens": ("last",)}),
        ),
        plot=plots.image_lens,
        drawn=("named", "log_rank", "rank", "probability"),
        reading="Numbers are shares. A word that a lens does not find may be there in a form that it cannot read.",
    ),
    Section(
        name="information_flow",
        title="Edges that an answer needs, by layers",
        of="questions",
        options={"windows": 3, "only_correct": True},
        takes=("answers",),
        told=(Told("answer kept without `{edge}` in layers {layers}", "kept", ("edge", "centre"), {"edge": EDGES}),),
        plot=plots.information_flow,
        drawn=("probability_change",),
        reading=(
            "Numbers are shares of answers that stay the most probable token. Random positions lie outside the source, "
            "and beside an image few are left, with the question's words among them."
        ),
    ),
    Section(
        name="joint_routes",
        title="Routes from the image, alone and together",
        of="questions",
        options={"routes": ("image->last", "image->question")},
        takes=("answers", "pairs"),
        told=(
            Told("`{route}` is needed (probability lost without it)", "needed", ("route", "condition")),
            Told("`{route}` suffices (probability kept by it alone)", "suffices", ("route", "condition")),
            Told("self-repair", "self_repair", ("route", "condition")),
            Told(
                "`{route}` carries another picture (restoration)",
                "restoration",
                ("route", "condition"),
                {"condition": ("swapped",)},
            ),
        ),
        plot=plots.joint_routes,
        drawn=("needed", "restoration"),
        reading=(
            "The last rows swap what a route carries while every route is open, so they show what the model *does*. A "
            "route that is not needed may still be used, where the model falls back on another (self-repair above 0)."
        ),
    ),
    Section(
        name="patching_map",
        title="Places that carry another picture's answer",
        of="pairs",
        layers=True,
        told=(
            Told(
                "{group}, after layer {layer}", "restoration", ("layer", "group"), {"group": ("image", "query", "last")}
            ),
        ),
        plot=plots.patching_map,
        drawn=("restoration",),
        reading="1 makes the other picture's answer as probable as in the run on that picture, 0 changes nothing.",
    ),
    Section(
        name="attribution_map",
        title="Heads and what they read, estimated",
        of="pairs",
        options={"at": ("residual", "head", "edge"), "exact": 3},
        layers=True,
        told=(
            Told(
                "head {head} of layer {layer} reads {source} for {group}, patched",
                "exact_restored",
                ("site", "layer", "group", "head", "source"),
                {"site": ("edge",)},
            ),
            Told(
                "head {head} of layer {layer} at {group}, patched",
                "exact_restored",
                ("site", "layer", "group", "head", "source"),
                {"site": ("head",)},
            ),
            Told(
                "{group}, after layer {layer}, patched",
                "exact_restored",
                ("site", "layer", "group", "head", "source"),
                {"site": ("residual",)},
            ),
        ),
        plot=_graph_or_map,
        drawn=("estimate",),
        reading=(
            "Shares of the logit difference between the two runs, at the places with the largest estimates; the frame "
            "has the estimates of all, with those of a third picture as control. The figure is the graph of what holds "
            "among all comparisons; where nothing does, as with few pictures, the map of what heads read at the end."
        ),
        needs_gradients=True,
    ),
    Section(
        name="patch_knockout",
        title="Patches that an answer needs",
        of="questions",
        options={"only_correct": True},
        takes=("answers", "truths"),
        told=(
            Told(
                "{region}, hidden at once (nats)",
                "logprob_change",
                ("region",),
                {"region": ("object", "rest of the image")},
            ),
            Told("worst neighbourhood (nats lost)", "largest_drop", ("region",)),
            Told("worst neighbourhood is the object's", "hit", ("region",)),
            Told("share of all losses in a tenth of the patches", "top_tenth", ("region",)),
        ),
        plot=plots.patch_knockout,
        drawn=("logprob_change",),
        reading="Like every knockout it shows where the model cannot do without a patch, not where it looks.",
    ),
    Section(
        name="ablation",
        title="What can be said of an object without its image tokens",
        of="questions",
        options={"only_correct": True, "tokens": ("object", "random"), "border": (0, 1)},
        takes=("answers", "truths"),
        told=(
            Told(
                "answer kept without the object's tokens and a border of {border}",
                "kept",
                ("border", "how"),
                {"tokens": ("object",)},
            ),
            Told(
                "change of its log-probability (nats), border of {border}",
                "logprob_change",
                ("border", "how"),
                {"tokens": ("object",)},
            ),
        ),
        plot=plots.ablation,
        file="ablated_tokens",
        drawn=("logprob_change", "kept"),
        reading=(
            "The mean image token of other pictures is written in their place. An answer that is lost with the tokens "
            "of the object stood in them alone; one that is kept, elsewhere too."
        ),
    ),
    Section(
        name="heads",
        title="Heads that look at the object",
        of="questions",
        options={"only_correct": True},
        takes=("answers", "truths"),
        told=(
            Told("peak of the chosen heads lies on the object", "hit", ("what", "heads"), OF_CHOSEN),
            Told("object's share of their attention to the image", "mass", ("what", "heads"), OF_CHOSEN),
            Told("answer kept when they cannot see the image", "kept", ("what", "heads"), CHOSEN_CUT),
        ),
        plot=plots.heads,
        drawn=("hit",),
        reading=(
            "Heads are chosen on one half of the pictures; the numbers are of the other half. The last row cuts them, "
            "so it shows what the model *could* do without."
        ),
    ),
    Section(
        name="compressed_context",
        title="Questions answered from a few image tokens",
        of="questions",
        options={"only_correct": True, "keep": (0, 1, 5, 25), "tokens": ("attention",), "timed": 0},
        takes=("answers",),
        told=(Told("answer right with {kept:g} % of the image tokens", "accuracy", ("tokens", "kept")),),
        plot=plots.compressed_context,
        drawn=("accuracy",),
        reading=(
            "The picture was passed once with another request; the tokens kept are those that its words attend to "
            "most. The frame has the bytes of keys and values that are left."
        ),
    ),
)
"""The further analyses, in the order in which they are measured and told."""
