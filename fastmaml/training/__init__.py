"""Supervised meta-training."""
