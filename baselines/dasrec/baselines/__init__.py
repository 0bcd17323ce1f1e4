"""Baselines: popularity, item-kNN and SASRec."""
