"""The store for a person: what is in it, whether it is sound, what could go."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from remix_toolkit import store
from remix_toolkit.cli.print_plan import size
from remix_toolkit.console import info
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import prune
from remix_toolkit.graph.sweep import Keep, check_keep
from remix_toolkit.launch.state import needed_elsewhere


def listed(runs: Path) -> list[dict[str, Any]]:
    """A row for each published stage, the largest first: `{key, path, bytes, weights, runs, sweep}`."""
    used = Counter(key for record in store.records(runs) for key in record.keys)
    rows = [
        {
            "key": key,
            "path": str(folder),
            "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
            "weights": not store.is_pruned(folder),
            "runs": used[key],
            "sweep": store.trained_for(folder),
        }
        for key, folder in _there(runs).items()
    ]
    return sorted(rows, key=lambda row: (-int(str(row["bytes"])), str(row["path"])))


def print_listed(runs: Path) -> None:
    """`remix store list` on the screen."""
    rows = listed(runs)
    table = Table(box=None, header_style="bold")
    for column in ("stage", "size", "weights", "runs", "trained by sweep"):
        table.add_column(column, justify="right" if column in ("size", "runs") else "left", overflow="fold")
    for row in rows:
        weights = "there" if row["weights"] else "deleted"
        table.add_row(Path(row["path"]).name, size(row["bytes"]), weights, str(row["runs"]), row["sweep"] or "-")
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print(f"{len(rows)} stages, {size(sum(row['bytes'] for row in rows))}", highlight=False)


def verify(runs: Path, remove: bool = False, keys: Collection[str] | None = None) -> int:
    """Check all published stages, or some, by checksum; returns how many are damaged, each of which is named."""
    wrong = 0
    chosen = {key: folder for key, folder in _there(runs).items() if keys is None or key in keys}
    for folder in chosen.values():
        if found := store.find_damage(folder, checksums=True):
            wrong += 1
            info(f"{folder}: {found}" + ("; removed" if remove else ""))
            if remove:
                store.remove_stage(runs, folder)
    info(f"{len(chosen) - wrong} of {len(chosen)} stages are as they were published")
    return wrong


def delete_unneeded(runs: Path, keep: Keep, dry_run: bool) -> None:
    """Delete the weights that no run needs any more, or only name them."""
    check_keep(keep, {stage.stage for record in store.records(runs) for stage in record.stages}, "--keep")
    spare = prune.unneeded_in_store(runs, keep, needed_elsewhere(runs, None)) if _there(runs) else {}
    freed = 0
    for folder in spare.values():
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        freed += weights
        info(f"{folder}: {size(weights)}")
        if not dry_run:
            store.delete_weights(folder)
    info(f"{len(spare)} stages, {size(freed)}" + (" could be deleted" if dry_run else " deleted"))


def _there(runs: Path) -> dict[str, Path]:
    if not (runs / "stages").is_dir():
        raise BadInput(f"{runs}: nothing is published there; --runs says where stages are")
    return store.published_stages(runs)
