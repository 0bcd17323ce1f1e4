"""DAS: two residual-quantized autoencoders, a CF debias model and the alignment between them.

Shape letters: B click pairs, D code dimension, X input width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dasrec.tokenizer import alignment
from dasrec.tokenizer.autoencoder import Autoencoder
from dasrec.tokenizer.config import TokenizerConfig
from dasrec.tokenizer.icdm import Factors, Icdm
from dasrec.tokenizer.pairs import Batch
from dasrec.tokenizer.statistics import PopularityStatistics


@dataclass(frozen=True)
class Clicks:
    """A `Batch` as tensors."""

    users: Tensor
    items: Tensor
    click_users_B: Tensor
    click_items_B: Tensor
    clicked_BB: Tensor
    user_pairs: Tensor
    item_pairs: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "Clicks":
        """Convert without copying."""
        return cls(*(torch.from_numpy(column) for column in batch))


class Das(nn.Module):
    """L = L_Sem + alpha L_CF + beta L_Align."""

    def __init__(
        self,
        config: TokenizerConfig,
        item_dim: int,
        user_dim: int,
        statistics: PopularityStatistics | None,
    ) -> None:
        """Build the parts that `config` asks for.

        Args:
            config: the tokenizer's configuration.
            item_dim: width of the item embeddings.
            user_dim: width of the user embeddings.
            statistics: of the training interactions; needed where `config.uses_icdm`.
        """
        super().__init__()
        self.config = config
        shape = (config.hidden, config.level_sizes, config.code_dim)
        self.items = Autoencoder(item_dim, *shape)
        self.users = Autoencoder(user_dim, *shape) if config.user_side else None
        self.icdm = None
        if config.uses_icdm:
            assert statistics is not None
            self.icdm = Icdm(config.icdm, statistics, config.code_dim)

    def forward(
        self,
        x_items: Tensor,
        x_users: Tensor,
        clicks: Clicks | None,
        *,
        quantize: bool = True,
        beta: float | None = None,
    ) -> dict[str, Tensor]:
        """Named losses, each with its weight, and their sum "total".

        Args:
            x_items: (items, X) semantic embeddings of the batch's distinct items.
            x_users: (users, X) the same for users; unused without a user side.
            clicks: the click pairs among them; None where alpha = beta = 0.
            quantize: false in the first epochs, before there are codebooks.
            beta: weight of L_Align at this step, default the configured one.
        """
        z_items, losses = self._semantic("item", self.items, x_items, quantize)
        z_users = None
        if self.users is not None:
            z_users, user_losses = self._semantic("user", self.users, x_users, quantize)
            losses |= user_losses
        if clicks is not None:
            losses |= self._collaborative(
                z_items, z_users, clicks, self.config.beta if beta is None else beta
            )
        return losses | {"total": torch.stack(list(losses.values())).sum()}

    def _semantic(
        self, side: str, autoencoder: Autoencoder, x: Tensor, quantize: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weights = {"commitment": self.config.commitment, "entropy": self.config.entropy}
        z, losses = autoencoder(x, quantize=quantize, with_entropy=self.config.entropy > 0)
        return z, {f"{side}/{k}": weights.get(k, 1.0) * v for k, v in losses.items()}

    def _collaborative(
        self, z_items: Tensor, z_users: Tensor | None, clicks: Clicks, beta: float
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        cf_items = cf_users = None
        if self.icdm is not None:
            user, item = self.icdm.users(clicks.users), self.icdm.items(clicks.items)
            cf_users, cf_items = self.icdm.target(user), self.icdm.target(item)
            if self.config.alpha > 0:
                losses |= self._cf_losses(user, item, clicks)
        if beta > 0:
            aligned = self._align_losses(z_items, z_users, cf_items, cf_users, clicks)
            losses |= {f"align/{k}": beta * v for k, v in aligned.items()}
        return losses

    def _cf_losses(self, user: Factors, item: Factors, clicks: Clicks) -> dict[str, Tensor]:
        assert self.icdm is not None
        losses = self.icdm.losses(
            user,
            item,
            clicks.click_users_B,
            clicks.click_items_B,
            clicks.items[clicks.click_items_B],
            clicks.clicked_BB,
        )
        return {f"cf/{k}": self.config.alpha * v for k, v in losses.items()}

    def _align_losses(
        self,
        z_items: Tensor,
        z_users: Tensor | None,
        cf_items: Tensor | None,
        cf_users: Tensor | None,
        clicks: Clicks,
    ) -> dict[str, Tensor]:
        item_at, user_at = clicks.click_items_B, clicks.click_users_B
        losses = self._align_side(
            "item", z_items, cf_items, item_at, cf_users, user_at, clicks.clicked_BB.T,
            clicks.item_pairs,
        )  # fmt: skip
        if z_users is not None:
            losses |= self._align_side(
                "user", z_users, cf_users, user_at, cf_items, item_at, clicks.clicked_BB,
                clicks.user_pairs,
            )  # fmt: skip
        return losses

    def _align_side(
        self,
        side: str,
        z: Tensor,
        cf: Tensor | None,
        at_B: Tensor,
        cf_other: Tensor | None,
        other_at_B: Tensor,
        clicked_BB: Tensor,
        pairs_2P: Tensor,
    ) -> dict[str, Tensor]:
        config, losses = self.config.alignment, {}
        if config.u2i > 0 and cf_other is not None:
            losses[f"u2i_{side}"] = config.u2i * alignment.user_to_item(
                z[at_B], cf_other[other_at_B], clicked_BB, config.tau
            )
        if config.same > 0 and cf is not None:
            losses[f"same_{side}"] = config.same * alignment.same_id(z, cf, config.tau)
        if config.cooccur > 0:
            losses[f"cooccur_{side}"] = config.cooccur * alignment.cooccurrence(
                z, pairs_2P, config.tau
            )
        return losses
