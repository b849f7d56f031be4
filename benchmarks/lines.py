"""How large the package is and how its rooms stand to one another: lines, files, functions, imports that run back up.

    python benchmarks/lines.py [FOLDER]     # another checkout of the repository; this one, if not said

A room is a folder or a file directly in remix_toolkit/. ROOMS lists them from the ground up: each may import those
before it. `tests/test_layout.py` keeps it so.
"""

import argparse
import ast
from pathlib import Path

ROOMS = (
    "errors",
    "console",
    "disk",
    "recipe",
    "data",
    "records",
    "evaluate",
    "seals",
    "store",
    "graph",
    "stage",
    "report",
    "launch",
    "api",
    "advise",
    "cli",
)


def room_of(file: Path, package: Path) -> str:
    """`stage` of remix_toolkit/stage/run.py, `store` of remix_toolkit/store.py."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> list[tuple[int, str]]:
    """(line, room) of everything that a file imports from the package, functions' own imports included."""
    rooms: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "remix_toolkit":
            rooms += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remix_toolkit."):
            rooms.append((node.lineno, str(node.module).split(".")[1]))
    return rooms


def upward_imports(package: Path) -> list[str]:
    """`file:line: room -> room` of each import of a room that stands above the file's own."""
    found = []
    for file in sorted(package.rglob("*.py")):
        room = room_of(file, package)
        for line, other in imported_rooms(file):
            if room in ROOMS and other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
                found.append(f"{file.relative_to(package.parent)}:{line}: {room} -> {other}")
    return found


def functions(file: Path) -> list[tuple[int, str]]:
    """(lines, `file:line name`) of every function and method of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [((f.end_lineno or f.lineno) - f.lineno + 1, f"{file.name}:{f.lineno} {f.name}") for f in defined]


def main() -> None:
    """Print a line for each room, then the longest file and function, and what runs back up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent, help="a checkout")
    package = parser.parse_args().folder / "remix_toolkit"
    if not package.is_dir():
        parser.error(f"{package}: no such directory")
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sorted(package.rglob("*.py"))}
    rooms: dict[str, list[Path]] = {}
    for file in sizes:
        rooms.setdefault(room_of(file, package), []).append(file)
    for room, files in sorted(rooms.items(), key=lambda item: -sum(sizes[file] for file in item[1])):
        print(f"{room:12} {len(files):3} files {sum(sizes[file] for file in files):6,} lines")
    without_report = sum(size for file, size in sizes.items() if room_of(file, package) != "report")
    print(f"{'all':12} {len(sizes):3} files {sum(sizes.values()):6,} lines, {without_report:,} of them without report/")
    longest = max(sizes, key=lambda file: sizes[file])
    print(f"longest file: {longest.relative_to(package.parent)}, {sizes[longest]} lines")
    length, name = max(found for file in sizes for found in functions(file))
    print(f"longest function: {name}, {length} lines")
    edges = {
        (room_of(file, package), other)
        for file in sizes
        for _, other in imported_rooms(file)
        if other in rooms and other != room_of(file, package)
    }
    up = upward_imports(package)
    print(f"imports between rooms: {len(edges)} pairs of {len(rooms)} rooms; {len(up)} imports run back up")
    for line in up:
        print(f"  {line}")


if __name__ == "__main__":
    main()
