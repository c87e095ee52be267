"""Model families. Each function takes the fields of a config.json and gives a `Decoder`."""
