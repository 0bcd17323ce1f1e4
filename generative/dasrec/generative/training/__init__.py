"""Training stages, and the loss and trainer they share."""
