"""Load-test any OpenAI-compatible endpoint over tensor-parallel sizes and batches."""
