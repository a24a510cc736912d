"""The commands. Each finds its cluster, calls one module, prints, and says how to go on."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mygo import __version__
from mygo import config as configs
from mygo.cli import checks, cluster, intake, state
from mygo.cli import demo as demos
from mygo.cli import start as up_command
from mygo.cli import trace as traces
from mygo.cli.ask import DEFAULT_STORE, Question, ask, choose_store, print_citations, print_times
from mygo.cli.cache import print_cache
from mygo.cli.calibrate import calibrate
from mygo.cli.client import Client, Json, find_url, pick_server
from mygo.cli.quality import print_quality
from mygo.cli.status import collect, print_status
from mygo.cli.terminal import err, out, print_error, print_json, print_piece, quiet_vllm, silent
from mygo.errors import BadRequest, MygoError
from mygo.tree.admission import DEFAULT_ORDER
from mygo.tree.policies import DEFAULT_POLICY
from mygo.vllm_plugin.settings import TierSettings
from mygo.workloads import PRESETS

EXIT_FAILED = 1
EXIT_ERROR = 2
EXIT_BUG = 70

app = typer.Typer(
    name="mygo",
    help="Serve retrieval-augmented generation and pay for every document's prefill once.",
    epilog="Start: mygo up; mygo ingest docs/; mygo ask 'What ...?'; mygo down.  Or see it all: mygo demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

ConfigPath = Annotated[Path | None, typer.Argument(help="YAML file; without one, the defaults")]
Url = Annotated[str | None, typer.Option(help="address of the cluster [env: MYGO_URL]")]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", help="which cluster of this machine, if several run")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, for machines")]


def main() -> int:
    """Run a command; turns every error into one line and an exit code (see the package's docstring)."""
    debug = "--debug" in sys.argv or bool(os.environ.get("MYGO_DEBUG"))
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_ERROR
    except KeyboardInterrupt:
        err.print("interrupted")
        return 130
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MygoError):
            print_error(str(error))
            return EXIT_ERROR
        print_error(f"{type(error).__name__}: {error} (a bug in MyGO; --debug shows where)")
        return EXIT_BUG
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"mygo {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print it and exit")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks (anywhere on the line)")] = False,
) -> None:
    pass


@app.command(epilog="Example: mygo up configs/laptop.yaml")
def up(
    config: ConfigPath = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="serve in this terminal until Ctrl-C")
    ] = False,
) -> None:
    """Start a cluster on this machine and wait until it is ready."""
    settings = configs.load(config)
    running = state.recall(settings.cluster.name)
    if running is not None and running.alive:
        out.print(f"already running: {running.url} (pid {running.pid}); `mygo status` shows it")
        return
    up_command.bring_up(settings, config, foreground=foreground)


@app.command(epilog="Examples: mygo ingest docs/ notes.pdf --store handbook;  mygo ingest --python-docs")
def ingest(
    paths: Annotated[list[Path] | None, typer.Argument(help="files and folders")] = None,
    store: Annotated[
        str | None, typer.Option(help="vector store, by name or id; made if it does not exist")
    ] = None,
    python_docs: Annotated[
        bool, typer.Option("--python-docs", help="Python's own documentation, as in the demo")
    ] = False,
    url: Url = None,
    cluster_name: ClusterName = None,
    as_json: AsJson = False,
) -> None:
    """Bring documents in; what is there already is skipped, so it can be run again at any time."""
    if python_docs == bool(paths):
        raise typer.BadParameter("give either paths or --python-docs")
    with Client(find_url(url, cluster_name)) as client:
        if python_docs:
            report = intake.ingest_python_docs(client, store or demos.STORE)
        else:
            report = intake.ingest_paths(client, paths or [], store or DEFAULT_STORE)
    if as_json:
        print_json(report.as_json())
    else:
        intake.print_report(report)
    if not report.present:
        raise typer.Exit(EXIT_FAILED)


@app.command(name="ask", epilog="Example: mygo ask 'How do I sort a list by a key?' --store python-docs")
def ask_command(
    question: Annotated[str, typer.Argument()],
    store: Annotated[
        str | None, typer.Option(help="vector store, by name or id; not needed if there is one")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="passages to retrieve")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    document_order: Annotated[
        str | None, typer.Option(help="retrieval: as ranked; cache: cached ones first")
    ] = None,
    url: Url = None,
    cluster_name: ClusterName = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question: streams the answer, then its sources and where the time went."""
    with Client(find_url(url, cluster_name)) as client:
        asked = Question(
            question,
            store_id=choose_store(client, store),
            model=client.model(),
            top_k=top_k,
            max_tokens=max_tokens,
            temperature=temperature,
            document_order=document_order,
        )
        reply = ask(client, asked, silent if as_json else print_piece)
    if as_json:
        print_json(
            {
                "answer": reply.text,
                "finish_reason": reply.finish_reason,
                "client_ttft_s": round(reply.ttft_s, 6),
                "client_total_s": round(reply.total_s, 6),
                "mygo": reply.mygo,
            }
        )
        return
    out.print("\n")
    print_citations(reply.mygo)
    print_times(reply)


@app.command()
def status(url: Url = None, cluster_name: ClusterName = None, as_json: AsJson = False) -> None:
    """Show workers, shards, journal and routing. Exit code 1 while it is not ready."""
    with Client(find_url(url, cluster_name)) as client:
        found = collect(client)
    if as_json:
        print_json(found)
    else:
        print_status(found)
    if not found["ready"]:
        raise typer.Exit(EXIT_FAILED)


class CacheTopic(StrEnum):
    HELD = "held"
    QUALITY = "quality"


@app.command()
def cache(
    topic: Annotated[
        CacheTopic, typer.Argument(help="what they hold, or how good blended answers were found to be")
    ] = CacheTopic.HELD,
    top: Annotated[int, typer.Option(min=1, max=1000, help="most valuable nodes per worker")] = 20,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="with `quality`: forget all, and prove it anew"),
    ] = False,
    url: Url = None,
    cluster_name: ClusterName = None,
    as_json: AsJson = False,
) -> None:
    """Show what the workers' caches hold: documents in their paths, by tier, with what they save.

    `quality` shows what comparisons of blended with exact answers have found, and what is done about it.
    """
    if reset and topic is not CacheTopic.QUALITY:
        raise BadRequest("--reset is of the quality guard alone: use `mygo cache quality --reset`")
    with Client(find_url(url, cluster_name)) as client:
        report = client.quality(reset=reset) if topic is CacheTopic.QUALITY else client.cache(top)
    if as_json:
        print_json(report)
    elif topic is CacheTopic.QUALITY:
        print_quality(report)
    else:
        print_cache(report)


@app.command()
def check(config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Check everything that a start needs: settings, versions, port, disk, models, memory."""
    settings = configs.load(config)
    running = state.recall(settings.cluster.name)
    findings: list[Json] = []
    colors: dict[Any, str] = {checks.Level.OK: "green", checks.Level.WARNING: "yellow"}
    for finding in checks.run(settings, running=bool(running and running.alive), progress=not as_json):
        findings.append({"check": finding.check, "level": finding.level.value, "detail": finding.detail})
        if not as_json:
            color = colors.get(finding.level, "red")
            out.print(f"[{color}]{finding.level:<7}[/{color}] {escape(str(finding))}")
    failed = any(finding["level"] == checks.Level.FAILED for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings})
    if failed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def down(cluster_name: ClusterName = None) -> None:
    """Stop a cluster of this machine; what was ingested stays."""
    servers = state.living()
    if not servers and cluster_name is None:
        out.print("nothing runs")
        return
    server = pick_server(cluster_name)
    with err.status(f"stopping {server.name}"):
        stopped = cluster.stop(server)
    how = f"; {stopped.killed} processes did not end by themselves and were killed" if stopped.killed else ""
    out.print(f"stopped {stopped.name} in {stopped.took_s:.0f} s{how}")


@app.command(epilog="Examples: mygo trace ragpulse --requests 500 --out t.jsonl;  mygo trace recorded.jsonl")
def trace(
    what: Annotated[str, typer.Argument(help="a preset, or a trace file: MyGO's, RAGPulse's, Mooncake's")],
    seed: Annotated[int | None, typer.Option(min=0, help="of a preset; without one, 0")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="only so many, from the beginning")] = None,
    rate: Annotated[float | None, typer.Option(help="mean requests per second")] = None,
    token_scale: Annotated[float, typer.Option(help="factor on the length of every text of a prompt")] = 1.0,
    out_path: Annotated[Path | None, typer.Option("--out", help="also write it to this file")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a trace is like, beside the published figures that a preset must meet."""
    found = traces.find(traces.Wish(what, seed, requests, rate, token_scale))
    if as_json:
        print_json(traces.as_json(found))
    else:
        traces.show(found)
    if out_path is not None:
        traces.write(found.trace, out_path, silent=as_json)


@app.command()
def demo(
    stop: Annotated[bool, typer.Option("--down", help="stop the demo's cluster afterwards")] = False,
    data_dir: Annotated[Path, typer.Option(help="where the demo keeps its data")] = demos.DATA_DIR,
) -> None:
    """See it work: a small cluster, Python's documentation, questions asked cold and warm."""
    demos.run(data_dir.expanduser(), stop=stop)


@app.command(
    epilog="Examples: mygo simulate ragpulse --workers 4,8 --rate 20,40 --policy round_robin;  "
    "mygo simulate ragpulse --rate 40 --plan 1.0 --host 0,32"
)
def simulate(
    what: Annotated[str, typer.Argument(help="a preset or a trace file, as for mygo trace")],
    workers: Annotated[str, typer.Option(help="number of workers; like all lists, with commas")] = "4",
    kv_gb: Annotated[str, typer.Option(help="device KV per worker, in 10^9 bytes; a list")] = "16",
    rate: Annotated[
        str, typer.Option(help="requests/s of the whole cluster; a list [default: the trace's]")
    ] = "",
    policy: Annotated[str, typer.Option(help="routing policies; a list")] = "predicted_seconds",
    order: Annotated[str, typer.Option(help="document orders (retrieval, cache); a list")] = "retrieval",
    host: Annotated[
        str, typer.Option(help="KV in host memory per worker, in GB, or as 10% of the working set; a list")
    ] = "0",
    disk: Annotated[str, typer.Option(help="KV on disk per worker, as --host; a list")] = "0",
    cache_policy: Annotated[str, typer.Option(help="who leaves host memory and disk first")] = DEFAULT_POLICY,
    lookahead: Annotated[float, typer.Option(min=0, max=1, help="share that waiting requests protect")] = 0.2,
    prefetch: Annotated[bool, typer.Option(help="read from disk ahead of a request's turn")] = True,
    layerwise: Annotated[bool, typer.Option(help="load from host memory beside the computation")] = True,
    load_gate: Annotated[bool, typer.Option(help="compute what is sooner computed than loaded")] = True,
    admission: Annotated[str, typer.Option(help="who is admitted next (due, ratio)")] = DEFAULT_ORDER,
    admission_window: Annotated[int, typer.Option(min=0, help="how often one may be overtaken")] = 32,
    plan: Annotated[
        float | None, typer.Option(help="find the least workers whose TTFT keeps this many seconds")
    ] = None,
    percentile: Annotated[int, typer.Option(help="of requests that --plan is about: 50, 95 or 99")] = 95,
    most_workers: Annotated[int, typer.Option(min=1, help="where --plan gives up")] = 1024,
    profile: Annotated[str, typer.Option(help="engine profile, by name or JSON file")] = "llama-3-8b-h100",
    requests: Annotated[int | None, typer.Option(min=1)] = None,
    token_scale: Annotated[float, typer.Option(help="shrink every text to this share")] = 1.0,
    seed: Annotated[
        int, typer.Option(min=0, help="of the trace, if it is a preset, and of routing's ties")
    ] = 0,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="folder for JSON, Markdown and a plot")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a trace on emulated workers in virtual time: compare settings, or plan how many GPUs it takes."""
    quiet_vllm()  # each emulated engine would tell of its start
    from mygo.cli import simulate as simulates  # brings vLLM, which takes seconds: no other command needs it

    wish = traces.Wish(what, seed if what in PRESETS else None, requests, None, token_scale)
    tiers = TierSettings(
        policy=cache_policy,
        lookahead_share=lookahead,
        prefetch=prefetch,
        layerwise=layerwise,
        load_gate=load_gate,
        admission=admission,
        admission_window=admission_window,
    )
    setting = simulates.setting(traces.find(wish).trace, profile, seed, tiers)
    grid = simulates.grid(
        setting,
        workers=workers,
        kv_gb=kv_gb,
        rate=rate,
        policy=policy,
        order=order,
        host=host,
        disk=disk,
    )
    if out_path is not None:
        simulates.claim(out_path)
    result = (
        simulates.sweep(setting, grid)
        if plan is None
        else simulates.plan(setting, grid, simulates.promise(plan, percentile), most_workers)
    )
    if as_json:
        print_json(result.as_dict())
    else:
        simulates.show(result)
    if out_path is not None:
        for path in simulates.write(result, out_path):
            err.print(f"wrote {path}")


app.command(
    epilog="Examples: mygo calibrate docs/ --out calibration;  mygo calibrate --questions dev.json --config "
    "my.yaml"
)(calibrate)
