"""Read a config.json as a `Model`: one function per model family."""
