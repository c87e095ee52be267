"""A machine's GPUs and their links: reading, writing, and assigning GPUs to TP groups."""
