"""From a question to ranked deployments: enumerate, reject with a reason, rank, command."""
