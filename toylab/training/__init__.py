"""Training loop, losses, batches, evaluation and attention histories."""
