"""What a model is made of, read from its Hugging Face config.json."""
