"""The legal semantic IDs as a grammar, for servers with guided decoding."""

from itertools import pairwise

from torch import Tensor

from dasrec.generative.decoding.trie import SidTrie

MAX_SIDS = 20_000
"""Distinct SIDs that a grammar is written for. Engines compile a grammar per process and keep its
states in memory; larger catalogues are better served from the trie."""


def sid_grammar(trie: SidTrie) -> str:
    """EBNF of XGrammar that derives exactly the SIDs of the trie, one rule per kind of subtree.

    Its terminals are token ids (`Token(...)`), not strings: spelled out in characters, `<i0_3>`
    could also be produced by the text tokens `<`, `i`, `0`, ..., which the model never saw there.
    Subtrees that are alike share a rule, so the grammar is the catalogue's smallest automaton.
    """
    rules: dict[str, str] = {}  # right-hand side -> name
    below: list[str] = []  # name of the rule after each node of the level; none after the last
    for level in reversed(range(1, trie.num_levels)):
        tokens = _tokens(trie, level)
        starts = trie.child_start[level - 1].dense().tolist()
        sides = [_alternatives(tokens[low:high], below[low:high]) for low, high in pairwise(starts)]
        below = [rules.setdefault(side, f"s{len(rules)}") for side in sides]
    root = _alternatives(_tokens(trie, 0), below)
    lines = [f"root ::= {root}", *(f"{name} ::= {side}" for side, name in rules.items())]
    return "\n".join(lines) + "\n"


def _alternatives(tokens: list[int], below: list[str]) -> str:
    """`Token(1, 2) s0 | Token(3) s1`: tokens that go on alike stand together."""
    if not below:
        return f"Token({', '.join(map(str, sorted(tokens)))})"
    groups: dict[str, list[int]] = {}
    for token, rule in zip(tokens, below, strict=True):
        groups.setdefault(rule, []).append(token)
    return " | ".join(
        f"Token({', '.join(map(str, sorted(group)))}) {rule}" for rule, group in groups.items()
    )


def _tokens(trie: SidTrie, level: int) -> list[int]:
    """Vocabulary id of every node of a level."""
    ids: Tensor = trie.level_token_ids[level][trie.tok[level].long()]
    tokens: list[int] = ids.tolist()
    return tokens
