"""Baselines: popularity, sequence-neighbour item-kNN and SASRec."""

from dasrec.baselines.item_knn import ItemKnnConfig, recommend_item_knn
from dasrec.baselines.popularity import PopularityConfig, recommend_popularity
from dasrec.baselines.sasrec import Sasrec
from dasrec.baselines.sasrec_artifact import SasrecConfig, load_sasrec
from dasrec.baselines.sasrec_recommend import SasrecRecommendConfig, recommend_sasrec
from dasrec.baselines.sasrec_train import train_sasrec

__all__ = [
    "ItemKnnConfig",
    "PopularityConfig",
    "Sasrec",
    "SasrecConfig",
    "SasrecRecommendConfig",
    "load_sasrec",
    "recommend_item_knn",
    "recommend_popularity",
    "recommend_sasrec",
    "train_sasrec",
]
