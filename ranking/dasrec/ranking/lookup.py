"""The static tables of a side on the model's device."""

from torch import Tensor, nn

from dasrec.ranking.tables import SideTables


class LookupBuffers(nn.Module):
    """`SideTables` as buffers: they follow the model to its device and are not saved with it."""

    id: Tensor
    popularity: Tensor
    categories: Tensor
    numbers: Tensor
    sequences: Tensor
    dense: Tensor
    levels: Tensor
    prefixes: Tensor
    bigrams: Tensor
    hashes: Tensor
    keys: Tensor
    vectors: Tensor

    def __init__(self, tables: SideTables) -> None:
        """Register the tables."""
        super().__init__()
        for name, values in tables._asdict().items():
            self.register_buffer(name, values, persistent=False)
