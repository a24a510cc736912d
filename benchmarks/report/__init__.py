"""From raw requests to figures, comparisons, tables and plots. Only ``write.py``, ``plots.py`` and
``validation.py`` touch files."""
