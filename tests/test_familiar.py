"""Familiarity: who is asked, what is kept, what recipes make of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import real

from remix_toolkit import disk
from remix_toolkit.data import few_shot, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import recall
from remix_toolkit.graph import lineage as keys
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe.load import load_recipe, load_task
from remix_toolkit.recipe.schema import FewShot, Recipe
from remix_toolkit.records import seal
from remix_toolkit.stage import familiar
from remix_toolkit.stage.take_rows import take_rows

FACTS = [Pair(f"question {i}?", f"answer {i}", "pairs", (f"answer {i}",)) for i in range(40)]


@pytest.fixture
def facts_csv(tmp_path: Path) -> Path:
    lines = [f"{pair.prompt},{pair.response}\n" for pair in FACTS]
    (tmp_path / "facts.csv").write_text("prompt,response\n" + "".join(lines), encoding="utf-8")
    return tmp_path / "facts.csv"


def recipe_of(facts_csv: Path, *overrides: str) -> Recipe:
    file = facts_csv.with_name("mine.yaml")
    file.write_text(
        f"stages: {{stage1: {{data: {{task: pairs, path: {facts_csv}, familiarity: unfamiliar, size: 8}}}}}}\n"
        "global_batch_size: 4\n",
        encoding="utf-8",
    )
    return load_recipe(file, "tiny", list(overrides))


class Oracle:
    """Stands in for recall by a base model: it knows the facts with an even number, or as said."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        says: Callable[[Pair], str] = lambda fact: "?" if int(fact.response.split()[-1]) % 2 else fact.response,
    ) -> None:
        self.asked: list[Pair] = []
        self.says = says
        monkeypatch.setattr("remix_toolkit.evaluate.recall.recall", self)
        monkeypatch.setattr(familiar, "CHUNK", 10)

    def __call__(self, model: object, tokenizer: object, facts: list[Pair], whole: bool) -> list:
        from remix_toolkit.evaluate.recall import Verdict

        assert whole  # the answer of every row is kept, wrong ones too
        self.asked += facts
        return [
            Verdict(
                prompt=fact.prompt,
                gold=fact.answers,
                correct=self.says(fact) == fact.response,
                prediction=self.says(fact),
                prediction_complete=True,
                settled_by="scoring",
            )
            for fact in facts
        ]


def test_exemplars_are_never_asked() -> None:
    task = load_task("pairs", ["path=x.csv"])
    shots, others = few_shot.draw_exemplars(task, FACTS, FewShot(exemplars=5, seed=0))
    assert len(shots) == 5
    assert others == [fact for fact in FACTS if fact not in shots]
    assert few_shot.draw_exemplars(task, FACTS, FewShot(exemplars=5, seed=1))[0] != shots
    asked = few_shot.with_exemplars(shots[:1], FACTS[3])
    assert asked.prompt == f"{shots[0].prompt}\n<|assistant|>\n{shots[0].response}\n<|user|>\n{FACTS[3].prompt}"
    assert (asked.response, asked.one_line) == (FACTS[3].response, True)
    capital = Pair("What is the capital of Peru?\nThe answer is:", "Lima", "capitals", ("Lima",), "Peru")
    asked = few_shot.with_exemplars([capital], capital, "qa")
    question = "Q: What is the capital of Peru?\nA:"
    assert (asked.prompt, asked.plain) == (f"{question} Lima\n\n{question}", True)
    with pytest.raises(BadInput, match=r"few_shot.exemplars: 40 .*the data has .*40 rows"):
        few_shot.draw_exemplars(task, FACTS, FewShot(exemplars=40))


def test_rows_are_asked_once_and_no_further_than_needed(
    facts_csv: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle(monkeypatch)
    recipe = recipe_of(facts_csv)
    task = recipe.stages["stage1"].data
    chosen, _, counts = take_rows(recipe, task, runs)
    shots, others = few_shot.draw_exemplars(task, FACTS, recipe.few_shot)
    unfamiliar = [fact for fact in others if int(fact.response.split()[-1]) % 2]
    assert chosen == unfamiliar[:8]
    assert counts.exemplars == 5
    assert counts.left_out["familiar"] > 0
    assert len(oracle.asked) == 2 * 20  # two chunks hold eight unfamiliar facts; each is asked in both formats

    take_rows(recipe, task, runs)
    assert len(oracle.asked) == 2 * 20  # reused
    file = keys.split_folder(recipe, task, runs) / "verdicts.jsonl"
    written = file.read_text(encoding="utf-8")
    file.write_text(written + written[:150], encoding="utf-8")  # a crash in the middle of the next chunk
    everything = list(familiar.verdicts(recipe, task, shots, others, runs))
    assert everything == [fact not in unfamiliar for fact in others]
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row["familiar"]) for row in rows] == list(
        zip([fact.prompt for fact in others], everything, strict=True)
    )
    assert len(oracle.asked) == 2 * (20 + 15)  # only what had not been asked
    split = familiar.SplitRecord.read(file.with_name("split.json"))
    assert split.exemplars == {form: few_shot.exemplars_text(shots, form) for form in ("tulu", "qa")}


def test_a_fact_is_unfamiliar_where_neither_format_finds_it(facts_csv: Path, runs: Path, monkeypatch) -> None:
    """Of three facts, the model knows one in Tulu's format, the next in the other, and one in neither."""
    number = lambda fact: int(fact.response.split()[-1])  # noqa: E731
    Oracle(monkeypatch, lambda fact: fact.response if number(fact) % 3 == (1 if fact.plain else 0) else "?")

    def taken(*overrides: str) -> set[int]:
        recipe = recipe_of(facts_csv, "stages.stage1.data.size=5", *overrides)
        return {number(fact) % 3 for fact in take_rows(recipe, recipe.stages["stage1"].data, runs)[0]}

    assert taken() == {2}
    assert taken("few_shot.format=tulu") == {1, 2}
    assert taken("few_shot.format=qa") == {0, 2}
    assert taken("stages.stage1.data.familiarity=familiar") == {0}  # it is asked in Tulu's format later
    assert taken("stages.stage1.data.familiarity=familiar", "few_shot.format=qa") == {1}
    assert len(list((runs / "familiar").iterdir())) == 1
    shutil.rmtree(runs / "familiar")
    Oracle(monkeypatch, lambda fact: "?")
    with pytest.raises(BadInput, match=r"facts\.csv\): the base model answers none of its facts"):
        taken("stages.stage1.data.familiarity=familiar")


def test_the_command_says_what_each_format_finds_and_what_is_a_guess(here, runs: Path, monkeypatch) -> None:
    """The model names the right capital for A to E in one format, and London for all in the other."""
    oracle = Oracle(monkeypatch, lambda fact: "London" if fact.plain else fact.response if fact.subject < "F" else "?")
    line = ["familiar", "capitals", "size=180", "--runs", runs, "--json"]
    counts = json.loads(here(*line).stdout)
    oracle.asked.clear()
    assert json.loads(here(*line).stdout) == counts
    assert not oracle.asked
    rows = familiar.asked(Path(counts["path"]).parent)
    assert [row.prompt for row in rows if row.guess] == ["What is the capital of the United Kingdom?\nThe answer is:"]
    assert {row.relation for row in rows} == {"What is the capital of X?"}
    assert counts["facts"] == len(rows) == 180
    assert (counts["qa"], counts["guesses"], counts["familiar"]) == (1, 1, counts["tulu"] + 1)
    assert "capitals: 200 rows requested, but the data has 183" in here(*line, "size=200", check=False).stderr


def test_rows_that_changed_are_noticed(facts_csv: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle(monkeypatch)
    recipe = recipe_of(facts_csv)
    task = recipe.stages["stage1"].data
    take_rows(recipe, task, runs)
    shots, others = few_shot.draw_exemplars(task, FACTS, recipe.few_shot)
    with pytest.raises(BadInput, match="its source has changed"):
        list(familiar.verdicts(recipe, task, shots, others[::-1], runs))


def test_verdicts_that_are_not_what_was_written_are_asked_for_again(
    facts_csv: Path, runs: Path, here, monkeypatch, capsys
) -> None:
    Oracle(monkeypatch)
    recipe = recipe_of(facts_csv)
    task = recipe.stages["stage1"].data
    chosen, _, _ = take_rows(recipe, task, runs)
    folder = keys.split_folder(recipe, task, runs)
    good = (folder / "verdicts.jsonl").read_text(encoding="utf-8")
    (runs / "stages").mkdir()
    flipped = good.replace('"familiar":false', '"familiar": true', 1)  # as many bytes
    assert len(flipped) == len(good)
    for text in (flipped, good.partition("\n")[0] + "\n", ""):
        disk._warn_once.cache_clear()
        (folder / "verdicts.jsonl").write_text(text, encoding="utf-8")
        assert take_rows(recipe, task, runs)[0] == chosen
        assert "verdicts.jsonl: is not the file that was written" in capsys.readouterr().err
        assert (folder / "verdicts.jsonl").read_text(encoding="utf-8") == good
    split = familiar.SplitRecord.read(folder / "split.json")
    (folder / "verdicts.jsonl").write_text(flipped, encoding="utf-8")
    split.model_copy(update={"verdicts": seal(flipped.encode())}).sealed().write(folder / "split.json")
    with pytest.raises(BadInput, match=r"verdicts\.jsonl:\d+: familiar: is True, for the answers .*'\?'"):
        familiar.asked(folder)
    checked = here("store", "verify", "--remove", "--runs", runs, check=False)
    assert (checked.returncode, "1 of 2 stages, bases" in checked.stdout) == (1, True), checked.stdout
    assert not folder.exists()
    assert take_rows(recipe, task, runs)[0] == chosen


def test_the_split_is_of_the_base_model_and_the_prompt(facts_csv: Path) -> None:
    recipe = recipe_of(facts_csv)
    task = recipe.stages["stage1"].data

    def folder(*overrides: str) -> Path:
        return keys.split_folder(recipe_of(facts_csv, *overrides), task, Path("runs"))

    assert folder() == folder("stages.stage1.data.size=3", "seed=1")
    others = [folder("few_shot.seed=1"), folder("few_shot.exemplars=3"), folder("base=a/b"), folder("data_seed=1")]
    assert len({folder(), *others}) == 5


def test_familiarity_is_in_the_key(facts_csv: Path) -> None:
    keys = {
        lineage(recipe_of(facts_csv, *overrides))[0].key
        for overrides in ([], ["few_shot.seed=1"], ["stages.stage1.data.familiarity=familiar"])
    }
    assert len(keys) == 3
    plain = "stages.stage1.data.familiarity=null"
    same = {lineage(recipe_of(facts_csv, plain, *more))[0].key for more in ([], ["few_shot.seed=1"])}
    assert len(same) == 1  # without a few-shot prompt, its seed is nothing


def test_an_answer_ends_with_its_line_under_a_few_shot_prompt(tiny_base: Path, tokenizer) -> None:
    """A base model goes on after its answer; what it says to a plain prompt counts whole."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    pair = Pair("a?", "yes", "pairs", ("yes",))
    said = tokenizer("yes\nno", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]

    class Says(type(model)):
        """Emits `said` whatever it is asked, from the end of the prompt on."""

        def forward(self, input_ids=None, logits_to_keep=0, **_):
            import torch
            from transformers.modeling_outputs import CausalLMOutput

            prompt = len(tokenizer("<|user|>\na?\n<|assistant|>\n", add_special_tokens=False)["input_ids"]) + 1
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for position in range(input_ids.shape[1]):
                logits[:, position, said[min(max(position + 1 - prompt, 0), len(said) - 1)]] = 10.0
            kept = logits_to_keep if isinstance(logits_to_keep, torch.Tensor) else slice(-logits_to_keep or None, None)
            return CausalLMOutput(logits=logits[:, kept])

    model.__class__ = Says
    model.config.use_cache = False
    few = few_shot.with_exemplars([], pair)
    assert [v.correct for v in recall(model, tokenizer, [few])] == [True]
    assert recall(model, tokenizer, [few])[0].prediction == "yes"
    assert [v.correct for v in recall(model, tokenizer, [pair])] == [False]


def test_base_stage_mistakes(facts_csv: Path) -> None:
    with pytest.raises(BadInput, match=r"base_stage: no stage 'stage'; did you mean 'stage1'"):
        recipe_of(facts_csv, "base_stage=stage")
    with pytest.raises(BadInput, match="known only after stage1, the base_stage"):
        recipe_of(facts_csv, "base_stage=stage1")


def test_a_split_before_its_stage_is_refused(runs: Path) -> None:
    recipe = load_recipe("familiar_facts", "tiny")
    with pytest.raises(BadInput, match="run it first: --stage taught"):
        take_rows(recipe, recipe.stages["stage2"].data, runs)


@pytest.mark.slow
def test_a_model_that_was_taught_half_of_the_facts(here, runs: Path) -> None:
    """The recipe's own way, smaller: eight facts taught under the few-shot prompt; the split recovers them exactly."""
    small = ["base=tiny-128x2", "stages.taught.data.size=8", "few_shot.exemplars=1", "global_batch_size=8"]
    small += ["stages.taught.train={num_train_epochs: 60, learning_rate: 4e-3}", "train.save_strategy=no"]
    small += ["stages.stage2.data.size=8"]
    small += ["stages.stage2.train={max_steps: 1}"]
    small += ["stages.stage2.recall=[{task: invented_facts, familiarity: familiar, prompt: few_shot, size: 8}]"]
    done = here("run", "familiar_facts", "--runs", runs, *small)
    (file,) = runs.glob("familiar/invented_facts-*/verdicts.jsonl")
    verdicts = [json.loads(line)["familiar"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert verdicts == [True] * 8 + [False] * (len(verdicts) - 8)
    found = json.loads(here("show", "--runs", runs, "--json").stdout)
    labels = {(entry["stage"], entry["task"]) for entry in found}
    assert ("stage2", "invented_facts familiar[0:8], few-shot") in labels, done.stdout
    facts = tasks.load_rows(load_task("invented_facts", ["size=16"]), 0)
    details = [json.loads(line) for line in next(runs.glob("stages/*stage2*/recall.jsonl")).open(encoding="utf-8")]
    asked = {line["prompt"].split("\n")[-1] for line in details}
    assert asked == {fact.prompt for fact in facts}


def test_familiar_command_on_real_questions(here, runs: Path) -> None:
    """An untrained model knows nothing; the command goes through all rows and says where the answers are."""
    path = real("popqa/popQA.tsv")
    small = runs.parent / "popQA.tsv"
    small.write_text("".join(path.open(encoding="utf-8").readlines()[:31]), encoding="utf-8")
    result = json.loads(here("familiar", "popqa", f"path={small}", "--runs", runs, "--json").stdout.splitlines()[-1])
    assert (result["facts"], result["familiar"], result["unfamiliar"], result["exemplars"]) == (25, 0, 25, 5)
    assert len(Path(result["path"]).read_text(encoding="utf-8").splitlines()) == 25
