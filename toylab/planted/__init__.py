"""Models whose mechanism is known because their weights were written by hand."""
