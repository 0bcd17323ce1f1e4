"""Baselines: popularity, sequence-neighbour item-kNN and SASRec."""

from dasrec.baselines.item_knn import ItemKnnConfig, recommend_item_knn
from dasrec.baselines.popularity import PopularityConfig, recommend_popularity

__all__ = [
    "ItemKnnConfig",
    "PopularityConfig",
    "recommend_item_knn",
    "recommend_popularity",
]
