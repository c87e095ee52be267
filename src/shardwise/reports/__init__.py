"""Evidence to tables, figures and files; never measures."""
