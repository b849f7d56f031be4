"""The report's figures, and what it says of probes, settings and how to run it all again: on stages really trained."""

import shlex
from pathlib import Path

import pandas as pd
import pytest
from trained_store import FEW, HALF, TrainedStore, sweep_of

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.interference import Angle, GradientNorm, Interference
from remix_toolkit.graph.sweep_state import Command, SweepState
from remix_toolkit.records import RunRecord
from remix_toolkit.report import figures
from remix_toolkit.report.frame import load
from remix_toolkit.report.parts import Figure
from remix_toolkit.report.probes import probes
from remix_toolkit.report.settings import rerun

BOTH = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}


def test_figures_are_the_same_bytes_and_beside_each_are_its_numbers(trained: TrainedStore, tmp_path: Path) -> None:
    """Their names hold what LaTeX, a legend or mathematics would take for something else."""
    files = {name: trained.text(name) for name in ("lens.json", "interference.json", "retention.jsonl")}
    trained.write_arms(tmp_path, {"$\\frac$": FEW, "_hidden": HALF}, files=files)
    sweep = sweep_of(tmp_path)
    made = [figures.curves(sweep), figures.losses(sweep), figures.arms(sweep, "kvr")]
    made += [part for part in probes(sweep) if isinstance(part, Figure)]
    assert [figure.name.split("-")[0] for figure in made] == ["curves", "losses", "arms", "lens"]
    for figure in made[1:3]:
        once, again = (figures.rendered(figure.draw, ("png", "pdf", "svg")) for _ in range(2))
        assert once == again
        assert [once[ending][:4] for ending in once] == [b"\x89PNG", b"%PDF", b"<?xm"]
    assert r"$\frac$ in stage1: 4 to 1" in made[1].alt
    legend, rows = made[1].draw().legends[0].get_texts(), made[2].draw().axes[0].get_yticklabels()
    assert [[label.get_text() for label in labels] for labels in (legend, rows)] == [[r"$\frac$", "_hidden"]] * 2


def test_a_line_is_the_mean_over_seeds_where_all_have_a_point() -> None:
    def thick(*points: tuple[int, float, float]) -> list[list[tuple[float, float]]]:
        rows = [{"panel": "stage2", "label": "none", "seed": seed, "x": x, "y": y} for seed, x, y in points]
        (axes,) = figures.draw_lines(pd.DataFrame(rows), ["none"], "steps of", "loss").axes
        return [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_linewidth() > 1]

    assert thick((0, 1, 2), (0, 2, 0), (1, 1, 4)) == [[(1, 3)]]
    assert thick((0, 1, 2), (1, 3, 4)) == []


def test_long_losses_are_drawn_as_means_and_what_is_no_number_is_named(trained, tmp_path: Path) -> None:
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}}, losses=[2.0, float("nan"), *[4.0, 1.0] * 200])
    warnings: list[str] = []
    losses = figures.losses(sweep_of(tmp_path, warnings))
    assert warnings == ["none, seed 0: the loss of stage1 is no number at 1 steps, first at step 2"]
    line = losses.draw().axes[0].lines[-1]
    assert len(line.get_xdata()) == 134 <= figures.DRAWN  # of 402 steps, three at a time
    assert list(line.get_ydata()[:3]) == [3, 2, 3]


def test_curves_of_several_recipes_are_refused(trained, tmp_path: Path) -> None:
    for recipe in ("sizes", "other"):
        trained.write_run(tmp_path, "none", 0, BOTH, recipe=recipe)
    with pytest.raises(BadInput, match="curves of other on tiny, sizes on tiny cannot be told apart"):
        figures.plot_curves(load(tmp_path), tmp_path / "curves.png")


def test_gradients_that_are_noise_are_shown_as_noise(trained, tmp_path: Path) -> None:
    """Of seed 0, the earlier facts' gradient; of the other arm, in every seed."""
    result = trained.result(Interference())
    noise = {pair: Angle(cosine=None, low=None, high=None, inner=0.0) for pair in ("a.b", "a.m")}
    norms = {**result.norms, "a": GradientNorm(norm=1.0, signal=0.0, noise=True)}
    groups = {part: {**pairs, **noise} for part, pairs in result.groups.items()}
    weak = trained.result(Interference(), norms=norms, groups=groups)
    for arm, seed, measured in (("some", 0, weak), ("some", 1, result), ("all", 0, weak), ("all", 1, weak)):
        files = {"interference.json": Interference().record({"kvr-1": measured}).model_dump_json()}
        trained.write_run(tmp_path, arm, seed, BOTH, files=files)
    warnings: list[str] = []
    _, cosines, foretold = probes(sweep_of(tmp_path, warnings))
    angle = result.groups["whole"]["a.b"]
    about = "earlier facts and this stage's"
    interval = f"[{angle.low:+.3f}, {angle.high:+.3f}]"
    assert cosines.shown.loc[("some", "stage2", about)].tolist() == [f"{angle.cosine:+.3f}", interval, 2, 1]
    assert cosines.shown.loc[("all", "stage2", about)].fillna("-").tolist() == ["noise", "-", 2, 2]
    assert cosines.notes[1].startswith("Noise: ")
    assert foretold.shown["seeds"].tolist() == [2, 2]
    assert warnings == []


def test_each_run_has_the_command_that_makes_it_again(trained, tmp_path: Path) -> None:
    match = {"stages.stage1.match": {"steps_of": "a" * 16}, "stages.stage1.mix": {"a": 1}, "b": "c d"}
    folders = trained.write_run(tmp_path, "control", 0, BOTH, settings=match, sweep="lost")
    (tmp_path / "sweeps" / "lost").mkdir(parents=True)
    command = Command(sweep="recipes/a b.yaml", profile="tiny", seeds=[0], overrides=["x=1"])
    state = SweepState(id="lost", command=command, keep="all", launcher="local", jobs={})
    state.save(tmp_path / "sweeps" / "lost")
    whole, runs = rerun(sweep_of(tmp_path), tmp_path)
    where = ["--profile", "tiny", "--seed", "0", "--runs", str(tmp_path)]
    assert shlex.split(whole.shown["command"].item()) == ["remix", "sweep", "recipes/a b.yaml", *where, "x=1"]
    keys, line = runs.shown.loc[("control", 0)]
    assert keys == " ".join(f"{stage}={folder.name.rpartition('-')[2]}" for stage, folder in folders.items())
    source = RunRecord.read(next((tmp_path / "records").glob("*.json"))).source
    overrides = [f'stages.stage1.match={{"steps_of": "{"a" * 16}"}}', 'stages.stage1.mix={"a": 1}', 'b="c d"']
    assert shlex.split(line) == ["remix", "run", source, *where, *overrides]
    assert "names a stage of this store by its key" in runs.notes[1]
    (runs,) = rerun(sweep_of(tmp_path), Path("runs"))  # the default goes without an option
    assert "--runs" not in runs.shown["command"].item()
    (tmp_path / "sweeps" / "lost" / "state.json").write_text("{", encoding="utf-8")
    warnings: list[str] = []
    assert len(rerun(sweep_of(tmp_path, warnings), tmp_path)) == 1
    assert "state.json: cannot be read" in warnings[0]
