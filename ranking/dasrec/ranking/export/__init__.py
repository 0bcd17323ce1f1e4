"""A trained CTR model as a folder that other software can serve."""
