"""What a backbone gets: every feature embedded, and the history ready to be attended to.

Shape letters: B batch, U, I and X fields of user and context, of the item, and crossed, D embedding
width, N numbers, P elements of all histories, E width of one, L levels.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.ranking.attributes import embedding_table, known
from dasrec.ranking.embedding import AttributeEmbedding, SideEmbedding
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.places import Places, lay_out
from dasrec.ranking.rows import Batch
from dasrec.ranking.tables import FeatureTables, cross_rows


class Inputs(NamedTuple):
    """Embedded features of a batch; all fields have one width, so that they can be crossed."""

    user_BUD: Tensor
    """(B, U, D) fields of the user and of the context."""
    item_BID: Tensor
    """(B, I, D) fields of the item."""
    cross_BXD: Tensor
    """(B, X, D) user prefix x item prefix."""
    dense_BN: Tensor
    """(B, N) standardised numbers, history length, match counts and cosines."""
    target_BE: Tensor
    """(B, E) the item as the attention compares it."""
    history_PE: Tensor
    """(P, E) the histories, likewise, one after the other."""
    same_PL: Tensor
    """(P, L) 1 where an item of the history has the target's prefix of length l + 1."""
    places: Places
    """Whose elements these are."""


class FeatureEmbedding(nn.Module):
    """Rows to `Inputs`. A part exists only where its switch and its data do."""

    num_user_fields: int
    """U."""
    num_item_fields: int
    """I."""
    num_cross_fields: int
    """X."""
    num_dense: int
    """N."""
    history_dim: int
    """E; 0 = nothing to attend to."""
    num_levels: int
    """L of `same_PL`; 0 = prefixes are not matched."""

    def __init__(
        self, config: FeatureConfig, schema: FeatureSchema, tables: FeatureTables, dim: int
    ) -> None:
        """Make the embeddings.

        Args:
            config: which features.
            schema: their vocabularies.
            tables: kept as (unsaved) lookup buffers.
            dim: D.
        """
        super().__init__()
        self.hash_size, self.max_history = config.hash_size, config.max_history
        self.user = SideEmbedding("user", config, schema, tables.users, dim)
        self.item = SideEmbedding("item", config, schema, tables.items, dim)
        self.context = AttributeEmbedding("context", schema, dim)
        self.transfer = config.sid_transfer
        self.num_levels = len(schema.item_levels) if config.sid_match else 0
        levels = min(tables.users.hashes.shape[1], tables.items.hashes.shape[1])
        self.num_cross_fields = min(levels, config.sid_cross)
        self.cross = embedding_table(config.hash_size, dim) if self.num_cross_fields else None
        self.similar = config.sid_similarity and bool(schema.item_levels)
        self.shared_space = schema.shared_space
        self.num_user_fields = self.user.num_fields + self.context.num_fields
        self.num_item_fields = self.item.num_fields
        sides = (self.user.attributes, self.item.attributes, self.context)
        self.num_dense = (
            1
            + 2 * self.num_levels
            + self.similar * (1 + schema.shared_space)
            + sum(side.num_numbers for side in sides)
        )
        self.history_dim = self.item.sequence_dim
        self.static_shapes = False
        """Let no shape depend on values, as export needs it: padding is computed too, and an item
        that is in many histories of the batch is embedded many times."""

    def forward(self, batch: Batch) -> Inputs:
        """Look up and embed."""
        item_P, places = lay_out(batch.history_BT, padded=self.static_shapes)
        keys_IL = self.item.rows.keys[:, : self.num_levels]
        same_PL = (keys_IL[item_P] == keys_IL[batch.item_B][places.row_P]).float()
        target_BE, history_PE = self._sequence(batch.item_B, item_P)
        return Inputs(
            self._user(batch),
            self.item(batch.item_B, batch.item_B),
            self._crosses(batch.user_sid_B, batch.item_B),
            self._dense(batch, item_P, same_PL, places),
            target_BE,
            history_PE,
            same_PL,
            places,
        )

    def auxiliary_loss(self, batch: Batch) -> Tensor:
        """Scalar to add to the training loss; 0 where no feature needs one."""
        return self.transfer * self.item.transfer_loss(batch.item_B)

    def _user(self, batch: Batch) -> Tensor:
        context = self.context.of_context(batch.category_BC, batch.number_BC)
        return torch.cat([self.user(batch.user_B, batch.user_sid_B), *context], dim=1)

    def _sequence(self, item_B: Tensor, item_P: Tensor) -> tuple[Tensor, Tensor]:
        if self.static_shapes:
            return self.item.sequence(item_B), self.item.sequence(item_P)
        seen = torch.zeros(len(self.item.rows.id), dtype=torch.bool, device=item_B.device)
        seen[item_B] = True
        seen[item_P] = True
        distinct_N = seen.nonzero().squeeze(1)
        place = seen.cumsum(0) - 1
        embedded_NE = self.item.sequence(distinct_N)
        return F.embedding(place[item_B], embedded_NE), F.embedding(place[item_P], embedded_NE)

    def _crosses(self, user_sid_B: Tensor, item_B: Tensor) -> Tensor:
        if self.cross is None:
            return self.item.rows.vectors.new_zeros(item_B.shape[0], 0, self.item.dim)
        rows = cross_rows(
            self.user.rows.hashes[user_sid_B, : self.num_cross_fields],
            self.item.rows.hashes[item_B, : self.num_cross_fields],
            self.hash_size,
        )
        embedded_BXD: Tensor = self.cross(rows)
        return embedded_BXD

    def _dense(self, batch: Batch, item_P: Tensor, same_PL: Tensor, places: Places) -> Tensor:
        scale = math.log1p(self.max_history)
        length_B1 = places.real_BT.sum(1, keepdim=True).float()
        count_BL = places.sum(same_PL)
        parts = [
            length_B1.log1p() / scale,
            count_BL.log1p() / scale,
            (count_BL > 0).float(),
            known(self.user.rows.numbers[batch.user_B]),
            known(self.item.rows.numbers[batch.item_B]),
            known(batch.number_BC),
        ]
        if self.similar:
            vector_BD = self.item.rows.vectors[batch.item_B]
            history_BD = places.sum(self.item.rows.vectors[item_P]) / length_B1.clamp(min=1)
            parts.append((vector_BD * history_BD).sum(1, keepdim=True))
            if self.shared_space:
                user_BD = self.user.rows.vectors[batch.user_sid_B]
                parts.append((vector_BD * user_BD).sum(1, keepdim=True))
        return torch.cat(parts, dim=1)
