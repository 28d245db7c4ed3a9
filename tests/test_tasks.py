"""Tasks are found, drawn and built as asked; what cannot be is refused early; conf/task composes."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from edit_sweeps import task_files
from edit_sweeps.task_files import check_task, find_file
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec, task_names_exist
from edit_sweeps.tasks import draw

pytest_plugins = ["tests.task_folder"]

CONF = Path(__file__).parent.parent / "conf"


def test_few_shot_examples_differ_between_documents_and_stay_for_all_models(everything, make):
    prompts = [r.args[0] for r in everything.built["shots"].requests]
    assert len({p.rpartition("\n\n")[0] for p in prompts}) > 10
    again = make("shots", settings={"batch_size": 3})
    assert again.built["shots"].prompt_hash == everything.built["shots"].prompt_hash
    other = make("shots", settings={"batch_size": 3, "seed": 1})
    assert other.built["shots"].prompt_hash != everything.built["shots"].prompt_hash
    none = make(shots={"num_fewshot": 0})
    assert none.built["shots"].prompt_hash == everything.built["choice"].prompt_hash


def test_a_limit_draws_nested_subsets_and_scores_them_as_the_whole_does(make, everything, tiny):
    four, eight = (
        make("margin", settings={"batch_size": 3, "limit": n}).score(tiny).scores["margin"]["acc"]
        for n in (4, 8)
    )
    whole = everything.score(tiny).scores["margin"]["acc"].samples
    assert set(four.samples) < set(eight.samples) < set(whole)
    assert (four.n, eight.n) == (4, 8)
    assert list(map(int, eight.samples)) == sorted(map(int, eight.samples)) != list(range(8))
    assert all(whole[d] == value for d, value in eight.samples.items())


def test_draws_are_nested_sorted_and_bounded():
    assert draw(10, None, 0) is draw(10, 10, 0) is draw(10, 99, 0) is None
    assert draw(10, 0.25, 0) == draw(10, 3, 0)
    assert draw(1000, 50, 0) != draw(1000, 50, 1)
    for small, large in ((1, 2), (7, 40), (40, 900)):
        assert set(draw(1000, small, 3)) < set(draw(1000, large, 3))
        assert draw(1000, large, 3) == sorted(draw(1000, large, 3))


def test_a_tasks_own_limit_goes_before_the_common_one(make):
    bench = make("choice", margin={"limit": 0.1}, settings={"limit": 5})
    counts = {name: len({r.doc_id for r in b.requests}) for name, b in bench.built.items()}
    assert counts == {"choice": 5, "margin": 2}


@pytest.mark.parametrize("limit", [0, -1, 1.0, 2.5, "10", True])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(ValueError, match="between 0 and 1"):
        EvalSettings(limit=limit)
    with pytest.raises(ValueError, match="limit of task x"):
        TaskSpec("x", limit=limit)


@pytest.mark.parametrize("size", ["auto", 0, 1.5, True])
def test_impossible_batch_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"eval\.batch_size"):
        EvalSettings(batch_size=size)


def test_unknown_names_are_refused_before_anything_is_built(folder):
    with pytest.raises(LookupError, match="did you mean choice"):
        task_names_exist({"x": TaskSpec("choise", folder=str(folder))})
    with pytest.raises(LookupError, match="did you mean mini_nli"):
        task_names_exist({"x": TaskSpec("mini_nil", folder="miniature")})
    with pytest.raises(ValueError, match=r"shipped .*miniature"):
        task_names_exist({"x": TaskSpec("choice", folder="minature")})
    check_task("both", str(folder))


def test_a_custom_task_that_is_there_already_is_refused(folder):
    twice = {key: TaskSpec("choice", folder=str(folder)) for key in ("choice", "custom")}
    with pytest.raises(ValueError, match=r"task\.custom\.name=choice"):
        task_names_exist(twice)


def test_lm_evals_own_tasks_are_found_without_its_index(monkeypatch):
    def no_index(folder):
        pytest.fail("the index takes 20 seconds")

    monkeypatch.setattr(task_files, "_manager", no_index)
    check_task("arc_easy", None)
    assert find_file("arc_easy", None).name == "arc_easy.yaml"
    assert find_file("arc_", None) is None


@pytest.mark.slow
def test_lm_evals_index_knows_groups_and_names_that_are_alike():
    check_task("mmlu", None)
    with pytest.raises(LookupError, match=r"did you mean .*gsm8k"):
        check_task("gsm9k", None)


MINIATURE = [
    "mini_reasoning",
    "mini_nli",
    "mini_open_domain_qa",
    "mini_closed_domain_qa",
    "mini_dialogue",
    "mini_summarization",
    "mini_ner",
    "mini_sentiment",
]


@pytest.fixture
def composed(tmp_path):
    """`composed("task=[a,b]")`: the task group in a configuration that has nothing else."""
    shutil.copytree(CONF / "task", tmp_path / "task")
    (tmp_path / "config.yaml").write_text("defaults: [{task: miniature}, _self_]\n")

    def run(*overrides):
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config", overrides=list(overrides)).get("task") or {}

    return run


def test_task_options_compose_into_one_cell(composed):
    assert list(composed()) == MINIATURE
    assert list(composed("task=[mini_nli,mini_ner]")) == ["mini_nli", "mini_ner"]
    assert list(composed("task=none")) == []
    bundle = composed("task.mini_nli.limit=50", "task.mini_ner.num_fewshot=1")
    assert bundle.mini_nli.limit == 50
    assert bundle.mini_ner.num_fewshot == 1
    assert bundle.mini_sentiment.limit is None
    both = composed("task=[custom,mini_nli]", "task.custom.name=arc_easy", "task.custom.limit=0.5")
    specs = {key: TaskSpec(**spec) for key, spec in both.items()}
    assert specs["custom"] == TaskSpec("arc_easy", limit=0.5)
    assert specs["mini_nli"].folder == "miniature"


def test_a_comma_makes_two_cells_and_brackets_one():
    two, one = OverridesParser.create().parse_overrides(
        ["task=mini_nli,mini_ner", "task=[mini_nli,mini_ner]"]
    )
    assert two.is_sweep_override()
    assert not one.is_sweep_override()


OPTIONS = sorted({file.stem for file in (CONF / "task").glob("*.yaml")} - {"custom"})
BUNDLES = {
    "miniature": 8,
    "paper8": 8,
    "ll8": 8,
    "glue_alphaedit": None,
    "truthfulqa": None,
    "none": 0,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_a_task_that_exists(composed, option):
    specs = {key: TaskSpec(**spec) for key, spec in composed(f"task={option}").items()}
    if option not in BUNDLES:
        assert list(specs) == [option]
    if BUNDLES.get(option) is not None:
        assert len(specs) == BUNDLES[option]
    task_names_exist(specs)


def test_an_oracle_scores_one_in_every_miniature_task(composed, tiny, oracle):
    specs = {key: TaskSpec(**spec) for key, spec in composed().items()}
    bench = Bench(specs, EvalSettings(limit=12))
    found = bench.score(tiny)
    assert found.errors == {}
    assert list(found.scores) == MINIATURE
    for task, metrics in found.scores.items():
        (head,) = [s for s in metrics.values() if s.headline]
        assert (head.value, head.n, head.invalid) == (1.0, 12, 0.0), task
        assert head.chance is not None
        assert all(s.value == 1.0 for s in metrics.values()), task
