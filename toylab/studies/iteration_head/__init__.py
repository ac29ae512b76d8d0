"""Iteration heads in chain-of-thought (Cabannes et al. 2024)."""
