"""The baselines' section of the run config."""

from dasrec.baselines import (
    CooccurrenceConfig,
    EaseConfig,
    IalsConfig,
    ItemKnnConfig,
    PopularityConfig,
    RecentPopularityConfig,
    SasrecConfig,
    SasrecRecommendConfig,
    TwoTowerConfig,
)
from dasrec.core.config import StageConfig

BASELINES = (
    "popularity",
    "popularity_recent",
    "cooccurrence",
    "item_knn",
    "ease",
    "ials",
    "two_tower",
    "sasrec",
)
"""In the order of the tables."""


class BaselinesConfig(StageConfig):
    """Baselines to run; one that is left out is not run."""

    popularity: PopularityConfig | None = None
    """Most popular items."""

    popularity_recent: RecentPopularityConfig | None = None
    """Items that were popular last."""

    cooccurrence: CooccurrenceConfig | None = None
    """Plain counts of items that stood near those of the history."""

    item_knn: ItemKnnConfig | None = None
    """Sequence-neighbour item-kNN."""

    ease: EaseConfig | None = None
    """Linear item-item model in closed form."""

    ials: IalsConfig | None = None
    """Matrix factorisation; needs the package implicit."""

    two_tower: TwoTowerConfig | None = None
    """Dense retrieval with the collaborative vectors of a DAS tokenizer; runs with the stage
    `retrieve`, after the tokenizers."""

    sasrec: SasrecConfig | None = None
    """Self-attentive sequential recommender."""

    sasrec_lists: SasrecRecommendConfig = SasrecRecommendConfig()
    """Its lists."""
