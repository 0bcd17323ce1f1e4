"""DAS: two residual-quantized autoencoders, a CF debias model and the alignment between them.

arXiv 2508.10584; das-method 1. L = L_Sem + alpha L_CF + beta L_Align, trained in one stage; the
paper's two-stage rivals (its Fig. 2) differ in `schedule` alone.
"""

import math
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from dasrec.core import StageConfig
from dasrec.tokenizer import alignment
from dasrec.tokenizer.autoencoder import rq_vae
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.config import AutoencoderConfig, Count, Fraction, Positive, Size, Weight
from dasrec.tokenizer.icdm import Factors, Icdm, IcdmConfig
from dasrec.tokenizer.objective import Data, Objective, Phase, Sides, Sizes, Step, semantic_losses
from dasrec.tokenizer.pairs import PairSampler
from dasrec.tokenizer.projector import Projector
from dasrec.tokenizer.statistics import popularity_statistics

MAX_SCALE = 100.0  # of a learned temperature, as CLIP bounds it


class AlignmentConfig(StageConfig):
    """Multi-view dual alignment (MDAM). A family with weight 0 is not computed."""

    u2i: Weight = 1.0
    """z_u ~ CF vector of a clicked item, z_i ~ CF vector of a clicking user."""
    same: Weight = 1.0
    """u2u and i2i: z_u ~ CF vector of the same user, z_i ~ CF vector of the same item."""
    cooccur: Weight = 1.0
    """z_u ~ z of a user who clicked the same item, z_i ~ z of an item clicked by the same user."""
    tau: Positive = 0.1
    """Temperature of the six losses (cosine scores)."""
    learn_tau: bool = False
    """Learn the temperature, one for each family, from `tau` on (at least 0.01)."""
    cf_stopgrad: bool = False
    """Cut the gradient from the alignment into the CF model: LETTER's frozen teacher in one
    stage."""
    window: Size = 10
    """A co-occurring item lies within this many positions in the user's training sequence."""
    damping: Fraction = 0.5
    """Exponent by which co-occurring pairs of popular items are thinned out; 0 keeps them all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.learn_tau and self.tau < 1 / MAX_SCALE:
            raise ValueError(f"tau: at least {1 / MAX_SCALE} with learn_tau, got {self.tau}")
        return self


class DasConfig(AutoencoderConfig):
    """DAS: L = L_Sem + alpha L_CF + beta L_Align (arXiv 2508.10584)."""

    method: Literal["das"] = "das"
    """This method."""
    user_side: bool = True
    """Tokenize users. Without it only the item half of the alignment is left."""
    item_side: bool = True
    """Align items. Without it item SIDs come from content alone, and only the user half of the
    alignment is left."""
    epochs: Size = 20
    """Passes over the training interactions (over users and items where alpha = beta = 0)."""
    alpha: Weight = 1.0
    """Weight of L_CF."""
    beta: Weight = 0.5
    """Weight of L_Align."""
    beta_warmup: Fraction = 0.05
    """Share of the steps over which beta rises from 0: CF vectors are noise at the start."""
    icdm: IcdmConfig = IcdmConfig()
    """The CF debias model."""
    alignment: AlignmentConfig = AlignmentConfig()
    """The six alignment losses."""
    schedule: Literal["one_stage", "cf_first", "align_first"] = "one_stage"
    """`cf_first` trains the CF model, freezes it, then quantizes and aligns (as LETTER does);
    `align_first` trains a contrastive projection of the content, freezes it, then quantizes its
    output (as QARM does; alpha and beta are not used)."""
    first_epochs: Count = 0
    """Epochs of the first of two stages."""

    @property
    def id_learning_rate(self) -> float:
        """That of the ID embeddings."""
        return self.icdm.learning_rate

    @property
    def aligns(self) -> bool:
        """Whether L_Align is computed."""
        return self.beta > 0 and self.schedule != "align_first"

    @property
    def uses_icdm(self) -> bool:
        """Whether a CF model is built."""
        if self.schedule == "align_first":
            return False
        families = self.alignment.u2i + self.alignment.same
        return self.alpha > 0 or (self.aligns and families > 0)

    @property
    def uses_pairs(self) -> bool:
        """Whether the codebooks' phase goes over click pairs rather than over content rows."""
        return self.uses_icdm or self.aligns

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if (self.schedule == "one_stage") != (self.first_epochs == 0):
            raise ValueError(
                f"first_epochs: the schedule '{self.schedule}' needs "
                f"{'0' if self.schedule == 'one_stage' else 'at least 1'}, got {self.first_epochs}"
            )
        if self.schedule == "cf_first" and self.alpha == 0:
            raise ValueError(
                "alpha: the schedule 'cf_first' trains the CF model by L_CF, whose weight must be "
                "above 0, got 0"
            )
        if not (self.user_side or self.item_side):
            raise ValueError("user_side and item_side are both false: nothing would be aligned")
        return self


def das_sides(config: DasConfig, sizes: Sizes) -> Sides:
    """One RQ-VAE per side."""
    front_items = front_users = None
    if config.schedule == "align_first":
        projector = Projector(sizes.item_widths, sizes.users)
        front_items, front_users = projector.items, projector.users
    items = rq_vae(config, sizes.item_widths, front_items)
    users = rq_vae(config, (sizes.users,), front_users) if config.user_side else None
    return Sides(items, users)


class Das(Objective):
    """The sides, the CF model, and the terms of the loss."""

    def __init__(self, config: DasConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config
        self.sampler = self.icdm = self.projector = None
        if config.uses_pairs or config.schedule != "one_stage":
            window, damping = config.alignment.window, config.alignment.damping
            self.sampler = PairSampler(data.corpus, window, damping)
        if config.uses_icdm:
            statistics = popularity_statistics(data.corpus)
            self.icdm = Icdm(config.icdm, statistics, config.code_dim)
        if config.schedule == "align_first":
            self.projector = Projector(data.sizes.item_widths, data.sizes.users)
            sides.items.front = self.projector.items
            if sides.users is not None:
                sides.users.front = self.projector.users
        families = ("u2i", "same", "cooccur")
        start = -math.log(config.alignment.tau)
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(start)) for name in families}
            if config.alignment.learn_tau
            else {}
        )

    @property
    def phases(self) -> list[Phase]:
        """One, or the first stage and the one that quantizes."""
        config = self.config
        main = Phase("main", config.epochs, config.num_continuous)
        if config.schedule == "one_stage":
            return [main]
        return [Phase(config.schedule, config.first_epochs, None), main]

    def num_steps(self, phase: str) -> int:
        """Batches of an epoch."""
        if phase == "main" and not self.config.uses_pairs:
            return super().num_steps(phase)
        assert self.sampler is not None
        return self.sampler.num_batches(self.config.batch_size)

    def batches(
        self, phase: str, rng: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Clicks | None]]:
        """(items, users, clicks) of each step; items and users as row numbers."""
        size, device = self.config.batch_size, self.data.items_IX.device
        if phase == "main" and not self.config.uses_pairs:
            for items, users in self.content_batches(size, rng):
                yield items, users, None
            return
        assert self.sampler is not None
        for batch in self.sampler.batches(self.sampler.epoch(rng), size, rng):
            clicks = Clicks.of(batch, device)
            yield clicks.items, clicks.users, clicks

    def losses(self, batch: tuple[Tensor, Tensor, Clicks | None], step: Step) -> dict[str, Tensor]:
        """Named losses, each with its weight."""
        items, users, clicks = batch
        if step.phase == "cf_first":
            assert clicks is not None
            return self._cf_losses(*self._factors(clicks), clicks)
        x_items, x_users = self.data.items_IX[items], self.data.users_UX[users]
        if step.phase == "align_first":
            assert clicks is not None
            assert self.projector is not None
            losses: dict[str, Tensor] = self.projector(x_items, x_users, clicks)
            return losses
        z_items, losses = self._semantic("item", x_items, step.quantize, None)
        z_users = None
        if self.sides.users is not None:
            known = None if clicks is None else clicks.num_users
            z_users, user_losses = self._semantic("user", x_users, step.quantize, known)
            losses |= user_losses
        if clicks is not None:
            losses |= self._collaborative(z_items, z_users, clicks, step.progress)
        return losses

    def _semantic(
        self, name: str, x: Tensor, quantize: bool, decoded: int | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        side = self.sides.items if name == "item" else self.sides.users
        assert side is not None
        z, losses = side(x, quantize=quantize, decoded=decoded)
        return z, semantic_losses(name, losses, self.config.commitment, self.config.entropy)

    def _factors(self, clicks: Clicks) -> tuple[Factors, Factors]:
        assert self.icdm is not None
        users = self.icdm.users(clicks.users[: clicks.num_users])
        return users, self.icdm.items(clicks.items)

    def _cf_losses(self, user: Factors, item: Factors, clicks: Clicks) -> dict[str, Tensor]:
        assert self.icdm is not None
        losses = self.icdm.losses(user, item, clicks)
        return {f"cf/{name}": self.config.alpha * loss for name, loss in losses.items()}

    def _collaborative(
        self, z_items: Tensor, z_users: Tensor | None, clicks: Clicks, progress: float
    ) -> dict[str, Tensor]:
        config, losses = self.config, dict[str, Tensor]()
        cf_users = cf_items = None
        if self.icdm is not None:
            user, item = self._factors(clicks)
            cf_users, cf_items = self.icdm.target(user), self.icdm.target(item)
            if config.alpha > 0 and config.schedule == "one_stage":
                losses |= self._cf_losses(user, item, clicks)
            if config.alignment.cf_stopgrad or config.schedule == "cf_first":
                cf_users, cf_items = cf_users.detach(), cf_items.detach()
        beta = config.beta
        if config.beta_warmup > 0 and config.schedule == "one_stage":
            beta *= min(1.0, progress / config.beta_warmup)
        if beta > 0:
            if config.item_side:
                losses |= self._align("item", z_items, cf_items, cf_users, clicks, beta)
            if z_users is not None:
                losses |= self._align("user", z_users, cf_users, cf_items, clicks, beta)
        return losses

    def _align(
        self,
        name: str,
        z: Tensor,
        cf_own: Tensor | None,
        cf_other: Tensor | None,
        clicks: Clicks,
        beta: float,
    ) -> dict[str, Tensor]:
        """One side's half of the six losses."""
        config, losses = self.config.alignment, dict[str, Tensor]()
        view = clicks.side(name)
        clicked = z[: len(view.negatives)]
        if config.u2i > 0 and cf_other is not None:
            losses["u2i"] = config.u2i * alignment.user_to_item(
                clicked, cf_other, view.negatives, view.own_B, view.other_B, self._scale("u2i")
            )
        if config.same > 0 and cf_own is not None:
            losses["same"] = config.same * alignment.same_id(clicked, cf_own, self._scale("same"))
        if config.cooccur > 0:
            scale = self._scale("cooccur")
            losses["cooccur"] = config.cooccur * alignment.cooccurrence(z, view.pairs, scale)
        return {f"align/{family}_{name}": beta * loss for family, loss in losses.items()}

    def _scale(self, family: str) -> Tensor | float:
        if family in self.log_scales:
            scale: Tensor = self.log_scales[family].exp().clamp(max=MAX_SCALE)
            return scale
        return 1 / float(self.config.alignment.tau)
