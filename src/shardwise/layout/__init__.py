"""Deployments, and what each rank holds of a model."""
