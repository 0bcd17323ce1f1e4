"""Beam search under the trie of SIDs, usable with any causal LM of transformers."""
