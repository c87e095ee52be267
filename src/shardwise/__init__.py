"""Shardwise: choose, prove and deploy the right parallel layout for LLM inference."""

__version__ = "0.1.0"
