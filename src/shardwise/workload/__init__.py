"""Workloads: lengths, concurrency or rate, and SLOs."""
