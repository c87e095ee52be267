"""How the tensors of a checkpoint are stored, from its quantization_config."""
