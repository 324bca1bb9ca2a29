"""Triton kernels of the GPU engine. They know nothing of the rest of fastmaml."""
