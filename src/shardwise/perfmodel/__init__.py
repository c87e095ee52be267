"""The performance model: pure functions from hardware, model, workload and deployment to an
estimate."""
