"""Shardwise: choose, prove and deploy the right tensor-parallel configuration for LLM inference."""

__version__ = "0.1.0"
