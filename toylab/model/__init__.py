"""Transformers with named hook points, checkpoints, LoRA, steering vectors, and adapters for other libraries."""
