"""A trained generator as a folder that other software can serve."""
