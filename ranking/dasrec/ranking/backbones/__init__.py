"""Networks from embedded fields to a logit; one file each, chosen by `ModelConfig.backbone`."""

from dasrec.ranking.backbones.config import ModelConfig
from dasrec.ranking.backbones.dcnv2 import DcnV2
from dasrec.ranking.backbones.deepfm import DeepFm
from dasrec.ranking.backbones.dnn import Din, Dnn
from dasrec.ranking.backbones.fields import FieldSizes
from dasrec.ranking.backbones.finalmlp import FinalMlp

Backbone = DcnV2 | DeepFm | FinalMlp | Din | Dnn

BACKBONES: dict[str, type[Backbone]] = {
    "dcnv2": DcnV2,
    "deepfm": DeepFm,
    "finalmlp": FinalMlp,
    "din": Din,
    "dnn": Dnn,
}

__all__ = ["BACKBONES", "Backbone", "FieldSizes", "ModelConfig"]
