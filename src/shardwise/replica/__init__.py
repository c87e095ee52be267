"""One replica of an engine: its command line, environment, devices, readiness and stop."""
