"""The CTR model: history attention, cross network and MLP over ids, semantic IDs and attributes.

Shape letters: B batch, T history length, N distinct items of a batch, D embedding width, L levels,
A attributes, F width of everything put together.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dasrec.core.config import StageConfig
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.layers import CrossNetwork, TargetAttention, mlp, prefix_matches
from dasrec.ranking.rows import Batch
from dasrec.ranking.tables import FeatureTables, SideTables, cross_rows

INIT_STD = 0.05


class ModelConfig(StageConfig):
    """Size of the CTR network."""

    embedding_dim: int = Field(default=16, ge=1)
    """Width of id and semantic-ID embeddings."""

    attribute_dim: int = Field(default=4, ge=1)
    """Width of attribute embeddings."""

    attention_dim: int = Field(default=32, ge=1)
    """Hidden width of the target attention."""

    cross_layers: int = Field(default=2, ge=0)
    """Layers of the cross network."""

    hidden_dims: tuple[int, ...] = (128, 64)
    """Hidden widths of the MLP beside it."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after every hidden layer of the MLP."""


class CtrModel(nn.Module):
    """Logit of a click. Semantic-ID parts exist only where their switch and their codes do."""

    def __init__(
        self,
        config: ModelConfig,
        features: FeatureConfig,
        schema: FeatureSchema,
        tables: FeatureTables,
    ) -> None:
        """Make embeddings for the schema; `tables` are kept as (unsaved) lookup buffers."""
        super().__init__()
        self.features, self.schema = features, schema
        dim, num_levels = config.embedding_dim, len(schema.item_levels)
        self.user = SideEmbedding("user", config, features, schema, tables.users)
        self.item = SideEmbedding("item", config, features, schema, tables.items)
        self.matched_levels = num_levels if features.sid_match else 0
        levels = min(tables.users.hashes.shape[1], tables.items.hashes.shape[1])
        self.crossed = min(levels, features.sid_cross)
        self.cross_table = _table(features.hash_size, dim) if self.crossed else None
        sequence_dim = dim * (features.ids + self.item.has_sids * features.sid_history)
        self.attention = (
            TargetAttention(
                sequence_dim, config.attention_dim, self.matched_levels, features.max_history
            )
            if sequence_dim
            else None
        )
        self.similar = features.sid_similarity and num_levels > 0
        dense_dim = 1 + 2 * self.matched_levels + self.similar * (1 + schema.shared_space)
        width = self.user.width + self.item.width + self.crossed * dim + sequence_dim + dense_dim
        self.cross = CrossNetwork(width, config.cross_layers)
        self.mlp = mlp(width, config.hidden_dims, config.dropout)
        deep_width = config.hidden_dims[-1] if config.hidden_dims else width
        self.output = nn.Linear(width + deep_width, 1)

    def forward(self, batch: Batch) -> Tensor:
        """(B,) logits."""
        user_B, item_B, history_BT = batch
        real_BT = history_BT > 0
        keys_IL = self.item.rows.keys[:, : self.matched_levels]
        same_BTL = prefix_matches(keys_IL[item_B], keys_IL[history_BT])
        parts = [
            self.user.fields(user_B),
            self.item.fields(item_B),
            self._dense(batch, same_BTL, real_BT),
        ]
        if self.crossed:
            parts.append(self._crosses(user_B, item_B))
        if self.attention is not None:
            target_BD, history_BTD = self._sequence(item_B, history_BT)
            parts.append(self.attention(target_BD, history_BTD, same_BTL, real_BT))
        input_BF = torch.cat(parts, dim=1)
        deep = torch.cat([self.cross(input_BF), self.mlp(input_BF)], dim=1)
        logit_B: Tensor = self.output(deep).squeeze(1)
        return logit_B

    def _sequence(self, item_B: Tensor, history_BT: Tensor) -> tuple[Tensor, Tensor]:
        # An item occurs many times in the histories of a batch: embed each one once.
        seen = torch.zeros(len(self.item.rows.id), dtype=torch.bool, device=item_B.device)
        seen[item_B] = True
        seen[history_BT.flatten()] = True
        distinct_N = seen.nonzero().squeeze(1)
        place = seen.cumsum(0) - 1
        embedded_ND = self.item.sequence(distinct_N)
        return F.embedding(place[item_B], embedded_ND), F.embedding(place[history_BT], embedded_ND)

    def _crosses(self, user_B: Tensor, item_B: Tensor) -> Tensor:
        rows = cross_rows(
            self.user.rows.hashes[user_B, : self.crossed],
            self.item.rows.hashes[item_B, : self.crossed],
            self.features.hash_size,
        )
        assert self.cross_table is not None
        embedded_BLD: Tensor = self.cross_table(rows)
        return embedded_BLD.flatten(1)

    def _dense(self, batch: Batch, same_BTL: Tensor, real_BT: Tensor) -> Tensor:
        scale = math.log1p(self.features.max_history)
        length_B1 = real_BT.sum(1, keepdim=True).float()
        count_BL = same_BTL.sum(1)
        parts = [length_B1.log1p() / scale, count_BL.log1p() / scale, (count_BL > 0).float()]
        if self.similar:
            vector_BD = self.item.rows.vectors[batch.item_B]
            history_BD = self._mean_vector(batch.history_BT, length_B1)
            parts.append((vector_BD * history_BD).sum(1, keepdim=True))
            if self.schema.shared_space:
                user_BD = self.user.rows.vectors[batch.user_B]
                parts.append((vector_BD * user_BD).sum(1, keepdim=True))
        return torch.cat(parts, dim=1)

    def _mean_vector(self, history_BT: Tensor, length_B1: Tensor) -> Tensor:
        summed_BD = F.embedding_bag(
            history_BT, self.item.rows.vectors, mode="sum"
        )  # padding is zero
        return summed_BD / length_B1.clamp(min=1)


class LookupBuffers(nn.Module):
    """`SideTables` as buffers: they follow the model to its device and are not saved with it."""

    id: Tensor
    attributes: Tensor
    levels: Tensor
    prefixes: Tensor
    hashes: Tensor
    keys: Tensor
    vectors: Tensor

    def __init__(self, tables: SideTables) -> None:
        """Register the tables."""
        super().__init__()
        for name, values in tables._asdict().items():
            self.register_buffer(name, values, persistent=False)


class SideEmbedding(nn.Module):
    """Embeddings of one side: id, attributes and semantic ID."""

    def __init__(
        self,
        side: str,
        config: ModelConfig,
        features: FeatureConfig,
        schema: FeatureSchema,
        tables: SideTables,
    ) -> None:
        """Make the embeddings of `side`, "user" or "item"."""
        super().__init__()
        self.rows = LookupBuffers(tables)
        dim = config.embedding_dim
        vocabulary = getattr(schema, f"{side}_vocabulary")
        attributes: dict[str, tuple[str, ...]] = getattr(schema, f"{side}_attributes")
        level_sizes: tuple[int, ...] = getattr(schema, f"{side}_levels")
        has_sids = bool(level_sizes)
        self.in_history = features.sid_history
        self.id = _table(len(vocabulary) + 1, dim) if features.ids else None
        self.attributes = nn.ModuleList(
            _table(len(values) + 1, config.attribute_dim) for values in attributes.values()
        )
        self.levels = (
            _table(sum(level_sizes) + 1, dim) if has_sids and features.sid_levels else None
        )
        self.prefixes = (
            _table(features.hash_size, dim) if has_sids and features.sid_prefixes else None
        )
        self.has_sids = self.levels is not None or self.prefixes is not None
        num_fields = (
            (self.id is not None)
            + (self.levels is not None) * len(level_sizes)
            + (self.prefixes is not None)
        )
        self.width = num_fields * dim + len(attributes) * config.attribute_dim

    def fields(self, index_B: Tensor) -> Tensor:
        """(B, width) everything about these users or items, side by side."""
        rows = self.rows
        parts = [
            table(rows.attributes[index_B, column]) for column, table in enumerate(self.attributes)
        ]
        if self.id is not None:
            parts.append(self.id(rows.id[index_B]))
        if self.levels is not None:
            parts.append(self.levels(rows.levels[index_B]).flatten(1))
        if self.prefixes is not None:
            parts.append(self.prefixes(rows.prefixes[index_B]).sum(1))
        return torch.cat(parts, dim=1) if parts else rows.vectors.new_zeros(len(index_B), 0)

    def sequence(self, index_N: Tensor) -> Tensor:
        """(N, D or 2 D) id beside the sum of the semantic-ID embeddings, for the attention."""
        rows = self.rows
        parts = [self.id(rows.id[index_N])] if self.id is not None else []
        if self.has_sids and self.in_history:
            tables = ((self.levels, rows.levels), (self.prefixes, rows.prefixes))
            summed = [table(row[index_N]).sum(1) for table, row in tables if table is not None]
            parts.append(torch.stack(summed).sum(0))
        return torch.cat(parts, dim=1)


def _table(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, std=INIT_STD)
    return table
