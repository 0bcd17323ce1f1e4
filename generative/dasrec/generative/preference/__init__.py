"""Alignment with preferences: DPO on hard negatives, GRPO on lists that the model proposes."""
