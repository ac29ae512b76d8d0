"""Steering vectors trained by reinforcement learning (Sinii et al. 2025)."""
