"""`remix store`: list what is published, check it, make room."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.cli.options import Json, Runs
from remix_toolkit.cli.output import emit, print_record, print_table
from remix_toolkit.console import info, warn
from remix_toolkit.disk import REMEDY, Damaged, delete
from remix_toolkit.errors import BadInput, RunFailed

commands = typer.Typer(no_args_is_help=True, help="What is published: list it, check it, make room.")


@commands.command("list")
def store_list(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Every published stage: its size, whether its weights are there, and how many runs it is part of."""
    from remix_toolkit import store
    from remix_toolkit.seals import undamaged

    stages = published(runs)
    used = Counter(key for record in store.records(runs, warn) for key in record.keys)
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "path": str(folder),
            "bytes": _size(folder),
            "weights": not store.is_pruned(folder),
            "runs": used[key],
            "sweep": store.trained_for(folder),
        }
        for key, folder in undamaged(stages).items()
    ]
    rows.sort(key=lambda row: (-row["bytes"], row["path"]))
    emit(rows, as_json, _print_listed)


def _size(folder: Path, pattern: str = "*") -> int:
    files = [folder] if folder.is_file() else folder.rglob(pattern)
    return sum(file.stat().st_size for file in files if file.is_file())


def _print_listed(rows: list[dict[str, Any]]) -> None:
    print_table(rows, ("path", "bytes", "weights", "runs", "sweep"))
    print_record({"stages": len(rows), "bytes": sum(row["bytes"] for row in rows)})


@commands.command("verify")
def store_verify(
    runs: Runs = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="delete what is damaged, to be made again")] = False,
) -> None:
    """Compare every file of every stage, measurement, familiarity split, run and sweep, and of the tiny base, with its
    checksum.

    A measurement also has to be what its rows give.
    """
    if damaged := verify(runs, remove):
        what = "they were removed" if remove else "`remix store verify --remove` removes them"
        raise RunFailed(f"{damaged} of them are damaged: {what}, and the commands that made them make them again")


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
    from remix_toolkit.seals import WEIGHTS

    published(runs)
    kept = parse_keep(keep)
    check_keep(kept, (stage for record in store.records(runs) for stage in record.stages), "--keep")
    rows: list[dict[str, Any]] = [{"path": str(folder), "bytes": _size(folder)} for folder in left_behind(runs)]
    if not dry_run:
        delete_left_behind(runs)
    for folder in unneeded_in_store(runs, kept, needed_elsewhere(runs, None)).values():
        rows.append({"path": str(folder), "bytes": _size(folder, f"*{WEIGHTS}")})
        if not dry_run:
            store.delete_weights(folder)
    print_table(rows, ("path", "bytes"))
    total = {"stages": len(rows), "bytes": sum(row["bytes"] for row in rows)}
    print_record({"could be deleted" if dry_run else "deleted": total})


def verify(runs: Path, remove: bool = False, keys: Collection[str] | None = None) -> int:
    """Check all that a store holds, of its stages those with some `keys`; how much is damaged, each named and removed.

    Of a stage that is only measured wrongly, what is damaged of its measurements is removed.
    """
    each = list(_damages(runs, keys))
    for damage, delete_damaged in (one for damages in each for one in damages):
        removed = remove and damage.lasting
        info(f"{damage.file}: {damage.problem}; removed" if removed else str(damage).removesuffix(f"; {REMEDY}"))
        if removed:
            delete_damaged()
    damaged = sum(map(bool, each))
    info(f"{len(each) - damaged} of {len(each)} stages, bases, splits, runs and sweeps are as they were sealed")
    return damaged


def _damages(runs: Path, keys: Collection[str] | None) -> Iterator[list[tuple[Damaged, Callable[[], object]]]]:
    """For each thing in the store, what is damaged of it, and what removes that."""
    from remix_toolkit import store
    from remix_toolkit.evaluate import measurements
    from remix_toolkit.launch.state import load, state_files
    from remix_toolkit.records import RunRecord
    from remix_toolkit.seals import find_damage
    from remix_toolkit.stage import familiar

    folders = [folder for key, folder in published(runs).items() if keys is None or key in keys]
    for folder in folders + store.published_bases(runs):
        if damage := find_damage(folder, checksums=True):
            yield [(damage, partial(store.remove, runs, folder))]
        else:
            yield [(damage, partial(kind.remove, folder)) for kind, damage in measurements.damaged(folder)]
    for folder in sorted((runs / "measured").glob("*/")):
        yield [(damage, partial(kind.remove, folder)) for kind, damage in measurements.damaged(folder)]
    for folder in sorted((runs / "familiar").glob("*/")):
        yield _damage(partial(familiar.asked, folder), partial(store.remove, runs, folder))
    for file in sorted((runs / "records").glob("*.json")):
        yield _damage(partial(RunRecord.read, file), partial(delete, file))
    for file in state_files(runs):
        yield _damage(partial(load, file.parent), partial(delete, file))


def _damage(read: Callable[[], object], remove: Callable[[], object]) -> list[tuple[Damaged, Callable[[], object]]]:
    try:
        read()
    except Damaged as damage:
        return [(damage, remove)]
    return []


def published(runs: Path) -> dict[str, Path]:
    """The published stages by key. Raises BadInput where no store is, or one of an earlier version."""
    from remix_toolkit import store

    if not (runs / "stages").is_dir():
        raise BadInput(f"{runs}: nothing is published there; --runs says where stages are")
    store.check_format(runs)
    return store.published_stages(runs)
