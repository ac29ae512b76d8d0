"""Transformers open to inspection at every named point, their checkpoints, and what may be added to them."""
