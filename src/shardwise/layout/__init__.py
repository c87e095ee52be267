"""What runs where: a deployment, and what each of its ranks holds of a model."""
