"""Existing load balancers, each behind the same small adapter."""
