"""Corpus and SIDs -> token sequences, tasks and batches."""
