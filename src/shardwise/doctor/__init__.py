"""What a node's links and logs mean: what TP costs on it, and what to change."""
