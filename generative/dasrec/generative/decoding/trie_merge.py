"""One trie of a trie and its additions, without sorting: new entries are put in their places."""

import numpy as np
import numpy.typing as npt

from dasrec.generative.decoding.delta import Delta
from dasrec.generative.decoding.trie import SidTrie, assemble
from dasrec.generative.decoding.trie_build import Tree

Ints = npt.NDArray[np.integer]


def merged(main: SidTrie, delta: Delta) -> SidTrie:
    """What `SidTrie.from_sids` makes of all items, those of one SID in the order of their adding.

    In time linear in the main trie. The result lies on the main trie's device.
    """
    device, main, delta = main.device, main.to("cpu"), delta.to("cpu")
    before = [new.node.numpy() - np.arange(len(new.node)) for new in delta.levels]
    tok, child_start = [], []
    for level, new in enumerate(delta.levels):
        old, code = main.tok[level].numpy(), new.code.numpy()
        smallest = np.int16 if code.max(initial=0) < 2**15 else np.int32
        dtype = np.result_type(old, np.uint8 if code.max(initial=0) < 2**8 else smallest)
        tok.append(np.insert(old.astype(dtype), before[level], code))
        if level:
            old_count = np.diff(main.child_start[level - 1].dense().numpy())
            child_start.append(_starts(old_count, before[level - 1], new.parent.numpy()))
    tree = Tree(tok, child_start, *_items(main, delta, before[-1]))
    trie = assemble(main.level_sizes, main.level_token_ids, tree, main.fingerprint, main.has_end)
    return trie.to(device)


def _items(main: SidTrie, delta: Delta, before: Ints) -> tuple[Ints | None, Ints]:
    """`item_start` and `item_of_place` of the union."""
    last = delta.levels[-1]
    num_leaves = len(main.tok[-1])
    starts = main.place_start[-1]
    start = np.arange(num_leaves + 1) if starts is None else starts.dense().numpy()
    after = last.main_before(last.item_node + 1).numpy()  # main leaves up to the item's own
    order = np.insert(main.item_of_place.numpy(), start[after], delta.item.numpy())
    item_start = _starts(np.diff(start), before, last.item_node.numpy())
    return (None if len(item_start) == len(order) + 1 else item_start), order


def _starts(old_count: Ints, before: Ints, above_new: Ints) -> Ints:
    """Where the ranges of all nodes of the union begin.

    Args:
        old_count: How many entries each main node has.
        before: Main nodes before each new node.
        above_new: The node in the union that each new entry belongs to.
    """
    count = np.insert(old_count, before, 0)
    count += np.bincount(above_new, minlength=len(count))
    return np.concatenate([[0], count.cumsum()])
