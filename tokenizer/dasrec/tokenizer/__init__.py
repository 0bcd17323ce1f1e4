"""The DAS tokenizer."""
