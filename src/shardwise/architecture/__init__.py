"""Model architectures, read from Hugging Face config.json files."""
