"""The CTR model as one graph of tensors: lookup tables, network and calibration.

Shape letters: B batch, T history length, C columns of the context, K knots.
"""

import copy

import torch
from torch import Tensor, nn

from dasrec.ranking.calibration import LEAST, Calibration
from dasrec.ranking.features import FeatureSchema
from dasrec.ranking.model import CtrModel
from dasrec.ranking.rows import Batch


class CtrGraph(nn.Module):
    """(logit, probability) from indices; all shapes follow from the inputs' shapes."""

    user_sid_U: Tensor

    def __init__(self, model: CtrModel, calibration: Calibration, user_sid_U: Tensor) -> None:
        """Wrap a copy of a model, on the CPU.

        Args:
            model: trained.
            calibration: of its logits.
            user_sid_U: (U + 1,) row of each user's semantic ID, the newest.
        """
        super().__init__()
        self.register_buffer("user_sid_U", user_sid_U.cpu(), persistent=False)
        self.model = copy.deepcopy(model).cpu().eval()
        self.model.embedding.static_shapes = True
        for module in self.model.modules():
            for name, values in module.named_buffers(recurse=False):
                setattr(module, name, values.clone())  # saving a view would save what it is of
        self.calibrate = CalibrationGraph(calibration)
        self.context = context_inputs(model.schema)

    def forward(
        self, user_B: Tensor, item_B: Tensor, history_BT: Tensor, *context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score rows.

        Args:
            user_B: (B,) row of the users, U for an unknown one.
            item_B: (B,) 1 + row of the items, 0 for an unknown one.
            history_BT: (B, T) likewise, oldest first, 0 on the left.
            context: `category` and `number`, those that the model has.
        """
        given = dict(zip(self.context, context, strict=True))
        none_B0 = user_B.new_zeros((user_B.shape[0], 0))
        category_BC = given.get("category", none_B0)
        number_BC = given.get("number", none_B0.float())
        batch = Batch(user_B, item_B, history_BT, category_BC, number_BC, self.user_sid_U[user_B])
        logit_B = self.model(batch)
        return logit_B, self.calibrate(logit_B)


class CalibrationGraph(nn.Module):
    """`Calibration` in tensors."""

    knot_K: Tensor
    rise_K: Tensor

    def __init__(self, calibration: Calibration) -> None:
        """Take over its numbers."""
        super().__init__()
        self.slope, self.intercept = calibration.slope, calibration.intercept
        knots = torch.tensor(calibration.logits, dtype=torch.float64)
        levels = torch.tensor(calibration.probabilities, dtype=torch.float64)
        self.first = float(levels[0]) if len(levels) else None
        self.register_buffer("knot_K", knots.float(), persistent=False)
        self.register_buffer("rise_K", (levels.diff() / knots.diff()).float(), persistent=False)

    def forward(self, logit_B: Tensor) -> Tensor:
        """(B,) probabilities."""
        if self.first is None:
            return torch.sigmoid(self.slope * logit_B + self.intercept).clamp(LEAST, 1 - LEAST)
        # Piecewise linear without a search: how far the logit is into each interval, times its rise
        width_K = self.knot_K.diff()
        inside_BK = (logit_B[:, None] - self.knot_K[:-1]).clamp(min=0).minimum(width_K)
        return (self.first + (inside_BK * self.rise_K).sum(1)).clamp(LEAST, 1 - LEAST)


def context_inputs(schema: FeatureSchema) -> tuple[str, ...]:
    """Which context tensors a model of this schema takes."""
    found = {"category": schema.categories("context"), "number": schema.numbers("context")}
    return tuple(name for name, fields in found.items() if fields)
