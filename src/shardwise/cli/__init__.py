"""Commands: they parse, wire and render, without arithmetic."""
