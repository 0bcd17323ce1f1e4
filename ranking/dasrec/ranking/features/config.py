"""Section `features` of the ranker's config.

Semantic-ID features follow DAS (arXiv 2508.10584), Meta's prefix n-grams (arXiv 2504.02137),
YouTube's bigrams (arXiv 2306.08121), QARM's history matching (arXiv 2411.11739) and COINS's gate
(arXiv 2510.12604). Each one is a switch, so that an ablation is one line of YAML; without a
SemanticIds artifact all of them are off (the ID-only arm).
"""

from collections import Counter

import pydantic
from pydantic import model_validator

from dasrec.core.config import StageConfig
from dasrec.ranking.features.fields import Field


class FeatureConfig(StageConfig):
    """Inputs of the CTR model."""

    max_history: int = pydantic.Field(default=50, ge=1)
    """The last so many items before the impression are attended to."""

    ids: bool = True
    """Embeddings of user and item ids (target and history share the item table)."""

    min_count: int = pydantic.Field(default=2, ge=1)
    """Ids with fewer training rows share one "unknown" embedding, which unseen ids get too."""

    id_dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """In training, so large a share of the ids is taken for unknown ones (DropoutNet): the model
    learns to do without, which is how it meets new users and items."""

    fields: tuple[Field, ...] = ()
    """Typed features of users, items and context."""

    propose: bool = True
    """Propose features for the columns of the tables that no field reads: categories where there
    are few values, quantiles for other numbers, means for lists. False: `fields` are all."""

    max_categories: int = pydantic.Field(default=500, ge=2)
    """A column of more distinct values is not proposed as a category."""

    time_of_day: bool = False
    """Hour and weekday (UTC) of the impression. Off unless asked for: only as good as the log's
    timestamps."""

    attribute_history: bool = False
    """The summed embeddings of an item's categories and sequences beside its id in the attention
    (DIN's goods, shop and category)."""

    item_sids: bool = True
    """Use the item's semantic ID, where there is one; false switches every SID feature of items
    off, matching and crosses too."""

    user_sids: bool = True
    """Use the user's semantic ID, where there is one."""

    sid_moments: bool = True
    """Give each row the SID that its user had at its time, where the semantic IDs hold them
    (`assign.user_moments`); false takes today's SID for all rows, which in training were made from
    the rows' own labels."""

    sid_levels: bool = True
    """One embedding per level and code."""

    sid_prefixes: bool = True
    """Prefixes c1, c1c2, c1c2c3, ... hashed into one table and summed (prefix n-grams)."""

    sid_bigrams: bool = False
    """Pairs of neighbouring codes c1c2, c2c3, ... hashed into one table and summed."""

    sid_vector: bool = False
    """The quantized vector itself (the sum of its codewords) at unit length, frozen, projected."""

    sid_gate: bool = False
    """The item's id embedding becomes g * id + (1 - g) * SID, g from both and the item's
    popularity (COINS); only with `ids`."""

    sid_transfer: float = pydantic.Field(default=0.1, ge=0)
    """With `sid_gate`: weight of the loss that pulls the SID embedding of popular items towards
    their id embedding, from which items that share their codes profit."""

    sid_cross: int = pydantic.Field(default=1, ge=0)
    """User prefix x item prefix of so many lengths from 1, hashed into one table; 0 = off. From 2
    on the pairs come near (user, item) itself: that needs logs of industrial size, on small ones
    the model learns them by heart."""

    sid_match: bool = True
    """How many history items share c1, c1c2, ... with the target; also steers the attention."""

    sid_history: bool = True
    """Semantic IDs of history items (beside their ids) in the attention."""

    sid_similarity: bool = True
    """Cosine of the item's quantized vector with the user's and with those of the history."""

    hash_size: int = pydantic.Field(default=65_536, ge=2)
    """Rows of each hashed table of semantic IDs; row 0 is reserved."""

    @model_validator(mode="after")
    def _check(self) -> "FeatureConfig":
        names = Counter((field.side, field.name) for field in self.fields)
        if repeated := [f"{side} {name}" for (side, name), count in names.items() if count > 1]:
            raise ValueError(f"fields: two of one name and side, got {', '.join(repeated)}")
        return self
