"""``mygo up``: check, spawn, and wait until questions can be answered."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from mygo.cli import checks, cluster
from mygo.cli.terminal import err, out
from mygo.config import Config
from mygo.errors import ConfigError


def bring_up(config: Config, config_path: Path | None, *, foreground: bool = False) -> None:
    """Start the cluster of this configuration and return when it is ready.

    Raises ConfigError for the first thing that is wrong before anything is started, ServerFailed if the
    server does not come up. Then, and on Ctrl-C, nothing is left running.
    """
    for finding in checks.run(config, progress=True):
        if finding.level is checks.Level.FAILED:
            raise ConfigError(finding.detail)
        if finding.level is checks.Level.WARNING:
            err.print(f"[yellow]{escape(str(finding))}[/yellow]")
    if foreground:
        cluster.become_server(config, config_path)
    server = cluster.start(config, config_path)
    try:
        with err.status("starting") as spinner:

            def say(phase: str, detail: str) -> None:
                line = escape(f"{phase}: {detail}" if detail else phase)
                spinner.update(line)
                if not err.is_terminal:
                    err.print(line)

            took_s = cluster.wait_ready(server, cluster.start_timeout_s(config), say)
    except (cluster.ServerFailed, KeyboardInterrupt):
        cluster.stop(server)
        raise
    out.print(
        f"[green]ready[/green] after {took_s:.0f} s: {server.url}/v1 serves {escape(config.model.name)} on "
        f"{config.workers.replicas} workers"
    )
