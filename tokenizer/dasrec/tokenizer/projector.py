"""A contrastive projection of content, trained on clicks before anything is quantized.

The first stage of align-first systems (QARM, arXiv 2411.11739): embeddings of items that are
clicked together, and of users and the items they click, are brought near each other.
"""

from torch import Tensor, nn

from dasrec.tokenizer.alignment import cooccurrence, cosine_scores, pair_nce
from dasrec.tokenizer.autoencoder import mlp, unit
from dasrec.tokenizer.clicks import Clicks

HIDDEN, WIDTH = 256, 128
TAU = 0.1


class Projector(nn.Module):
    """An MLP for each side into one space of WIDTH dimensions."""

    def __init__(self, item_widths: tuple[int, ...], user_width: int) -> None:
        super().__init__()
        self.item_widths = item_widths
        self.items = mlp(sum(item_widths), HIDDEN, WIDTH)
        self.users = mlp(user_width, HIDDEN, WIDTH)

    def forward(self, x_items: Tensor, x_users: Tensor, clicks: Clicks) -> dict[str, Tensor]:
        """InfoNCE of clicks in both directions and of co-occurring items.

        Args:
            x_items: (items, X) embeddings of the batch's items.
            x_users: (users, X) of its users.
            clicks: the click pairs among them.
        """
        items = self.items(unit(x_items, self.item_widths))
        users = self.users(unit(x_users[: clicks.num_users], (x_users.shape[1],)))
        scores_UI = cosine_scores(users, items, 1 / TAU)
        user_B, item_B = clicks.click_users_B, clicks.click_items_B
        return {
            "project/user": pair_nce(scores_UI, clicks.negatives_UI, user_B, item_B),
            "project/item": pair_nce(scores_UI.T, clicks.negatives_IU, item_B, user_B),
            "project/cooccur": cooccurrence(items, clicks.item_pairs, 1 / TAU),
        }
