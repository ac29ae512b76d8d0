"""Verdicts on all inputs of a task: properties of a model, decided exactly, with certificates."""
