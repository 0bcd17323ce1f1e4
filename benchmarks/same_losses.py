"""Whether benchmarks/plain_das.py computes what `Das` computes."""

from typing import Any

import numpy as np
import torch
from benchmarks import plain_das

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import DasConfig
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.methods.das import Das
from dasrec.tokenizer.objective import Step
from dasrec.tokenizer.pairs import Batch
from dasrec.tokenizer.train import build_objective

World = tuple[Corpus, Embeddings]


def build(config: DasConfig, world: World) -> Das:
    """Untrained DAS, always with the same weights."""
    torch.manual_seed(0)
    das = build_objective(config, *world)
    assert isinstance(das, Das)
    return das.train()


def same_losses(world: World) -> tuple[bool, dict[str, float]]:
    """Whether both steps give one value of every loss term on one batch (Sinkhorn off).

    Ours is a mean over distinct rows, the peer's over clicks: the batch is made of clicks with
    all users and all items distinct, each with another one of the batch as its partner.
    """
    das = build(DasConfig(), world)
    assert das.sampler is not None
    rng = np.random.default_rng(0)
    order = rng.permutation(len(das.sampler.user_N))
    user, item = das.sampler.user_N[order], das.sampler.item_N[order]
    rows = np.intersect1d(_firsts(user), _firsts(item))[:256]
    users, items = user[rows], item[rows]
    by_user, by_item = np.argsort(users), np.argsort(items)
    place_u, place_i = np.argsort(by_user), np.argsort(by_item)
    users_sorted, items_sorted = users[by_user], items[by_item]
    clicked = das.sampler._clicked(users_sorted, items_sorted)
    every = np.arange(len(rows))
    partner = np.stack([every, np.roll(every, 1)])
    batch = Batch(users_sorted, items_sorted, place_u, place_i, clicked, partner, partner)
    clicks = Clicks.of(batch)
    ours = das.losses((clicks.items, clicks.users, clicks), Step("main", 0.5, True))
    other_users = users_sorted[np.roll(every, 1)][place_u]
    other_items = items_sorted[np.roll(every, 1)][place_i]
    ids = [torch.from_numpy(column) for column in (users, items, other_users, other_items)]
    x_users, x_items = das.data.users_UX, das.data.items_IX
    vectors = x_users[ids[0]], x_items[ids[1]], x_users[ids[2]], x_items[ids[3]]
    theirs = plain_das.losses(das, plain_das.click_matrix(das), (*ids, *vectors))
    if set(ours) != set(theirs):
        raise AssertionError(f"terms differ: {set(ours) ^ set(theirs)}")
    off = {name: abs(theirs[name].item() / ours[name].item() - 1) for name in ours}
    return max(off.values()) < 1e-4, {"largest_relative_difference": max(off.values())}


def _firsts(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.unique(values, return_index=True)[1]
