"""The decoder LM: where it comes from, its SID tokens, loading it again."""
