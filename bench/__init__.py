"""Measurements of speed and memory, against the other ways of taking the same meta-gradient."""
