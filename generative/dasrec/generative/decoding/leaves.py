"""From the leaves a search found to their items.

Shape letters: B users, W leaves of a user, k items asked for, Q ranges of places per leaf, M places
per leaf and range (padded), N places of a user (padded).
"""

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.candidates import NEVER, Frontier
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.index import SidIndex


def expand_leaves(
    index: SidIndex, filter_: ItemFilter, leaves: Frontier, num_items_B: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, k) items and scores of the best leaves: by score, then SID, then order of places.

    Args:
        index: The catalogue.
        filter_: What each user may get.
        leaves: Nodes of the last level, best first; each has an item that its user may get.
        num_items_B: k of each user; the rest of a row is -1.
    """
    most = int(num_items_B.max())
    score_BW = leaves.score[:, :most]  # the first k leaves have at least k items
    place_BN, real_BN = _places(index, leaves.node[:, :most])
    score_BN = score_BW.repeat_interleave(place_BN.shape[1] // score_BW.shape[1], 1)
    real_BN = real_BN & (score_BN > NEVER)
    if not filter_.is_trivial:
        real_BN = real_BN & filter_.item_alive(place_BN)
    first_Bk = (~real_BN).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    wanted_Bk = torch.arange(first_Bk.shape[1]) < num_items_B.unsqueeze(1)
    real_Bk = real_BN.gather(1, first_Bk) & wanted_Bk.to(real_BN.device)
    item_Bk = index.item_of_place[place_BN.gather(1, first_Bk)].long().masked_fill_(~real_Bk, -1)
    score_Bk = score_BN.gather(1, first_Bk).masked_fill_(~real_Bk, NEVER)
    missing = (0, most - item_Bk.shape[1])
    return (
        nn.functional.pad(item_Bk, missing, value=-1),
        nn.functional.pad(score_Bk, missing, value=NEVER),
    )


def _places(index: SidIndex, node_BW: Tensor) -> tuple[Tensor, Tensor]:
    """(B, W Q M) places of the leaves' items, leaf after leaf, and which of them are real."""
    ranges = index.place_ranges(index.num_levels - 1, node_BW)
    low_BWQ1 = torch.stack([low for low, _ in ranges], -1).unsqueeze(-1)
    high_BWQ1 = torch.stack([high for _, high in ranges], -1).unsqueeze(-1)
    most = max(1, int((high_BWQ1 - low_BWQ1).max()))
    place_BWQM = low_BWQ1 + torch.arange(most, device=node_BW.device)
    real_BN = (place_BWQM < high_BWQ1).flatten(1)
    return place_BWQM.flatten(1).clamp_(max=index.num_places - 1), real_BN
