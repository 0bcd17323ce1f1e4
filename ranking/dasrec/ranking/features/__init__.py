"""Which features the CTR model gets, and what was fitted for them on the training rows."""

from dasrec.ranking.features.config import FeatureConfig
from dasrec.ranking.features.fields import (
    CategoricalField,
    DenseField,
    Field,
    NumericField,
    SequenceField,
)
from dasrec.ranking.features.fit import build_schema
from dasrec.ranking.features.schema import FeatureSchema, FittedField

__all__ = [
    "CategoricalField",
    "DenseField",
    "FeatureConfig",
    "FeatureSchema",
    "Field",
    "FittedField",
    "NumericField",
    "SequenceField",
    "build_schema",
]
