"""What is asked of a deployment: lengths, concurrency or rate, and SLOs."""
