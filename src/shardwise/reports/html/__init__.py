"""A study as one self-contained HTML file: no network, no script."""
