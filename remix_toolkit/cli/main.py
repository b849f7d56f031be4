"""The `remix` command. Nothing heavy is imported before a command needs it: help is on the screen at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from remix_toolkit.cli.data import data
from remix_toolkit.cli.options import (
    JobsAtOnce,
    Json,
    Overrides,
    Profile,
    RecipeArg,
    Runs,
    Seed,
    Seeds,
    SweepArg,
    SweepProfile,
    only_json,
    picture,
    writable,
)
from remix_toolkit.cli.probe import probe
from remix_toolkit.cli.recipes import gallery
from remix_toolkit.cli.report import reading, store_app
from remix_toolkit.errors import BadInput, RunFailed, exit_on_error
from remix_toolkit.stage.command import stage as stage_command

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Teach a model facts that stay."
)


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
    from remix_toolkit.recipe.load import load_recipe

    overrides = [*(overrides or []), *([f"accelerate_config={json.dumps(accelerate)}"] if accelerate else [])]
    resolved = load_recipe(recipe, profile, overrides, seed, until=stage)
    from remix_toolkit.launch.local import run as run_recipe

    record = run_recipe(resolved, runs, stage)
    from remix_toolkit import store
    from remix_toolkit.report.retention import print_matrices

    names = ("recipe", "arm", "profile", "seed", "run")
    run_of = (record.recipe, record.arm, record.profile, record.seed, record.keys[-1])
    print_matrices([entry for entry in store.entries(runs) if tuple(entry[name] for name in names) == run_of])


app.command("stage")(stage_command)


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
    graph: Annotated[str | None, typer.Option(help="print the graph of stages: mermaid")] = None,
    as_json: Json = False,
) -> None:
    """What a sweep will train, once, and what that costs: nothing is loaded."""
    if graph not in (None, "mermaid"):
        raise BadInput(f"--graph {graph}: mermaid")
    from time import perf_counter

    from remix_toolkit.cli.print_plan import draw, print_plan
    from remix_toolkit.data.sources import absent_sources
    from remix_toolkit.graph.plan import plan as make
    from remix_toolkit.graph.sweep import load_cells

    started = perf_counter()
    keep, cells = load_cells(sweep, profile, seed, overrides)
    made = make(cells, keep, runs, jobs or 1, utilization, tflops)
    absent = absent_sources(stage for cell in cells for stage in cell.recipe.stages.values())
    made |= {"absent": sorted(absent), "seconds": round(perf_counter() - started, 3)}
    if graph:
        typer.echo(draw(made))
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
    picture(plot, "--plot")
    from remix_toolkit.launch.state import Command

    command = Command(sweep=sweep, profile=profile, seeds=seed, overrides=overrides or [])
    if status or cancel:
        from remix_toolkit.launch.status import show_status, stop

        return stop(command, runs) if cancel else show_status(command, runs)
    from remix_toolkit import store
    from remix_toolkit.data.sources import require_sources
    from remix_toolkit.graph.sweep import check_keep, load_sweep, parse_keep, stage_names
    from remix_toolkit.launch.sweep import failures, run_sweep

    declared, cells = load_sweep(sweep, profile, seed, overrides)
    kept = declared.keep if keep is None else parse_keep(keep)
    check_keep(kept, stage_names(cells), f"--keep {keep}")
    require_sources(stage for cell in cells for stage in cell.recipe.stages.values())
    store.open_store(runs)
    if retrain_damaged:
        from remix_toolkit.cli.print_store import verify

        verify(runs, remove=True, keys={node.key for cell in cells for node in cell.nodes})
    records = [cell.record() for cell in cells]
    store.record_runs(runs, records)  # all of them: what is published is shown, and what is missing too
    if launcher == "slurm":
        from remix_toolkit.launch.slurm import submit

        queued = sum(bool(job.job_id) for job in submit(command, cells, kept, runs, slurm).jobs.values())
        return typer.echo(f"{queued} jobs are with SLURM; the same command with --status says how far they are")
    state = run_sweep(command, cells, kept, runs, jobs)
    from remix_toolkit.cli.print_sweep import print_sweep

    print_sweep(declared, records, store.entries(runs), plot)
    if failed := failures(state):
        raise RunFailed(failed)


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
    from remix_toolkit.recipe.load import load_base, load_task
    from remix_toolkit.recipe.schema import Factoid, FewShot

    declared = load_task(task, overrides or [])
    if not isinstance(declared, Factoid):
        raise BadInput(f"{task}: instructions are not familiar or unfamiliar; name a task of facts")
    declared = declared.model_copy(update={"familiarity": "familiar"})  # of generated facts, all that can be chosen
    recipe = load_base(profile)
    changes = {"few_shot": FewShot(exemplars=exemplars, seed=few_shot_seed), "base": base or recipe.base}
    from remix_toolkit import store
    from remix_toolkit.stage.familiar import split

    store.open_store(runs)
    with only_json(as_json):
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
    from remix_toolkit.recipe.load import load_task

    declared = load_task(task, overrides or [])
    writable(details, "--details")
    from remix_toolkit.cli.any_model import recall_of

    result = recall_of(model, declared, data_seed, details)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['recall']:.1f}% of {result['facts']} facts ({result['correct']} correct)"
    )


app.add_typer(gallery)
app.add_typer(reading)
app.add_typer(data, name="data")
app.add_typer(probe, name="probe")
app.add_typer(store_app, name="store")


@app.command()
def schema(what: Annotated[str, typer.Argument(help="recipe, or results: of `remix results`")] = "recipe") -> None:
    """The JSON Schema of a recipe, for editors, or of results.json."""
    if what not in ("recipe", "results"):
        raise BadInput(f"schema {what}: recipe or results")
    if what == "recipe":
        from remix_toolkit.recipe.json_schema import json_schema
    else:
        from remix_toolkit.report.results import json_schema
    typer.echo(json.dumps(json_schema(), indent=1))


def main() -> None:
    """The console script."""
    exit_on_error(app)
