"""`remix store`: list what is published, check it, make room."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.cli.options import Json, Runs
from remix_toolkit.cli.output import emit, print_record, print_table
from remix_toolkit.console import info
from remix_toolkit.errors import BadInput, RunFailed

commands = typer.Typer(no_args_is_help=True, help="What is published: list it, check it, make room.")


@commands.command("list")
def store_list(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Every published stage: its size, whether its weights are there, and how many runs it is part of."""
    from remix_toolkit import store

    used = Counter(key for record in store.records(runs) for key in record.keys)
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "path": str(folder),
            "bytes": _size(folder),
            "weights": not store.is_pruned(folder),
            "runs": used[key],
            "sweep": store.trained_for(folder),
        }
        for key, folder in published(runs).items()
    ]
    rows.sort(key=lambda row: (-row["bytes"], row["path"]))
    emit(rows, as_json, _print_listed)


def _size(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def _print_listed(rows: list[dict[str, Any]]) -> None:
    print_table(rows, ("path", "bytes", "weights", "runs", "sweep"))
    print_record({"stages": len(rows), "bytes": sum(row["bytes"] for row in rows)})


@commands.command("verify")
def store_verify(
    runs: Runs = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="delete what is damaged, to be made again")] = False,
) -> None:
    """Compare every file of every stage, measurement and familiarity split, and of the tiny base, with its checksum.

    A measurement also has to be what its rows give.
    """
    if damaged := verify(runs, remove):
        raise RunFailed(f"{damaged} of them are damaged{' and were removed' if remove else ''}")


@commands.command("prune")
def store_prune(
    runs: Runs = Path("runs"),
    keep: Annotated[str, typer.Option(help="leaves, none, or stages' names: whose weights stay")] = "leaves",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
) -> None:
    """Delete weights of finished runs, never their results; a stage that is needed again is trained again.

    What killed commands left behind under work/ of published stages goes too.
    """
    from remix_toolkit import store
    from remix_toolkit.graph.prune import delete_left_behind, left_behind, unneeded_in_store
    from remix_toolkit.graph.sweep import check_keep, parse_keep
    from remix_toolkit.launch.state import needed_elsewhere

    published(runs)
    kept = parse_keep(keep)
    check_keep(kept, (stage for record in store.records(runs) for stage in record.stages), "--keep")
    rows: list[dict[str, Any]] = [{"path": str(folder), "bytes": _size(folder)} for folder in left_behind(runs)]
    if not dry_run:
        delete_left_behind(runs)
    for folder in unneeded_in_store(runs, kept, needed_elsewhere(runs, None)).values():
        rows.append({"path": str(folder), "bytes": _size(folder, f"*{store.WEIGHTS}")})
        if not dry_run:
            store.delete_weights(folder)
    print_table(rows, ("path", "bytes"))
    total = {"stages": len(rows), "bytes": sum(row["bytes"] for row in rows)}
    print_record({"could be deleted" if dry_run else "deleted": total})


def verify(runs: Path, remove: bool = False, keys: Collection[str] | None = None) -> int:
    """Check all published stages, or some, and bases by checksum; how many are damaged, each of which is named.

    Of a stage that is only measured wrongly, what is damaged of its measurements is named and removed.
    """
    from remix_toolkit import store
    from remix_toolkit.evaluate import measurements
    from remix_toolkit.stage import familiar

    damaged, removed = 0, "; removed" if remove else ""
    folders = [folder for key, folder in published(runs).items() if keys is None or key in keys]
    folders += store.published_bases(runs)
    for folder in folders:
        damage = store.find_damage(folder, checksums=True)
        measured_wrongly = [] if damage else list(measurements.damaged(folder))
        damaged += bool(damage or measured_wrongly)
        if damage:
            info(f"{folder}: {damage}{removed}")
            if remove:
                store.remove(runs, folder)
        for measurement, problem in measured_wrongly:
            info(problem + removed)
            if remove:
                measurement.remove(folder)
    for split in sorted((runs / "familiar").glob("*/split.json")):
        folders.append(split.parent)
        try:
            familiar.asked(split.parent)
        except BadInput as error:
            damaged += 1
            info(f"{error}{removed}")
            if remove:
                store.remove(runs, split.parent)
    info(f"{len(folders) - damaged} of {len(folders)} stages, bases and splits are as they were sealed")
    return damaged


def published(runs: Path) -> dict[str, Path]:
    """The published stages by key. Raises BadInput where no store is, or one of an earlier version."""
    from remix_toolkit import store

    if not (runs / "stages").is_dir():
        raise BadInput(f"{runs}: nothing is published there; --runs says where stages are")
    store.check_format(runs)
    return store.published_stages(runs)
