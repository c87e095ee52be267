"""A machine's GPUs and the links between them: read, written, and which GPUs to take for a TP."""
