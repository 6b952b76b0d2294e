"""One entry per family of vision-language models: where each part lives, and what follows from it."""

from .columns import AttentionSpec, Family, Stage, VideoSpec
from .lookup import check_attention, family_of
from .model_view import Model, ModelView, hooks_of, models_here, view_of
from .reach import Reach
from .stage_spec import StageSpec
from .support import unsupported
from .table import FAMILIES
from .unembedding import HeadCall

__all__ = [
    "FAMILIES",
    "AttentionSpec",
    "Family",
    "HeadCall",
    "Model",
    "ModelView",
    "Reach",
    "Stage",
    "StageSpec",
    "VideoSpec",
    "check_attention",
    "family_of",
    "hooks_of",
    "models_here",
    "unsupported",
    "view_of",
]
