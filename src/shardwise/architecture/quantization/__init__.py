"""Storage formats of a checkpoint's tensors, from its quantization_config."""
