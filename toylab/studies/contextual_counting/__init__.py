"""Contextual counting and positional encodings (Golkar et al. 2024)."""
