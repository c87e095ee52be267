"""Tensor parallelism on torch.distributed; the only package that imports torch."""
