"""The server process: starts (or joins) Ray, deploys the application, serves until SIGTERM.

``mygo up`` runs this detached and reads its progress file; in the foreground it logs to the terminal.
A local Ray cluster lives and dies with this process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from mygo import config as configs
from mygo.config import Config
from mygo.errors import MygoError
from mygo.serve import transport

logger = logging.getLogger("mygo")

Progress = Callable[[str, str], None]
OBJECT_STORE_BYTES = 256 * 2**20
LOOK_S = 1.0
"""A look at the deployments takes a tenth of a second of this process, beside engines that start."""
PROXY_GRACE_S = 10.0
"""How much later than the ingress the proxy ends a request: only the ingress says why."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mygo.serve.main", description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", help="YAML file; the defaults without one")
    parser.add_argument("--state", type=Path, help="file to which progress is written, one JSON per line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    progress = _reporter(options.state)
    stop = threading.Event()
    _stop_on_signals(stop)
    try:
        config = configs.load(options.config)
        prepare_environment(config)
        _serve(config, progress, stop)
    except MygoError as error:
        progress("failed", str(error))
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        progress("failed", f"{type(error).__name__}: {error}")
        logger.exception("could not serve")
        return 1
    return 0


def _serve(config: Config, progress: Progress, stop: threading.Event) -> None:
    # imported only now: Ray and vLLM read the environment that was just prepared
    import ray
    from ray import serve

    from mygo.serve import ray_versions
    from mygo.vllm_plugin import versions as vllm_versions

    ray_versions.check()
    vllm_versions.check()
    progress("ray", "starting Ray" if config.cluster.ray_address is None else "joining Ray")
    watch = threading.Thread(target=_tell, args=(config, progress, stop), daemon=True)
    try:
        with ThreadPoolExecutor(max_workers=1) as importer:
            # vLLM takes as long to import as Ray takes to start, and Ray starts in processes of its own
            importing = importer.submit(import_module, "mygo.serve.app")
            start(config)
            app = importing.result()
        progress("models", "finding or converting the models")
        application = app.build(config, app.resolve_models(config))
        progress("deploy", "starting workers, shards and ingress")
        watch.start()
        serve.run(application, name=config.cluster.name, route_prefix="/")
        _stop_on_signals(stop)  # again: Ray put its own handlers there, which exit without draining
        stop.wait()
        progress("stopping", "draining")
        watch.join()
        serve.shutdown()
    finally:
        stop.set()
        if watch.is_alive():  # a status call after the shutdown would start another Ray
            watch.join()
        ray.shutdown()
        progress("stopped", "")


def start(config: Config) -> None:
    """Start (or join) Ray and Serve's proxies, in an environment that was prepared before."""
    import ray
    from ray import serve

    ray.init(**_ray_options(config))
    serve.start(
        http_options={
            "host": config.http.host,
            "port": config.http.port,
            "request_timeout_s": config.http.request_timeout_s + PROXY_GRACE_S,
        }
    )


def _stop_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _tell(config: Config, progress: Progress, stop: threading.Event) -> None:
    """Report deployments as they come up, until all are; give up on an application that failed to deploy."""
    from ray import serve

    told: list[str] = []
    while not stop.wait(LOOK_S):
        application = serve.status().applications.get(config.cluster.name)
        if application is None:
            continue
        parts = application.deployments
        waiting = sorted(name for name, part in parts.items() if part.status != "HEALTHY")
        if waiting and waiting != told:
            told = waiting
            up = len(parts) - len(waiting)
            progress("deploy", f"{up} of {len(parts)} are up, waiting for {', '.join(waiting)}")
        if application.status == "RUNNING":
            progress("ready", f"http://{config.http.host}:{config.http.port}")
            return
        if application.status == "DEPLOY_FAILED":
            progress("failed", application.message)
            stop.set()


def _ray_options(config: Config) -> dict[str, Any]:
    if config.cluster.ray_address is not None:
        # Serve's proxies take it over from here, if they are not up already
        return {
            "address": config.cluster.ray_address,
            "log_to_driver": False,
            "runtime_env": transport.runtime_env(),
        }
    cores = os.cpu_count() or 1
    return {
        # not a cluster that somebody has started on this machine: that is joined by its address only
        "address": "local",
        # a worker reserves one logical CPU: a machine with fewer cores than workers may still run them
        "num_cpus": max(cores, config.workers.replicas),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "log_to_driver": False,
        "configure_logging": False,
    }


def prepare_environment(config: Config) -> None:
    """What Ray, vLLM and the model libraries read from the environment, for every process below."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Ray nices its workers by 15: whatever else runs on the machine would starve the engines
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        **transport.ENVIRONMENT,
    }
    if config.cluster.haproxy:
        defaults |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _reporter(path: Path | None) -> Progress:
    def report(phase: str, detail: str) -> None:
        logger.info("%s: %s", phase, detail)
        if path is not None:
            # a full disk must not end a server that serves
            with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"phase": phase, "detail": detail}) + "\n")

    return report


if __name__ == "__main__":
    sys.exit(main())
