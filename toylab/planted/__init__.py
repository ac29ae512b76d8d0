"""Planted circuits: models with handwritten weights, whose mechanism is known."""
