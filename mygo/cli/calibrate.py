"""``mygo calibrate``: which repair a model needs on a user's own documents and questions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mygo import config as configs
from mygo import models
from mygo.blend.calibrate import LEAST_ROWS
from mygo.blend.selection import Method, Repair
from mygo.calibration import groups, plots, questions
from mygo.calibration.paired import Pair
from mygo.calibration.records import CACHE_ORDER, EXACT, Records
from mygo.calibration.report import Line, Report, report
from mygo.cli import ingest
from mygo.cli.terminal import err, out, print_json, quiet_vllm
from mygo.config import Config
from mygo.corpus.chunk import load_file_chunks
from mygo.errors import BadRequest, ConfigError, UnparsableDocument

PAIRS_SHARE = 5
"""One of so many questions takes two documents."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    paths: Sequence[Path]
    question_set: Path | None
    folder: Path
    count: int
    documents: int
    shares: Sequence[float]
    methods: Sequence[Method]
    gold_nats_bound: float
    seed: int
    plot: bool


def calibrate(
    paths: Annotated[list[Path] | None, typer.Argument(help="documents: files and folders")] = None,
    question_set: Annotated[
        Path | None,
        typer.Option("--questions", help="in SQuAD's JSON; without, made of the documents"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file: model, prompt and kl_bound")] = None,
    out_path: Annotated[
        Path, typer.Option("--out", help="folder for what was measured; run again to go on")
    ] = Path("calibration"),
    count: Annotated[int, typer.Option(min=1, help="questions; a fifth of them take two documents")] = 200,
    documents: Annotated[int, typer.Option(min=2, help="passages of each prompt")] = 4,
    repair_shares: Annotated[
        str, typer.Option("--shares", help="repair shares, with commas")
    ] = "0,0.05,0.1,0.15,0.2,0.3,0.5",
    repair_methods: Annotated[
        str, typer.Option("--methods", help="ways to choose the tokens, with commas")
    ] = ",".join(Method),
    nats_bound: Annotated[
        float, typer.Option(help="most that right answers may lose in likelihood, nats per token")
    ] = 0.1,
    plot: Annotated[bool, typer.Option(help="draw quality against computation; needs matplotlib")] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout, for machines")] = False,
) -> None:
    """Find the least repair with which blended answers stay good: on your documents, questions and model.

    How much of a document is computed anew (--shares), and which tokens of it (--methods).
    """
    if not paths and question_set is None:
        raise typer.BadParameter("give documents, or --questions")
    wish = Wish(
        paths=paths or (),
        question_set=question_set,
        folder=out_path,
        count=count,
        documents=documents,
        shares=shares(repair_shares),
        methods=methods(repair_methods),
        gold_nats_bound=nats_bound,
        seed=seed,
        plot=plot,
    )
    found = run(configs.load(config), wish)
    if as_json:
        print_json(found.as_dict())
    else:
        show(found, out_path)


def shares(text: str) -> list[float]:
    """Raises ConfigError for what is no share."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= share < 1 for share in found):
        raise ConfigError(f"--shares {text!r}: must be numbers from 0 up to 1 with commas between, as 0,0.15")
    return found


def methods(text: str) -> list[Method]:
    """Raises ConfigError for what is none."""
    names = [part.strip() for part in text.split(",")]
    if not set(names) <= set(Method):
        raise ConfigError(f"--methods {text!r}: must be some of {','.join(Method)}, with commas between")
    return [method for method in Method if method in names]


def repairs(wish: Wish) -> list[Repair]:
    """All that are compared. Where nothing is recomputed, all methods are the first one."""
    return [
        Repair(share, floor_tokens=0, method=method)
        for method in wish.methods
        for share in wish.shares
        if share or method is wish.methods[0]
    ]


def run(config: Config, wish: Wish) -> Report:
    """Measure what is not measured yet, and write report and picture beside the outcomes."""
    if wish.plot:
        plots.require()
    model = models.resolve(config.model.source, config.cluster.cache_dir, progress=True)
    material = _material(config, model, wish)
    pairs = wish.count // PAIRS_SHARE
    chosen = questions.choose(material, single=wish.count - pairs, pairs=pairs, rng=Random(wish.seed))
    if len(chosen) < LEAST_ROWS:
        raise BadRequest(f"{len(chosen)} questions are too few: give at least {LEAST_ROWS}")
    posed = groups.groups(chosen, material.passages, documents=wish.documents, seed=wish.seed)
    records = Records(wish.folder, _subject(config, wish, material))
    _measure(config, model, posed, repairs(wish), records)
    found = report(records.outcomes, kl_bound=config.reuse.kl_bound, gold_nats_bound=wish.gold_nats_bound)
    (wish.folder / "calibration.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    (wish.folder / "reuse.yaml").write_text(found.yaml())
    if wish.plot:
        plots.plot(found, wish.folder / "calibration.png", config.model.name)
    return found


def _material(config: Config, model: Path, wish: Wish) -> questions.Material:
    corpus = config.corpus
    file_chunks = load_file_chunks(models.tokenizer_path(model), corpus.chunk_tokens, corpus.overlap_tokens)
    passages: list[str] = []
    files, skipped = ingest.find_files(wish.paths)
    for file in files:
        try:
            passages += file_chunks(file.name, file.path.read_bytes())
        except UnparsableDocument as error:
            skipped[file.name] = str(error)
    if skipped:
        err.print(f"[yellow]skipped[/yellow] {len(skipped)} files that cannot be read as text")
    if wish.question_set is None:
        return questions.made_of(passages, Random(wish.seed))
    found = questions.read_squad(wish.question_set, lambda text: file_chunks("context.txt", text.encode()))
    return questions.Material(tuple(dict.fromkeys((*found.passages, *passages))), found.questions)


def _subject(config: Config, wish: Wish, material: questions.Material) -> dict[str, Any]:
    return {
        "model": config.model.source,
        "dtype": config.model.dtype,
        "block_tokens": config.model.block_tokens,
        "system": config.prompt.system,
        "after_documents": config.prompt.after_documents,
        "documents_per_prompt": wish.documents,
        "births": groups.BIRTHS,
        "passages": len(material.passages),
        "questions": len(material.questions),
        "seed": wish.seed,
    }


def _measure(
    config: Config,
    model: Path,
    posed: Sequence[groups.Group],
    wanted: Sequence[Repair],
    records: Records,
) -> None:
    asked = [each.question.id for group in posed for each in group.posed]
    ways = [(CACHE_ORDER, 1.0), *((repair.method.value, repair.share) for repair in wanted)]
    if all(records.has(question, *way) for question in asked for way in ways):
        return
    # read when vLLM is first imported
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    quiet_vllm()
    from mygo.calibration import measure  # brings vLLM, which takes seconds: no other command needs it
    from mygo.calibration.engine import BlendEngine

    with err.status("starting the engine"):
        prompts = measure.Prompts(config, str(model))
        engine = BlendEngine(config, model)
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} questions,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=len(asked))
        try:
            measure.measure(
                engine, prompts, posed, wanted, records, lambda done: progress.advance(task, done)
            )
        finally:
            engine.close()


def show(found: Report, folder: Path) -> None:
    for documents in sorted({line.documents for line in found.lines}):
        out.print(_table([line for line in found.lines if line.documents == documents], documents))
    out.print(
        "%: of document tokens, computed; KL: of the first token, against exact; nats: per token of the "
        "right answer, and how many more than exact; 95%: upper end, by bootstrap; same: share of the "
        f"model's own answers; {CACHE_ORDER}: all computed, with the documents in an order that knows no "
        "question, as prompt.document_order: cache comes to"
    )
    if found.pairs:
        out.print(_paired(found.pairs))
    if found.too_few:
        out.print(f"not considered, too few questions: {', '.join(found.too_few)}")
    chosen = found.calibration.chosen
    bounds = f"KL at most {found.kl_bound:g} and at most {found.gold_nats_bound:g} nats more"
    if chosen is None:
        out.print(f"[yellow]no repair that was measured keeps {bounds} (95 %)[/yellow]: answer exactly")
    else:
        out.print(
            f"least computation that keeps {bounds} (95 %): [bold]{chosen.method.value} {chosen.alpha:g}"
            f"[/bold], {100 * chosen.computed_share:.1f} % of document tokens computed"
        )
    out.print(f"\n{found.yaml()}", markup=False)
    out.print(f"outcomes, report, picture and these lines: {folder}")


def _paired(pairs: Sequence[Pair]) -> Table:
    title = f"less {Method.FIRST_TOKENS.value}, on the same questions (95 %)"
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), title=title, title_justify="left")
    for name in ("repair", "asked", "KL", "from", "to", "nats", "from", "to"):
        table.add_column(name, no_wrap=True, justify="left" if name == "repair" else "right")
    for pair in pairs:
        kl = (f"{each:+.4f}" for each in (pair.kl, *pair.kl_interval))
        nats = (f"{each:+.3f}" for each in (pair.gold_nats, *pair.gold_nats_interval))
        table.add_row(f"{pair.method} {pair.share:g}", str(pair.questions), *kl, *nats)
    return table


def _table(lines: Sequence[Line], documents: int) -> Table:
    title = f"questions that take {documents} document{'s' if documents > 1 else ''}"
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), title=title, title_justify="left")
    for name in ("repair", "asked", "%", "KL", "95%", "nats", "more", "95%", "F1", "EM", "same"):
        table.add_column(name, no_wrap=True, justify="left" if name == "repair" else "right")
    for line in lines:
        exact = line.method == EXACT
        change = f"{line.gold_nats_more:+.3f}", f"{line.gold_nats_more_upper:+.3f}"
        table.add_row(
            line.method if line.method in (EXACT, CACHE_ORDER) else f"{line.method} {line.share:g}",
            str(line.questions),
            f"{100 * line.computed_share:.1f}",
            *(("", "") if exact else (f"{line.kl:.3f}", f"{line.kl_upper:.3f}")),
            f"{line.gold_nats:.2f}",
            *(("", "") if exact else change),
            *(f"{share:.2f}" for share in (line.f1, line.exact_match, line.same)),
        )
    return table
