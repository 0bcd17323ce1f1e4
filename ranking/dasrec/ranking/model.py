"""The CTR model: embedded features, pooled history, backbone."""

from torch import Tensor, nn

from dasrec.ranking.backbones import BACKBONES, Backbone, FieldSizes, ModelConfig
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.history import HistoryPooling, TargetAttention
from dasrec.ranking.inputs import FeatureEmbedding
from dasrec.ranking.rows import Batch
from dasrec.ranking.tables import FeatureTables


class CtrModel(nn.Module):
    """Logit of a click."""

    def __init__(
        self,
        config: ModelConfig,
        features: FeatureConfig,
        schema: FeatureSchema,
        tables: FeatureTables,
    ) -> None:
        """Make the network for a schema.

        Args:
            config: kind and size of the network.
            features: which features.
            schema: their vocabularies.
            tables: kept as (unsaved) lookup buffers.

        Raises:
            ValueError: finalmlp without a field of the user or of the item to gate by.
        """
        super().__init__()
        self.schema = schema
        self.embedding = FeatureEmbedding(features, schema, tables, config.embedding_dim)
        self.history = _pooling(config, self.embedding, features.max_history)
        pooled = self.embedding.history_dim // config.embedding_dim if self.history else 0
        sizes = FieldSizes(
            user=self.embedding.num_user_fields + pooled,
            item=self.embedding.num_item_fields,
            cross=self.embedding.num_cross_fields,
            dense=self.embedding.num_dense,
            dim=config.embedding_dim,
        )
        self.backbone: Backbone = BACKBONES[config.backbone](config, sizes)

    def forward(self, batch: Batch) -> Tensor:
        """(B,) logits."""
        inputs = self.embedding(batch)
        if self.history is not None:
            inputs = self.history(inputs)
        logit_B: Tensor = self.backbone(inputs)
        return logit_B


def _pooling(
    config: ModelConfig, embedding: FeatureEmbedding, max_history: int
) -> HistoryPooling | None:
    dim = embedding.history_dim
    if config.history == "none" or not dim:
        return None
    if config.history == "mean":
        return HistoryPooling(None)
    levels = embedding.num_levels
    return HistoryPooling(TargetAttention(dim, config.attention_dim, levels, max_history))
