"""Scores of whole items beside those of their codes, from the generator's states (LIGER)."""
