"""Load any OpenAI-compatible endpoint and measure it, across tensor-parallel sizes and batches."""
