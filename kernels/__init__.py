"""Triton kernels of the `gpu` engine, packaged as `fastmaml.kernels`. They know nothing of the rest of fastmaml."""
