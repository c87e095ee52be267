"""Model families. Each function reads the fields of a config.json and returns a `Decoder`."""
