"""What safety fine-tuning, DPO and unlearning do to MLP weights (Jain et al. 2024)."""
