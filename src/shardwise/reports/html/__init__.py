"""Write a study as one self-contained HTML file without network or scripts."""
