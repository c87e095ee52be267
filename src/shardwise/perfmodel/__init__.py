"""Pure functions from hardware, architecture, workload and deployment to an estimate."""
