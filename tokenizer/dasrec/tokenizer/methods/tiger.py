"""TIGER's tokenizer: the plain RQ-VAE over item content (arXiv 2305.05065, section 3.1)."""

from typing import Literal

from torch import Tensor

from dasrec.tokenizer.autoencoder import rq_vae
from dasrec.tokenizer.config import AutoencoderConfig, Levels, Size
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes, Step, semantic_losses


class TigerConfig(AutoencoderConfig):
    """RQ-VAE: reconstruction, codebook and commitment loss, nothing else."""

    method: Literal["tiger"] = "tiger"
    """This method."""
    level_sizes: Levels = (256, 256, 256)
    """As published."""
    epochs: Size = 200
    """Passes over the items."""


def tiger_sides(config: TigerConfig, sizes: Sizes) -> Sides:
    """Items only."""
    return Sides(rq_vae(config, sizes.item_widths))


class Tiger(Objective):
    """L = ||x - x^||^2 + sum_l ||sg[r] - e||^2 + mu ||r - sg[e]||^2."""

    def __init__(self, config: TigerConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config

    def losses(self, batch: tuple[Tensor, ...], step: Step) -> dict[str, Tensor]:
        """The RQ-VAE's."""
        _, losses = self.sides.items(self.data.items_IX[batch[0]], quantize=step.quantize)
        return semantic_losses("item", losses, self.config.commitment, self.config.entropy)
