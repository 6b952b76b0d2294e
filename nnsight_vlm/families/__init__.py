"""One entry per family of vision-language models: where each part lives, and what follows from it."""

from .columns import VISION, Family, Stage
from .lookup import check_attention, family_of
from .model_view import Model, ModelView, hooks_of, models_here, view_of
from .part_columns import AttentionSpec, TowerSpec, VideoSpec
from .reach import Reach
from .stage_spec import StageSpec
from .support import unsupported
from .table import FAMILIES
from .unembedding import HeadCall

__all__ = [
    "FAMILIES",
    "VISION",
    "AttentionSpec",
    "Family",
    "HeadCall",
    "Model",
    "ModelView",
    "Reach",
    "Stage",
    "StageSpec",
    "TowerSpec",
    "VideoSpec",
    "check_attention",
    "family_of",
    "hooks_of",
    "models_here",
    "unsupported",
    "view_of",
]
