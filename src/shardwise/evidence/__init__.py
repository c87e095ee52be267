"""The one record of a result (predicted, simulated, measured, published)."""
