"""Adapters for existing load balancers."""
