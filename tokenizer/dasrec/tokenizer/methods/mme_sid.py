"""MME-SID's tokenizer: an RQ-VAE for each modality, tied by MMD (arXiv 2509.02017; das-method 5.6).

The paper's modalities are the ID embeddings of a trained sequential recommender, text and image;
here the first are the vectors of the `cooccurrence` encoder. Its generator reads the codes of all
modalities; ours reads one SID that holds them all.

Shape letters: B rows of a step, X input width of one modality, D code dimension.
"""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from dasrec.core.processes import share
from dasrec.tokenizer.autoencoder import Autoencoder, rq_vae
from dasrec.tokenizer.config import AutoencoderConfig, Levels, Size, Weight
from dasrec.tokenizer.joint import JointSide
from dasrec.tokenizer.mmd import mmd
from dasrec.tokenizer.modal import check_several
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes, Step, semantic_losses
from dasrec.tokenizer.parallel import gather


class MmeSidConfig(AutoencoderConfig):
    """One RQ-VAE for each of `modalities`; name the collaborative one first."""

    method: Literal["mme_sid"] = "mme_sid"
    """This method."""
    level_sizes: Levels = (256, 256, 256, 256)
    """Codebook sizes of each modality: a SID has as many levels times the modalities."""
    reconstruction: Literal["mmd", "mse"] = "mmd"
    """What is decoded has the distribution of the batch (`mmd`, the paper's), or each row is close
    to its own (`mse`, its ablation). `mmd` asks nothing of single rows: expect a reconstruction
    error above 1, that of predicting 0."""
    reconstruction_weight: Weight = 3.0
    """Weight of the reconstruction losses."""
    alignment: Weight = 0.01
    """Weight of the MMD between the quantized embeddings of the first modality and each other."""
    sinkhorn: Literal["none", "last", "all"] = "last"
    """Levels whose training assignments are balanced over the batch."""
    epochs: Size = 200
    """Passes over the items."""


def mme_sid_sides(config: MmeSidConfig, sizes: Sizes) -> Sides:
    """Items only.

    Raises:
        ValueError: fewer than two modalities.
    """
    check_several(config.method, sizes)
    return Sides(JointSide([rq_vae(config, (width,)) for width in sizes.item_widths]))


class MmeSid(Objective):
    """L = sum_m (3 MMD(x^_m, x_m) + L_quantizer_m) + 0.01 sum_{m > 1} MMD(z_1, z_m)."""

    def __init__(self, config: MmeSidConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config, self.names = config, list(data.sizes.items)

    def autoencoders(self) -> Iterator[tuple[str, Autoencoder, Tensor]]:
        """That of each modality with its columns of the catalogue."""
        blocks = self.sides.items.blocks(self.data.items_IX)
        for name, (part, x_IX) in zip(self.names, blocks, strict=True):
            yield f"item/{name}", part, x_IX

    def losses(self, batch: tuple[Tensor, ...], step: Step) -> dict[str, Tensor]:
        """Of each modality, and between them."""
        config = self.config
        quantized: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        blocks = self.sides.items.blocks(self.data.items_IX[batch[0]])
        for name, (part, x_BX) in zip(self.names, blocks, strict=True):
            z_BD, own = self._one(part, x_BX, step.quantize)
            own["recon"] = config.reconstruction_weight * own["recon"]
            quantized.append(z_BD)
            losses |= semantic_losses(f"item/{name}", own, config.commitment, config.entropy)
        for name, z_BD in zip(self.names[1:], quantized[1:], strict=True):
            losses[f"align/{self.names[0]}_{name}"] = config.alignment * mmd(quantized[0], z_BD)
        return losses

    def _one(
        self, part: Autoencoder, x_BX: Tensor, quantize: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """z and the losses of one modality."""
        if self.config.reconstruction == "mse":
            result: tuple[Tensor, dict[str, Tensor]] = part(x_BX, quantize=quantize)
            return result
        target_BX = part.target(x_BX)
        z_BD, losses = gather(part.encoder(share(target_BX)), len(x_BX)), dict[str, Tensor]()
        if quantize:
            _, z_BD, losses = part.quantizer(z_BD)
        decoded_BX = gather(part.decoder(share(z_BD)), len(x_BX))
        return z_BD, losses | {"recon": mmd(decoded_BX, target_BX)}
