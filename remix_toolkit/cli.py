"""The `remix` command. Nothing heavy is imported before a command needs it: help is on the screen at once."""

import json
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from remix_toolkit.analysis.cli import probe
from remix_toolkit.errors import BadInput, RunFailed, exit_codes

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Teach a model facts that stay."
)

RecipeArg = Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value ..., such as stages.stage1.data.size=50")]
Profile = Annotated[str, typer.Option(help="which base model at which scale: a profile's name, or its file")]
Seed = Annotated[int | None, typer.Option(help="seed of order and mixing data [default: the recipe's, else 0]")]
Runs = Annotated[Path, typer.Option(help="where stages are published")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]


@app.command()
def run(
    recipe: RecipeArg,
    overrides: Overrides = None,
    profile: Profile = "tiny",
    stage: Annotated[str | None, typer.Option(help="this stage only, and those before it if not published")] = None,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    accelerate: Annotated[str | None, typer.Option(help="an accelerate config, in place of accelerate_config")] = None,
) -> None:
    """Train, publish and measure a recipe's stages; what is published already is reused."""
    from remix_toolkit.resolve import load_recipe

    overrides = [*(overrides or []), *([f"accelerate_config={json.dumps(accelerate)}"] if accelerate else [])]
    resolved = load_recipe(recipe, profile, overrides, seed)
    from remix_toolkit.launch.local import run as run_recipe

    run = run_recipe(resolved, runs, recipe, stage, overrides=overrides)
    from remix_toolkit import store
    from remix_toolkit.report.retention import print_matrices

    own = [entry for entry in store.entries(runs) if (entry["run"], entry["arm"]) == (run, resolved.name)]
    print_matrices([entry for entry in own if entry["overrides"] == overrides])


SweepArg = Annotated[str, typer.Argument(help="a sweep file, or the name of one in recipes/")]
SweepProfile = Annotated[str | None, typer.Option(help="another profile than the sweep's")]
Seeds = Annotated[list[int] | None, typer.Option(help="a seed; again for more [default: the sweep's]")]
JobsAtOnce = Annotated[int | None, typer.Option(min=1, help="stages at once [default: as devices allow]")]


@app.command()
def plan(
    sweep: Annotated[str, typer.Argument(help="a sweep or recipe: a file, or the name of one in recipes/")],
    overrides: Overrides = None,
    profile: SweepProfile = None,
    seed: Seeds = None,
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    utilization: Annotated[float, typer.Option(min=0.01, max=1, help="of the GPUs' peak, for the hours")] = 0.4,
    tflops: Annotated[float, typer.Option(min=0.001, help="a GPU's peak; an H100's is the default")] = 989.0,
    graph: Annotated[str | None, typer.Option(help="print the graph of stages: mermaid or dot")] = None,
    as_json: Json = False,
) -> None:
    """What a sweep will train, once, and what that costs: nothing is loaded."""
    if graph not in (None, "mermaid", "dot"):
        raise BadInput(f"--graph {graph}: mermaid or dot")
    from time import perf_counter

    from remix_toolkit.data.tasks import noting_absent
    from remix_toolkit.plan import plan as make
    from remix_toolkit.report.plan import draw, print_plan
    from remix_toolkit.sweep import load_cells

    started = perf_counter()
    with noting_absent() as absent:
        keep, cells = load_cells(sweep, profile, seed, overrides)
        made = make(cells, keep, runs, jobs or 1, utilization, tflops)
    made |= {"absent": sorted(absent), "seconds": round(perf_counter() - started, 3)}
    if graph:
        typer.echo(draw(made, graph))
    elif as_json:
        typer.echo(json.dumps(made, indent=1))
    else:
        print_plan(made)


@app.command()
def sweep(
    sweep: SweepArg,
    overrides: Overrides = None,
    profile: SweepProfile = None,
    seed: Seeds = None,
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    keep: Annotated[str | None, typer.Option(help="all, leaves, none, or stages' names: whose weights stay")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the arms into this .png or .pdf")] = None,
    retrain_damaged: Annotated[
        bool, typer.Option("--retrain-damaged", help="train a stage again whose files are not what was published")
    ] = False,
    launcher: Annotated[str, typer.Option(help="local, or slurm: hand all jobs to a cluster")] = "local",
    slurm: Annotated[Path | None, typer.Option(help="a YAML file of sbatch's options")] = None,
    status: Annotated[bool, typer.Option("--status", help="only say how far this sweep is")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="only stop this sweep, wherever it runs")] = False,
) -> None:
    """Run a recipe under every arm and seed of a sweep; a stage that runs share is trained once."""
    if launcher not in ("local", "slurm"):
        raise BadInput(f"--launcher {launcher}: local or slurm")
    if slurm and launcher != "slurm":
        raise BadInput("--slurm says how jobs are handed to a cluster: that takes --launcher slurm")
    if launcher == "slurm" and (jobs or plot):
        raise BadInput("--jobs and --plot are for --launcher local, which draws what a cluster has published, too")
    _picture(plot, "--plot")
    from remix_toolkit.launch.state import Command

    command = Command(sweep, profile, seed, overrides or [])
    if status or cancel:
        from remix_toolkit.launch.status import stop, tell

        return stop(command, runs) if cancel else tell(command, runs)
    from remix_toolkit import store
    from remix_toolkit.launch.sweep import failures, record, run_sweep
    from remix_toolkit.sweep import check_keep, keep_of, load_sweep, stages_of

    declared, cells = load_sweep(sweep, profile, seed, overrides)
    kept = declared.keep if keep is None else keep_of(keep)
    check_keep(kept, stages_of(cells), f"--keep {keep}")
    store.open_store(runs)
    if retrain_damaged:
        from remix_toolkit.report.store import verify

        verify(runs, remove=True, keys={node.key for cell in cells for node in cell.nodes})
    mine = record(cells, runs)
    if launcher == "slurm":
        from remix_toolkit.launch.slurm import submit

        queued = sum(bool(entry.job_id) for entry in submit(command, cells, kept, runs, slurm).jobs.values())
        return typer.echo(f"{queued} jobs are with SLURM; the same command with --status says how far they are")
    state = run_sweep(command, cells, kept, runs, jobs)
    from remix_toolkit.report.sweep import print_sweep

    print_sweep(declared, cells, mine, store.entries(runs), plot)
    if failed := failures(state):
        raise RunFailed(failed)


class _ShowByDefault(TyperGroup):
    """`remix data kvr` is `remix data show kvr`: the name of a task or recipe needs no word before it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


data = typer.Typer(cls=_ShowByDefault, no_args_is_help=True, help="Look at data before anything is trained, fetch it.")
app.add_typer(data, name="data")


@data.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="a task (kvr, popqa, ...), or a recipe (recipes/kvr.yaml, mine, ...)")],
    overrides: Overrides = None,
    profile: Profile = "tiny",
    limit: Annotated[int, typer.Option(min=0, help="how many pairs of each kind to show")] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="show each pair as tokens, and what is trained on")] = False,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """A task's rows, or all data of a recipe: kept and dropped, lengths, samples (`remix data NAME`)."""
    from remix_toolkit.recipe import TASKS
    from remix_toolkit.report.data import print_data, show_recipe, show_task
    from remix_toolkit.resolve import find_recipe, load_base, load_recipe, load_task

    # A task has no dotted settings: `remix data popqa paths.lama=LAMA` means the recipe.
    with _only_json(as_json):
        if name in TASKS and not any("." in override.partition("=")[0] for override in overrides or []):
            shown = show_task(load_task(name, overrides or []), load_base(profile), limit, tokens, runs)
        else:
            find_recipe(name, also=TASKS)
            shown = show_recipe(load_recipe(name, profile, overrides, seed), limit, tokens, runs)
    if as_json:
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False))
    else:
        print_data(shown)


@data.command("list")
def data_list(as_json: Json = False) -> None:
    """Every task and mixing source: licence, size, hub id, local format."""
    from remix_toolkit.report.data import list_catalog, print_catalog

    if as_json:
        typer.echo(json.dumps(list_catalog(), indent=1))
    else:
        print_catalog()


@data.command("prepare")
def data_prepare(
    arguments: Annotated[list[str], typer.Argument(help="recipes, and key=value ... for all of them")],
    profile: Profile = "tiny",
    as_json: Json = False,
) -> None:
    """Fetch all that recipes read from the hub, and check what they read from this machine."""
    from remix_toolkit.data.tasks import noting_absent
    from remix_toolkit.report.data import prepare
    from remix_toolkit.sweep import load_cells

    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not names:
        raise BadInput("data prepare: name at least one recipe")
    recipes = []
    with noting_absent():  # what is not here is said of all sources together, below
        for name in names:
            recipes += [cell.recipe for cell in load_cells(name, profile, overrides=overrides)[1]]
    with _only_json(as_json):
        done = prepare(recipes, typer.echo)
    if as_json:
        typer.echo(json.dumps(done, indent=1))


@app.command()
def familiar(
    task: Annotated[str, typer.Argument(help="which facts: popqa, pairs, ...")],
    overrides: Annotated[list[str] | None, typer.Argument(help="the task's settings: path=facts.csv")] = None,
    profile: Profile = "tiny",
    base: Annotated[str | None, typer.Option(help="another base model than the profile's")] = None,
    exemplars: Annotated[int, typer.Option(min=1, help="facts in front of each question, as few_shot.exemplars")] = 5,
    few_shot_seed: Annotated[int, typer.Option(help="which ones, as few_shot.seed")] = 0,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Which facts of a task the base model already answers; recipes with `familiarity` reuse what is found."""
    from remix_toolkit.recipe import Factoid, FewShot
    from remix_toolkit.resolve import load_base, load_task

    declared = load_task(task, overrides or [])
    if not isinstance(declared, Factoid):
        raise BadInput(f"{task}: instructions are not familiar or unfamiliar; name a task of facts")
    declared = declared.model_copy(update={"familiarity": "familiar"})  # of generated facts, all that can be chosen
    recipe = load_base(profile)
    changes = {"few_shot": FewShot(exemplars=exemplars, seed=few_shot_seed), "base": base or recipe.base}
    from remix_toolkit import store
    from remix_toolkit.familiar import split

    store.open_store(runs)
    with _only_json(as_json):
        result = split(recipe.model_copy(update=changes), declared, runs)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['task']}: {result['familiar']:,} of {result['facts']:,} facts are familiar to "
        f"{result['model']}, {result['unfamiliar']:,} are not; each with its answer in {result['path']}"
    )


@app.command()
def recall(
    model: Annotated[str, typer.Argument(help="a published stage, any model directory, or a hub id")],
    overrides: Annotated[list[str] | None, typer.Argument(help="the task's settings: size=100 path=facts.csv")] = None,
    task: Annotated[str, typer.Option(help="which facts: kvr, popqa, pairs, ...")] = "kvr",
    data_seed: Annotated[int, typer.Option(help="which draw of generated facts")] = 0,
    details: Annotated[Path | None, typer.Option(help="write each fact's verdict here, as JSON lines")] = None,
    as_json: Json = False,
) -> None:
    """Recall of a task's facts by a model, in percent."""
    from remix_toolkit.resolve import load_task

    declared = load_task(task, overrides or [])
    _writable(details, "--details")
    from remix_toolkit.analysis.subject import recall_of

    result = recall_of(model, declared, data_seed, details)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['recall']:.1f}% of {result['facts']} facts ({result['correct']} correct)"
    )


@app.command()
def show(
    runs: Runs = Path("runs"),
    each: Annotated[bool, typer.Option("--each", help="every run by itself, whatever the number of seeds")] = False,
    seeds: Annotated[bool, typer.Option("--seeds", help="over seeds, whatever their number; with --json too")] = False,
    recipe: Annotated[str | None, typer.Option(help="only the runs of this recipe or sweep")] = None,
    curves: Annotated[Path | None, typer.Option(help="draw its retention curves into this .png or .pdf")] = None,
    as_json: Json = False,
) -> None:
    """What is published: recall of each task after each stage, by run or, of several seeds, over them."""
    from remix_toolkit import store
    from remix_toolkit.report.retention import print_matrices
    from remix_toolkit.report.seeds import aggregate, compared, expected, print_seeds

    _picture(curves, "--curves")
    found = [entry for entry in store.entries(runs) if recipe in (None, entry["recipe"])]
    wanted = expected([record for record in store.records(runs) if recipe in (None, record["recipe"])])
    if as_json:
        over_seeds = {"recall": aggregate(found, wanted), "paired": compared(found)} if seeds else {}
        return typer.echo(json.dumps(over_seeds if seeds else found, indent=1))
    if not found:
        return typer.echo(f"{runs}: nothing is published yet")
    if curves:
        from remix_toolkit.report.plot import plot_curves

        plot_curves(found, curves)
        return typer.echo(f"plot: {curves}")
    ran: dict[tuple[str, str], set[int]] = {}
    for name, arm, profile in wanted:
        ran.setdefault((name, profile), set()).update(wanted[name, arm, profile])
    several = {at for at, of in ran.items() if (len(of) > 1 or seeds) and not each}
    together = [entry for entry in found if (entry["recipe"], entry["profile"]) in several]
    print_matrices([entry for entry in found if entry not in together])
    print_seeds(together, {at: of for at, of in wanted.items() if (at[0], at[2]) in several})


app.add_typer(probe, name="probe")

StageArg = typer.Argument(help="a published stage: its directory, its key, or as much of its name as is its alone")
Output = Annotated[Path | None, typer.Option("--output", "-o", help="write it into this file [default: the screen]")]


@app.command()
def card(stage: Annotated[str, StageArg], runs: Runs = Path("runs"), output: Output = None) -> None:
    """A model card: what a stage knows, its lineage, data and licences, how to load it and to train it again."""
    from remix_toolkit.report.card import card as write
    from remix_toolkit.report.names import stage_of

    _give(output, write(stage_of(stage, runs)))


@app.command()
def results(stage: Annotated[str | None, StageArg] = None, runs: Runs = Path("runs"), output: Output = None) -> None:
    """results.json, for machines: recall, settings, versions; of a stage and its lineage, or of all that is there."""
    from remix_toolkit.report.names import stage_of
    from remix_toolkit.report.results import as_json, of_stage, of_store

    _give(output, as_json(of_stage(stage_of(stage, runs)) if stage else of_store(runs)))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a stage (directory, key, name), an arm, a recipe, or a runs directory")],
    b: Annotated[str, typer.Argument(help="another one")],
    runs: Runs = Path("runs"),
    facts: Annotated[Path | None, typer.Option(help="write all facts that only one of them knows, as CSV")] = None,
    as_json: Json = False,
) -> None:
    """Two stages, arms, sweeps or runs directories side by side: settings, facts kept, losses, retention curves."""
    _writable(facts, "--facts")
    from remix_toolkit.report import compare as side_by_side

    found = side_by_side.compare(a, b, runs)
    if facts:
        side_by_side.write_facts(found, facts)
    if as_json:
        return typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    side_by_side.print_compared(found)


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="where stages are published")] = Path("runs"),
    out: Annotated[Path | None, typer.Option("-o", "--out", help="the report's folder [default: RUNS/report]")] = None,
    recipe: Annotated[str | None, typer.Option(help="only the runs of this recipe or sweep")] = None,
) -> None:
    """All that is published as one HTML page, its figures and tables as files beside it."""
    from remix_toolkit.report.page import report as write

    write(runs, out, recipe)


store_app = typer.Typer(no_args_is_help=True, help="What is published: list it, check it, make room.")
app.add_typer(store_app, name="store")


@store_app.command("list")
def store_list(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Every published stage: its size, whether its weights are there, and how many runs it is part of."""
    from remix_toolkit.report.store import listed, print_listed

    if as_json:
        typer.echo(json.dumps(listed(runs), indent=1))
    else:
        print_listed(runs)


@store_app.command("verify")
def store_verify(
    runs: Runs = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="delete damaged stages, to be trained again")] = False,
) -> None:
    """Compare every file of every published stage with its checksum."""
    from remix_toolkit.report.store import verify

    if wrong := verify(runs, remove):
        raise RunFailed(f"{wrong} damaged stages{' were removed' if remove else ''}")


@store_app.command("prune")
def store_prune(
    runs: Runs = Path("runs"),
    keep: Annotated[str, typer.Option(help="leaves, none, or stages' names: whose weights stay")] = "leaves",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
) -> None:
    """Delete weights of finished runs, never their results; a stage that is needed again is trained again."""
    from remix_toolkit.report.store import prune
    from remix_toolkit.sweep import keep_of

    prune(runs, keep_of(keep), dry_run)


@app.command()
def schema(what: Annotated[str, typer.Argument(help="recipe, or results: of `remix results`")] = "recipe") -> None:
    """The JSON Schema of a recipe, for editors, or of results.json."""
    if what not in ("recipe", "results"):
        raise BadInput(f"schema {what}: recipe or results")
    if what == "recipe":
        from remix_toolkit.recipe import json_schema
    else:
        from remix_toolkit.report.results import json_schema
    typer.echo(json.dumps(json_schema(), indent=1))


def _only_json(as_json: bool) -> AbstractContextManager[Any]:
    """With --json, what is said on the way goes to stderr: stdout is for machines."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def _give(file: Path | None, text: str) -> None:
    """Write a text into a file, or to stdout. Raises BadInput where it cannot be written."""
    if file is None:
        return typer.echo(text, nl=False)
    if (file.parent / "stage.json").exists():  # where a recipe names the stage as its base, every file in it counts
        raise BadInput(
            f"--output {file}: is in a published stage, which stays as it is; write it beside that directory"
        )
    _writable(file, "--output")
    file.write_text(text, encoding="utf-8")


def _picture(file: Path | None, option: str) -> None:
    """Raise BadInput where a plot cannot be drawn into this file."""
    if file and file.suffix not in (".png", ".pdf", ".svg"):
        raise BadInput(f"{option} {file}: a name that ends in .png, .pdf or .svg is expected")
    _writable(file, option)


def _writable(file: Path | None, option: str) -> None:
    """Raise BadInput, before the work and not after it, if a result could not be written."""
    try:
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
    except OSError as error:
        raise BadInput(f"{option} {file}: cannot be written ({error.strerror})") from None


def main() -> None:
    """The console script."""
    exit_codes(app)


if __name__ == "__main__":
    main()
