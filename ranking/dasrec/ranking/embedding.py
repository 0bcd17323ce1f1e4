"""Embeddings of one side of a row: the user, or the item.

Shape letters: B rows of any shape, F fields, D embedding width, E width of a history element.
"""

import torch
from torch import Tensor, nn

from dasrec.ranking.attributes import (
    CategoryEmbedding,
    DenseEmbedding,
    NumberEmbedding,
    SequenceEmbedding,
    embedding_table,
)
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.features.fields import Side, TableSide
from dasrec.ranking.lookup import LookupBuffers
from dasrec.ranking.sid_embedding import SidEmbedding, SidGate
from dasrec.ranking.tables import SideTables


class AttributeEmbedding(nn.Module):
    """The typed fields of a side: categories and buckets, numbers, sequences, frozen vectors."""

    def __init__(self, side: Side, schema: FeatureSchema, dim: int) -> None:
        """Make the embeddings of the fields that the schema has."""
        super().__init__()
        categories = [field.num_rows for field in schema.categories(side)]
        sequences = [field.num_rows for field in schema.sequences(side)]
        dense = [field.dim for field in schema.dense(side)]
        self.num_numbers = len(schema.numbers(side))
        self.categories = CategoryEmbedding(categories, dim) if categories else None
        self.numbers = NumberEmbedding(self.num_numbers, dim) if self.num_numbers else None
        self.sequences = SequenceEmbedding(sequences, dim) if sequences else None
        self.dense = DenseEmbedding(dense, dim) if dense else None
        self.num_fields = len(categories) + self.num_numbers + len(sequences) + len(dense)

    def of_context(self, categories_BA: Tensor, numbers_BN: Tensor) -> list[Tensor]:
        """(B, ..., D) fields that come with each row."""
        found = [] if self.categories is None else [self.categories(categories_BA)]
        if self.numbers is not None:
            found.append(self.numbers(numbers_BN))
        return found

    def fields(self, rows: LookupBuffers, index_B: Tensor) -> list[Tensor]:
        """(B, ..., D) fields that are looked up, num_fields in all."""
        found = self.of_context(rows.categories[index_B], rows.numbers[index_B])
        if self.sequences is not None:
            found.append(self.sequences(rows.sequences[index_B]))
        if self.dense is not None:
            found.append(self.dense(rows.dense[index_B]))
        return found

    def summed(self, rows: LookupBuffers, index_B: Tensor) -> Tensor:
        """(B, D) sum of categories and sequences, for the history."""
        pairs = ((self.categories, rows.categories), (self.sequences, rows.sequences))
        found = [layer(row[index_B]).sum(-2) for layer, row in pairs if layer is not None]
        summed_BD: Tensor = torch.stack(found).sum(0)
        return summed_BD


class SideEmbedding(nn.Module):
    """Fields of one side: id, attributes and semantic ID."""

    def __init__(
        self,
        side: TableSide,
        config: FeatureConfig,
        schema: FeatureSchema,
        tables: SideTables,
        dim: int,
    ) -> None:
        """Make the embeddings of `side`."""
        super().__init__()
        self.rows, self.dim = LookupBuffers(tables), dim
        vocabulary = getattr(schema, f"{side}_vocabulary")
        levels: tuple[int, ...] = getattr(schema, f"{side}_levels")
        self.id = embedding_table(len(vocabulary) + 1, dim) if config.ids else None
        self.id_dropout = config.id_dropout
        self.attributes = AttributeEmbedding(side, schema, dim)
        self.sid = SidEmbedding(config, levels, tables.vectors.shape[1], dim)
        gated = side == "item" and config.sid_gate and config.ids and self.sid.num_fields > 0
        self.gate = SidGate(self.sid.num_fields, dim) if gated else None
        self.num_fields = (self.id is not None) + self.attributes.num_fields + self.sid.num_fields
        self.history_codes = config.sid_history and self.sid.has_codes
        described = self.attributes.categories is not None or self.attributes.sequences is not None
        self.history_attributes = config.attribute_history and described
        self.sequence_dim = dim * (
            (self.id is not None) + self.history_codes + self.history_attributes
        )

    def forward(self, index_B: Tensor, sid_B: Tensor) -> Tensor:
        """(B, F, D) everything about these users or items, the id first; `sid_B` are the rows of
        their semantic IDs."""
        attributes = self.attributes.fields(self.rows, index_B)
        sids = self.sid.fields(self.rows, sid_B)
        ids = [] if self.id is None else [self._id(index_B, sids)[:, None]]
        found = [*ids, *attributes, *sids]
        if not found:
            return self.rows.vectors.new_zeros(index_B.shape[0], 0, self.dim)
        return torch.cat(found, dim=1)

    def sequence(self, index_B: Tensor) -> Tensor:
        """(B, E) id, sum of the semantic-ID embeddings, sum of the attributes, side by side."""
        rows, parts = self.rows, []
        if self.id is not None:
            sids = self.sid.fields(rows, index_B) if self.gate is not None else []
            parts.append(self._id(index_B, sids))
        if self.history_codes:
            parts.append(self.sid.summed(rows, index_B))
        if self.history_attributes:
            parts.append(self.attributes.summed(rows, index_B))
        if not parts:
            return rows.vectors.new_zeros(*index_B.shape, 0)
        return torch.cat(parts, dim=-1)

    def transfer_loss(self, index_B: Tensor) -> Tensor:
        """Scalar, see `SidGate.transfer_loss`; 0 without a gate."""
        if self.gate is None or self.id is None:
            return self.rows.vectors.new_zeros(())
        fields_BFD = torch.cat(self.sid.fields(self.rows, index_B), dim=-2)
        popularity_B = self.rows.popularity[index_B]
        return self.gate.transfer_loss(self.id(self.rows.id[index_B]), fields_BFD, popularity_B)

    def _id(self, index_B: Tensor, sids: list[Tensor]) -> Tensor:
        """(B, D) embedding of the id, mixed with its semantic ID where there is a gate."""
        assert self.id is not None
        row_B = self.rows.id[index_B]
        if self.training and self.id_dropout:
            row_B = row_B * (torch.rand(row_B.shape, device=row_B.device) >= self.id_dropout)
        id_BD: Tensor = self.id(row_B)
        if self.gate is None:
            return id_BD
        known_B = row_B > 0
        popularity_B = self.rows.popularity[index_B] * known_B
        gated_BD: Tensor = self.gate(id_BD, torch.cat(sids, dim=-2), popularity_B, known_B)
        return gated_BD
