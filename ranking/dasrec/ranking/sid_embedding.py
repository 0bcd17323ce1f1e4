"""Embeddings of semantic IDs, and the gate between them and ids.

Shape letters: B rows of any shape, F fields, D embedding width, L levels.
"""

import torch
from torch import Tensor, nn

from dasrec.ranking.attributes import DenseEmbedding, embedding_table
from dasrec.ranking.features import FeatureConfig
from dasrec.ranking.lookup import LookupBuffers


class SidEmbedding(nn.Module):
    """Fields of one side's semantic IDs: levels, prefixes, bigrams and the vector itself."""

    def __init__(
        self, config: FeatureConfig, level_sizes: tuple[int, ...], vector_dim: int, dim: int
    ) -> None:
        """Make the tables that the config asks for; none without levels."""
        super().__init__()
        size, has = config.hash_size, bool(level_sizes)

        def table(rows: int, on: bool) -> nn.Embedding | None:
            return embedding_table(rows, dim) if on else None

        self.levels = table(sum(level_sizes) + 1, has and config.sid_levels)
        self.prefixes = table(size, has and config.sid_prefixes)
        self.bigrams = table(size, len(level_sizes) > 1 and config.sid_bigrams)
        self.vector = DenseEmbedding([vector_dim], dim) if has and config.sid_vector else None
        hashed = (self.prefixes, self.bigrams)
        self.has_codes = self.levels is not None or any(one is not None for one in hashed)
        self.num_fields = (
            (self.levels is not None) * len(level_sizes)
            + sum(one is not None for one in hashed)
            + (self.vector is not None)
        )

    def fields(self, rows: LookupBuffers, index_B: Tensor) -> list[Tensor]:
        """(B, ..., D) tensors whose fields are num_fields in all."""
        found = [] if self.levels is None else [self.levels(rows.levels[index_B])]
        for table, hashed in ((self.prefixes, rows.prefixes), (self.bigrams, rows.bigrams)):
            if table is not None:
                found.append(table(hashed[index_B]).sum(-2, keepdim=True))
        if self.vector is not None:
            found.append(self.vector(rows.vectors[index_B]))
        return found

    def summed(self, rows: LookupBuffers, index_B: Tensor) -> Tensor:
        """(B, D) sum of the embeddings of codes, for the history."""
        tables = (
            (self.levels, rows.levels),
            (self.prefixes, rows.prefixes),
            (self.bigrams, rows.bigrams),
        )
        found = [table(row[index_B]).sum(-2) for table, row in tables if table is not None]
        return torch.stack(found).sum(0)


class SidGate(nn.Module):
    """e = g e_id + (1 - g) e_sid with g = sigmoid(MLP([e_sid; sg e_id; popularity; known])).

    COINS (arXiv 2510.12604) as reconstructed in its figure: cold items lean on what their codes
    learned from others. e_sid = MLP of all SID fields; the id enters the gate without gradient.
    """

    def __init__(self, num_fields: int, dim: int) -> None:
        """Make both networks.

        Args:
            num_fields: F SID fields.
            dim: D.
        """
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Linear(num_fields * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )
        self.gate = nn.Sequential(nn.Linear(2 * dim + 2, dim), nn.ReLU(), nn.Linear(dim, 1))

    def sid(self, fields_BFD: Tensor) -> Tensor:
        """(B, D) e_sid."""
        fused_BD: Tensor = self.fuse(fields_BFD.flatten(-2))
        return fused_BD

    def forward(
        self, id_BD: Tensor, fields_BFD: Tensor, popularity_B: Tensor, known_B: Tensor
    ) -> Tensor:
        """(B, D) e.

        Args:
            id_BD: (B, D) e_id.
            fields_BFD: (B, F, D) fields of the semantic ID.
            popularity_B: (B,) 0 to 1.
            known_B: (B,) whether the item has an id embedding of its own.
        """
        sid_BD = self.sid(fields_BFD)
        evidence_B2 = torch.stack([popularity_B, known_B.float()], dim=-1)
        share_B1 = self.gate(torch.cat([sid_BD, id_BD.detach(), evidence_B2], dim=-1)).sigmoid()
        mixed_BD: Tensor = share_B1 * id_BD + (1 - share_B1) * sid_BD
        return mixed_BD

    def transfer_loss(self, id_BD: Tensor, fields_BFD: Tensor, popularity_B: Tensor) -> Tensor:
        """Mean over B of popularity * mean_D (e_sid - sg e_id)^2: popular items teach."""
        apart_B = (self.sid(fields_BFD) - id_BD.detach()).square().mean(-1)
        loss: Tensor = (popularity_B * apart_B).mean()
        return loss
