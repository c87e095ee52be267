"""From a config.json to a `Model`: one function for each model family."""
