"""Many emulated workers behind the production directory and router, on a virtual clock: what a trace
would see on a cluster that is not there, and how large that cluster must be.
"""
