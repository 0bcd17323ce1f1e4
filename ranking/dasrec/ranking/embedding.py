"""Embeddings of one side of a row: the user, or the item.

Shape letters: B rows of any shape, F fields, D embedding width, A attributes, L levels.
"""

import torch
from torch import Tensor, nn

from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.tables import SideTables

INIT_STD = 0.05


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
    """Fields of one side: id, attributes and semantic ID."""

    def __init__(
        self, side: str, config: FeatureConfig, schema: FeatureSchema, tables: SideTables, dim: int
    ) -> None:
        """Make the embeddings of `side`, "user" or "item"."""
        super().__init__()
        self.rows, self.dim = LookupBuffers(tables), dim
        vocabulary = getattr(schema, f"{side}_vocabulary")
        attributes: dict[str, tuple[str, ...]] = getattr(schema, f"{side}_attributes")
        level_sizes: tuple[int, ...] = getattr(schema, f"{side}_levels")
        has_sids = bool(level_sizes)
        self.id = embedding_table(len(vocabulary) + 1, dim) if config.ids else None
        self.attributes = nn.ModuleList(
            embedding_table(len(values) + 1, dim) for values in attributes.values()
        )
        self.levels = (
            embedding_table(sum(level_sizes) + 1, dim) if has_sids and config.sid_levels else None
        )
        self.prefixes = (
            embedding_table(config.hash_size, dim) if has_sids and config.sid_prefixes else None
        )
        has_embedded_sids = self.levels is not None or self.prefixes is not None
        self.in_history = config.sid_history and has_embedded_sids
        self.num_fields = (
            (self.id is not None)
            + len(attributes)
            + (self.levels is not None) * len(level_sizes)
            + (self.prefixes is not None)
        )
        self.sequence_dim = dim * ((self.id is not None) + self.in_history)

    def forward(self, index_B: Tensor) -> Tensor:
        """(B, F, D) everything about these users or items."""
        rows = self.rows
        fields = [
            table(rows.attributes[index_B, column])[:, None]
            for column, table in enumerate(self.attributes)
        ]
        if self.id is not None:
            fields.append(self.id(rows.id[index_B])[:, None])
        if self.levels is not None:
            fields.append(self.levels(rows.levels[index_B]))
        if self.prefixes is not None:
            fields.append(self.prefixes(rows.prefixes[index_B]).sum(-2)[:, None])
        if not fields:
            return rows.vectors.new_zeros(len(index_B), 0, self.dim)
        return torch.cat(fields, dim=1)

    def sequence(self, index_B: Tensor) -> Tensor:
        """(B, E) id beside the sum of the semantic-ID embeddings, for the attention."""
        rows = self.rows
        parts = [self.id(rows.id[index_B])] if self.id is not None else []
        if self.in_history:
            tables = ((self.levels, rows.levels), (self.prefixes, rows.prefixes))
            summed = [table(row[index_B]).sum(-2) for table, row in tables if table is not None]
            parts.append(torch.stack(summed).sum(0))
        if not parts:
            return rows.vectors.new_zeros(*index_B.shape, 0)
        return torch.cat(parts, dim=-1)


def embedding_table(rows: int, dim: int) -> nn.Embedding:
    """(rows, dim) table with small random values."""
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, std=INIT_STD)
    return table
