"""Baselines: what generators on semantic IDs are compared with, and merged with."""

from dasrec.baselines.ease import EaseConfig, recommend_ease
from dasrec.baselines.fusion import FusionConfig, fuse
from dasrec.baselines.ials import IalsConfig, recommend_ials
from dasrec.baselines.item_knn import (
    CooccurrenceConfig,
    ItemKnnConfig,
    recommend_cooccurrence,
    recommend_item_knn,
)
from dasrec.baselines.popularity import (
    PopularityConfig,
    RecentPopularityConfig,
    recommend_popularity,
    recommend_recent_popularity,
)
from dasrec.baselines.sasrec import Sasrec
from dasrec.baselines.sasrec_artifact import SasrecConfig, load_sasrec
from dasrec.baselines.sasrec_recommend import SasrecRecommendConfig, recommend_sasrec
from dasrec.baselines.sasrec_train import train_sasrec
from dasrec.baselines.two_tower import TwoTowerConfig, recommend_two_tower

__all__ = [
    "CooccurrenceConfig",
    "EaseConfig",
    "FusionConfig",
    "IalsConfig",
    "ItemKnnConfig",
    "PopularityConfig",
    "RecentPopularityConfig",
    "Sasrec",
    "SasrecConfig",
    "SasrecRecommendConfig",
    "TwoTowerConfig",
    "fuse",
    "load_sasrec",
    "recommend_cooccurrence",
    "recommend_ease",
    "recommend_ials",
    "recommend_item_knn",
    "recommend_popularity",
    "recommend_recent_popularity",
    "recommend_sasrec",
    "recommend_two_tower",
    "train_sasrec",
]
