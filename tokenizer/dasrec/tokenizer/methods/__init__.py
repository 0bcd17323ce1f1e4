"""The tokenizer methods: one file each, one table."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from dasrec.tokenizer.methods.das import Das, DasConfig, das_sides
from dasrec.tokenizer.methods.imported import Imported, ImportedConfig, imported_sides
from dasrec.tokenizer.methods.letter import Letter, LetterConfig, letter_sides
from dasrec.tokenizer.methods.mme_sid import MmeSid, MmeSidConfig, mme_sid_sides
from dasrec.tokenizer.methods.plum import Plum, PlumConfig, plum_sides
from dasrec.tokenizer.methods.q_bert4rec import QBert4Rec, QBert4RecConfig, q_bert4rec_sides
from dasrec.tokenizer.methods.random_ids import Random, RandomConfig, random_sides
from dasrec.tokenizer.methods.res_kmeans import ResKmeans, ResKmeansConfig, res_kmeans_sides
from dasrec.tokenizer.methods.rq_opq import RqOpq, RqOpqConfig, rq_opq_sides
from dasrec.tokenizer.methods.tiger import Tiger, TigerConfig, tiger_sides
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes

TokenizerConfig = Annotated[
    DasConfig
    | TigerConfig
    | MmeSidConfig
    | PlumConfig
    | QBert4RecConfig
    | LetterConfig
    | ResKmeansConfig
    | RqOpqConfig
    | RandomConfig
    | ImportedConfig,
    Field(discriminator="method"),
]
"""The config of any method, told apart by its key `method`."""


class Method(NamedTuple):
    """How to build a method from its config."""

    config: type[Any]
    sides: Callable[[Any, Sizes], Sides]
    """Content -> SIDs, untrained."""
    objective: Callable[[Any, Sides, Data], Objective]
    """What trains the sides."""


METHODS = {
    "das": Method(DasConfig, das_sides, Das),
    "mme_sid": Method(MmeSidConfig, mme_sid_sides, MmeSid),
    "plum": Method(PlumConfig, plum_sides, Plum),
    "q_bert4rec": Method(QBert4RecConfig, q_bert4rec_sides, QBert4Rec),
    "tiger": Method(TigerConfig, tiger_sides, Tiger),
    "letter": Method(LetterConfig, letter_sides, Letter),
    "res_kmeans": Method(ResKmeansConfig, res_kmeans_sides, ResKmeans),
    "rq_opq": Method(RqOpqConfig, rq_opq_sides, RqOpq),
    "random": Method(RandomConfig, random_sides, Random),
    "imported": Method(ImportedConfig, imported_sides, Imported),
}
