"""Training and evaluation mode of a model, from `toylab.model.modes`."""

from toylab.model.modes import evaluation_mode, training_mode

__all__ = ["evaluation_mode", "training_mode"]
