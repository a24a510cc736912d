"""The one place that says which Ray was tested, and that refuses any other.

What MyGO takes from Ray beyond its stable API: a custom request router (``pinned.py``, marked alpha
by Ray), the engine client and the start callback of Ray Serve LLM's server (``worker.py``), the
settings that make Serve's replicas talk over gRPC (``transport.py``, in the environment), and the metrics
port of ``ray.nodes()`` (``instruments.py``).
"""

from __future__ import annotations

import ray

from mygo.errors import UntestedVersion

TESTED = "2.60.0"


def check() -> None:
    """Raise UntestedVersion unless the installed Ray is the tested one."""
    if ray.__version__ != TESTED:
        raise UntestedVersion(
            f"ray {ray.__version__} is installed, but MyGO was tested with {TESTED}: "
            f"run `make install`, or `pip install 'ray[serve]=={TESTED}'`"
        )
