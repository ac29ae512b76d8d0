"""One training loop, many losses; batches, evaluation, and attention patterns stored while a model is trained."""
