"""The cluster: the only room that imports Ray. Start reading at ``app.py``.

Deployments are thin: they move data between the pure rooms, which decide, and the engines, which
compute. Nothing here is imported by another room except ``mygo/cli``.
"""
