"""From raw requests to figures, comparisons, tables and plots. Only ``write.py`` touches files."""
