"""Plan deployments: enumerate, reject with a reason, rank, write the command."""
