"""`remix compare`: two stages, arms, sweeps or runs directories side by side, on the screen and as a table of facts."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from remix_toolkit.errors import BadInput
from remix_toolkit.report.names import side_of
from remix_toolkit.report.pair import pair
from remix_toolkit.report.seeds import correct, of_differences, p_values
from remix_toolkit.report.tables import plain

SHOWN = 3  # facts that only one knows, of each list
COLUMNS = ("a", "b", "stage", "task", "list", "seed", "prompt", "gold", "known_by", "a_said", "b_said")


def compare(a: str, b: str, runs: Path) -> dict[str, Any]:
    """`{a, b, kind, pairs, only_a, only_b}`: each pair what differs between two stages or arms, see `pair`.

    `a` and `b` as `names.side_of` has them. Of two sweeps or runs directories, arms of the same name are compared.
    Raises BadInput where a name means nothing or several things, or the two are of different kinds.
    """
    left, right = side_of(a, runs), side_of(b, runs)
    if left.kind != right.kind:
        raise BadInput(f"{a} is {left.kind}, {b} is {right.kind}: two of a kind can be compared")
    if len(left.arms) == len(right.arms) == 1:
        pairs = [(next(iter(left.arms)), next(iter(right.arms)))]
    else:
        pairs = [(name, name) for name in left.arms if name in right.arms]
    done = [
        {"a": one, "b": other, **pair(left.arms[one], right.arms[other], one_each=left.kind == "a stage")}
        for one, other in pairs
    ]
    by_list: dict[tuple[str, str], list[dict[str, Any]]] = {}  # of all arms, those that are of the same facts
    for row in [row for one in done for row in one["recall"]]:
        by_list.setdefault((row["stage"], row["list"]), []).append(row)
    for rows in by_list.values():
        correct(rows)
    return {
        "a": a,
        "b": b,
        "kind": left.kind,
        "pairs": done,
        "only_a": [name for name in left.arms if name not in {one for one, _ in pairs}],
        "only_b": [name for name in right.arms if name not in {other for _, other in pairs}],
    }


def write_facts(found: Mapping[str, Any], file: Path) -> None:
    """Every fact that only one of the two knows, as CSV, and what each said; several right answers with a | between."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        for one in found["pairs"]:
            for fact in one["facts"]:
                writer.writerow({**fact, "a": one["a"], "b": one["b"], "gold": " | ".join(fact["gold"])})


def print_compared(found: Mapping[str, Any]) -> None:
    """`remix compare` on the screen."""
    console = Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)
    seeds = found["kind"] != "a stage"
    for one in found["pairs"]:
        console.print(f"A: {plain(one['a'])}\nB: {plain(one['b'])}", style="bold")
        _table(console, "declared differently", one["settings"], {"setting": "key", "A": "a", "B": "b"})
        if not one["settings"]:
            console.print("Both declare the same.")
        _table(console, "trained with", one["made_with"], {"": "key", "A": "a", "B": "b"})
        _table(
            console,
            "recall in percent, on the same facts",
            one["recall"],
            {
                "of": lambda row: f"{row['task']} after {row['stage']}",
                "A": lambda row: f"{row['a']:.1f}",
                "B": lambda row: f"{row['b']:.1f}",
                "B - A": lambda row: f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]",
                **({"p": lambda row: p_values(row)[0], "p (Holm)": lambda row: p_values(row)[1]} if seeds else {}),
                "1 -> 0 / 0 -> 1": lambda row: f"{row['only_a']} / {row['only_b']}",
                "facts": "facts",
                **({"seeds": lambda row: ", ".join(map(str, row["seeds"]))} if seeds else {}),
            },
        )
        if one["recall"]:
            console.print(of_differences(one["recall"]))
        _print_facts(console, one, seeds)
        at = {"stage": "stage", **({"seed": "seed"} if seeds else {})}
        _table(console, "loss on held-out rows, right results in percent", one["held_out"], {**at, "": "what", **_AB})
        steps = {"steps A": "steps_a", "steps B": "steps_b"}
        _table(console, "training loss, last step", one["losses"], {**at, **_AB, **steps, "apart from step": _parts})
        curve = {**at, "facts": "list", **_AB, "apart from epoch": "parts_at_epoch"}
        _table(console, "retention curves, recall at their end", one["curves"], curve)
        for note in one["notes"]:
            console.print(plain(note))
        console.print()
    if not found["pairs"]:
        console.print("No arm of one has the name of an arm of the other.")
    for side in ("a", "b"):
        if only := found[f"only_{side}"]:
            console.print(f"Only {side.upper()} has: {', '.join(map(plain, only))}")


_AB: dict[str, Any] = {"A": lambda row: _number(row["a"]), "B": lambda row: _number(row["b"])}


def _parts(row: Mapping[str, Any]) -> object:
    return "the same stage" if row["same_stage"] else row["parts_at_step"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _table(
    console: Console,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str | Callable[[Mapping[str, Any]], object]],
) -> None:
    """A row for each row, by the names of its columns or what is worked out of it; nothing where there is none."""
    if not rows:
        return
    console.print(f"{title}:")
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        cells = (row[get] if isinstance(get, str) else get(row) for get in columns.values())
        table.add_row(*("-" if one is None else plain(one) for one in cells))
    console.print(table)


def _print_facts(console: Console, one: Mapping[str, Any], seeds: bool) -> None:
    """A few of the facts that only one of the two knows, of each list."""
    for row in one["recall"]:
        for side, other in (("a", "b"), ("b", "a")):
            at = (row["list"], row["stage"], side)
            mine = [fact for fact in one["facts"] if (fact["list"], fact["stage"], fact["known_by"]) == at]
            if not mine:
                continue
            console.print(f"{row['task']} after {row['stage']}, known to {side.upper()} only:")
            for fact in mine[:SHOWN]:
                said = (
                    f"{other.upper()} says {plain(fact[f'{other}_said']) or 'nothing'}"
                    + f", seed {fact['seed']}" * seeds
                )
                console.print(f"  {plain(fact['prompt'])} {plain((fact['gold'] or [''])[0])} ({said})")
            if len(mine) > SHOWN:
                console.print(f"  and {len(mine) - SHOWN} more: --facts FILE has all")
