"""The record of a result (predicted, simulated, measured or published)."""
