"""`kadepy sim`: simulates a network of thousands of nodes, then reports and draws how lookups went;
the simulation itself is `kadepy.Simulation`."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from kadepy import Lookup, Report, Simulation, Spread

CONDUCTS = ("silence", "lie", "collude", "forge", "flood")
PICTURES = (".png", ".svg", ".pdf")
BINS = 30


def _picture_file(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """A file that a picture can be written to, which is no news at the end of a long simulation."""
    if path is None:
        return None
    shown = repr(click.format_filename(path))
    if os.path.splitext(path)[1].lower() not in PICTURES:
        raise click.BadParameter(f"{shown} ends with none of {', '.join(PICTURES)}.")
    is_new = not os.path.lexists(path)
    try:
        open(path, "ab").close()
        if is_new:
            os.unlink(path)
    except OSError as error:
        raise click.BadParameter(f"{shown} cannot be written: {error.strerror}.") from None
    return path


@click.command("sim")
@click.option(
    "--nodes",
    metavar="N",
    type=int,
    default=1000,
    show_default=True,
    help="How many nodes, hostile ones included; up to 1,000,000.",
)
@click.option(
    "--seed",
    metavar="S",
    type=int,
    default=0,
    show_default=True,
    help="What all random numbers are made from; the same gives the same report.",
)
@click.option(
    "--loss",
    metavar="P",
    type=float,
    default=0.0,
    show_default=True,
    help="The share of datagrams that are lost, 0 to 1, each way.",
)
@click.option(
    "--churn",
    metavar="SECONDS",
    type=click.FloatRange(0, 1e9, min_open=True),
    help="The median time after which a node is switched off and a new one joins. So much time "
    "passes before the lookups begin. Without it every node stays.",
)
@click.option(
    "--hostile",
    metavar="P",
    type=float,
    default=0.0,
    show_default=True,
    help="The share of nodes that are hostile, 0 to 1. Three nodes are honest always.",
)
@click.option(
    "--conduct",
    type=click.Choice(CONDUCTS),
    default="collude",
    show_default=True,
    help="What these do: leave lookups unanswered, name nodes that do not exist, name each other "
    "under made-up ids next to the target, forge answers of others, send requests without end.",
)
@click.option(
    "--nat",
    metavar="P",
    type=float,
    default=0.0,
    show_default=True,
    help="The share of nodes that are behind translators, 0 to 1. Strangers do not reach them.",
)
@click.option(
    "--lookups",
    metavar="L",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="How many lookups for a record, and as many for the nearest nodes, over one minute.",
)
@click.option(
    "--local",
    is_flag=True,
    help="Give the nodes addresses of one local network, not public ones.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    callback=_picture_file,
    help="Draw hops, latency, success and table fill into a .png, .svg or .pdf file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(
    nodes: int,
    seed: int,
    loss: float,
    churn: float | None,
    hostile: float,
    conduct: str,
    nat: float,
    lookups: int,
    local: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Simulate a network on virtual time and report how lookups go.

    Nothing leaves this process. Equal arguments give equal figures, but for the time and the
    memory that the simulation takes.
    """
    title = f"{nodes:,} nodes, {_faults(loss, churn, hostile, conduct, nat)}, seed {seed}"
    # First of all, so that what is missing shows before the simulation runs.
    figure = None if plot is None else _figure(title)
    with _progress() as progress:
        try:
            sim = Simulation(
                nodes,
                seed=seed,
                loss=loss,
                churn=churn,
                hostile=hostile,
                conduct=conduct,
                nat=nat,
                local=local,
                progress=progress,
            )
        except ValueError as error:
            # It begins with the argument's name.
            raise click.UsageError(f"--{error}.") from None
        sim.build()
        if churn is not None:
            sim.run(churn)
        report = sim.lookups(lookups)
    if plot is not None:
        _draw(figure, plot, sim)
    if as_json:
        arguments = {
            "nodes": nodes,
            "seed": seed,
            "loss": loss,
            "churn": churn,
            "hostile": hostile,
            "conduct": conduct,
            "nat": nat,
            "local": local,
            "lookups": lookups,
        }
        click.echo(json.dumps(arguments | _numbers(report)))
    else:
        click.echo(title)
        click.echo("\n".join(_lines(report)))


@contextmanager
def _progress() -> Iterator[Callable[[float, str], object] | None]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    # Closed before the start it is None.
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, what: bar.update(task, completed=share, description=what)


def _numbers(report: Report) -> dict[str, object]:
    def fields(value: object) -> object:
        return value._asdict() if hasattr(value, "_asdict") else value

    numbers = {name: fields(value) for name, value in report._asdict().items()}
    del numbers["nodes"], numbers["seed"]
    numbers["lookups_ended"] = numbers.pop("lookups")
    numbers["find_nodes_ended"] = numbers.pop("find_nodes")
    return numbers


def _faults(loss: float, churn: float | None, hostile: float, conduct: str, nat: float) -> str:
    told = []
    if loss > 0:
        told.append(f"{100 * loss:.4g} % of the datagrams lost")
    if churn is not None:
        told.append(f"sessions of {churn:,.6g} s in the median")
    if hostile > 0:
        told.append(f"{100 * hostile:.4g} % hostile ({conduct})")
    if nat > 0:
        told.append(f"{100 * nat:.4g} % behind translators")
    return ", ".join(told) or "no faults"


def _lines(report: Report) -> Iterator[str]:
    def share(value: float | None) -> str:
        return "none ended" if value is None else f"{value:.2%}"

    yield ""
    yield f"lookups for a record  {report.lookups:>7,}  found it          {share(report.success)}"
    yield f"lookups for nodes     {report.find_nodes:>7,}  gave the nearest  {share(report.exact)}"
    yield ""
    yield f"{'each took':12}" + "".join(f"{name:>9}" for name in Spread._fields)
    for name, spread in (
        ("hops", report.hops),
        ("queries", report.queries),
        ("messages", report.messages),
        ("latency, ms", report.latency_ms),
    ):
        if spread is not None:
            yield f"{name:12}{spread.mean:9,.1f}" + "".join(f"{x:9,.0f}" for x in spread[1:])
    if report.dead is not None:
        yield (
            f"of the contacts named in answers {share(report.dead)} were dead, "
            f"{share(report.barred)} behind translators"
        )
    yield "a lookup ends after 10 s at the latest, with what it has found"
    yield ""
    if fill := report.table_fill:
        yield f"routing tables hold {fill.mean:,.1f} contacts in the mean, {fill.min} to {fill.max}"
    yield (
        f"{report.datagrams:,} datagrams, {report.bytes / 1e6:,.1f} MB, "
        f"in {report.virtual_seconds:,.0f} s of virtual time"
    )
    memory = report.memory_bytes_per_node
    memory_told = "" if memory is None else f", with {memory / 1e3:,.1f} kB of memory a node"
    yield f"simulated in {report.wall_seconds:,.1f} s{memory_told}"


def _figure(title: str) -> Any:
    """An empty figure of matplotlib, which is imported only where a picture is wanted.

    Type checkers do not see it: its stubs and numpy's would keep them busy for most of their time.
    """
    # It tells of its caches, for which nobody asked.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise click.ClickException('--plot needs: pip install "kadepy[cli]"') from None
    figure = figures.Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(title)
    return figure


def _draw(figure: Any, path: str, sim: Simulation) -> None:
    """Draws four panels into a file, in the format that its name ends with."""
    lookups = sim.results()
    (hops, latency), (success, fill) = figure.subplots(2, 2)

    counts = [lookup.hops for lookup in lookups if lookup.hops]
    most = max(counts, default=1)
    hops.hist(counts, bins=[count + 0.5 for count in range(most + 1)], rwidth=0.8)
    hops.set_xticks(range(1, most + 1))
    hops.set(title="Hops", xlabel="nodes on the way", ylabel="lookups")

    latency.hist([lookup.latency for lookup in lookups], bins=BINS)
    latency.set(title="Latency", xlabel="virtual seconds", ylabel="lookups")

    _draw_success(success, lookups)
    success.set(title="Success", xlabel="virtual seconds", ylabel="share", ylim=(-0.05, 1.05))
    success.legend()

    fill.hist(sim.table_fill(), bins=BINS)
    fill.set(title="Routing tables", xlabel="contacts", ylabel="nodes")
    # Without what differs between equal runs.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    metadata = dates.get(os.path.splitext(path)[1].lower())
    with importlib.import_module("matplotlib").rc_context({"svg.hashsalt": "kadepy"}):
        figure.savefig(path, metadata=metadata)


def _draw_success(axes: Any, lookups: list[Lookup]) -> None:
    """The share of success among the lookups that began within each of the steps of time."""
    first = min((lookup.started for lookup in lookups), default=0.0)
    last = max((lookup.started for lookup in lookups), default=0.0)
    step = max((last - first) / BINS, 1e-6)
    for goal, label in (("record", "found the record"), ("nodes", "gave the nearest nodes")):
        steps: dict[int, list[bool]] = {}
        for lookup in lookups:
            if lookup.goal == goal:
                steps.setdefault(int((lookup.started - first) / step), []).append(lookup.success)
        times = sorted(steps)
        shares = [sum(steps[time]) / len(steps[time]) for time in times]
        axes.plot([first + time * step for time in times], shares, marker=".", label=label)
