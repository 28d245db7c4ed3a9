"""What sbatch is asked for, without a Slurm; and code that is not what it was."""

import os

import pytest

from edit_sweeps.launcher import drift
from edit_sweeps.launcher.prerequisites import jobs_of
from edit_sweeps.launcher.submissions import Submission
from edit_sweeps.launcher.submit import clean_environment, draw_up, make_executor, parameters
from tests.made_up_cells import CLUSTER, made_up_cell


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script of an array of two cells under settings of `cluster` and a model's resources."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def make(*, resources=None, after=(), data_root=None, **cluster):
        settings = CLUSTER | cluster
        cells = [
            made_up_cell(seed=s, task=False, cluster=settings, resources=resources) for s in (0, 1)
        ]
        one = Submission.new(tmp_path / "outputs" / "main", command=[], force=False, code={})
        (draft,) = draw_up(jobs_of(cells, {}), settings, one, 1000)
        draft.array.after = list(after)
        config = cells[0].config | {"data_root": data_root}
        executor = make_executor(tmp_path / "slurm", draft, config, None)
        return executor._make_submission_file_text(executor._submitit_command_str, "x")

    return make


def options(text):
    """The #SBATCH lines as a mapping."""
    lines = [
        line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")
    ]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_a_model_asks_for_what_it_needs(script):
    found = options(script(resources={"gpus": 2, "cpus": 8, "memory_gb": 96, "time": "1-12:00:00"}))
    assert (found["gpus-per-node"], found["cpus-per-task"], found["mem"]) == ("2", "8", "98304MB")
    assert found["time"] == "2160"
    assert found["signal"] == "USR2@120"
    assert "requeue" in found


def test_a_site_says_where_and_who(script):
    text = script(
        partition="gpu",
        account="mine",
        qos="long",
        constraint="a100",
        extra={"reservation": "week", "exclude": "n7"},
    )
    found = options(text)
    wanted = {
        "partition": "gpu",
        "account": "mine",
        "qos": "long",
        "constraint": "a100",
        "reservation": "week",
        "exclude": "n7",
    }
    assert found.items() >= wanted.items()


def test_what_is_not_said_is_left_to_the_cluster(script):
    assert not {"partition", "account", "qos", "constraint", "wckey", "dependency"} & set(
        options(script())
    )
    assert "gpus-per-node" not in options(script(gpus=0))


def test_lines_of_setup_come_before_python_which_may_lie_in_a_container(script):
    text = script(
        setup=["module load cuda"],
        container="apptainer exec --nv /i.sif",
        python="python3",
        srun_args=["--mpi=none"],
    )
    before, _, command = text.partition("export SUBMITIT_EXECUTOR")
    assert "module load cuda" in before
    assert "apptainer exec --nv /i.sif python3 -u -m submitit.core._submit" in command
    assert "--mpi=none" in command


def test_jobs_see_this_package_and_the_data_folder_only(script, tmp_path):
    text = script(data_root=str(tmp_path / "data folder"))
    assert f"export PYTHONPATH={drift.PACKAGE.parent}" in text
    assert f"export EDIT_SWEEPS_DATA='{tmp_path}/data folder'" in text
    assert "export HF_HUB_OFFLINE=1" in text
    assert "HF_HUB_OFFLINE" not in script()


def test_what_must_come_first_is_waited_for_and_its_failure_takes_the_job_along(script):
    found = options(script(after=["afterok:5_0", "afterany:6"]))
    assert found["dependency"] == "afterok:5_0,afterany:6"
    assert found["kill-on-invalid-dep"] == "yes"


def test_a_throttle_is_passed_on(script, tmp_path):
    cells = [made_up_cell(seed=s, task=False) for s in range(5)]
    one = Submission.new(tmp_path / "outputs" / "main", command=[], force=False, code={})
    (draft,) = draw_up(jobs_of(cells, {}), CLUSTER, one, 1000)
    for most, told in ((2, 2), (None, 5)):
        config = {"cluster": CLUSTER | {"max_parallel": most}, "data_root": None}
        assert parameters(draft, config, None)["array_parallelism"] == told


def test_a_surrounding_job_is_hidden_but_not_what_its_user_set_for_sbatch(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SBATCH_ACCOUNT", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    with clean_environment(CLUSTER):
        assert {n for n in os.environ if n.startswith(("SLURM", "SBATCH"))} == {
            "SBATCH_ACCOUNT",
            "SLURM_CONF",
        }
    assert os.environ["SLURM_MEM_PER_CPU"] == "1"


def test_what_the_configuration_says_wins_over_variables_for_sbatch(monkeypatch):
    ours = {"SBATCH_JOB_NAME", "SBATCH_WAIT", "SBATCH_TIMELIMIT", "SBATCH_QOS"}
    for name in (*ours, "SBATCH_ACCOUNT", "SBATCH_RESERVATION", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "1")
    with clean_environment(CLUSTER | {"qos": "high", "account": None}):
        left = {n for n in os.environ if n.startswith(("SLURM", "SBATCH"))}
    assert left == {"SBATCH_ACCOUNT", "SBATCH_RESERVATION", "SLURM_TIME_FORMAT"}
    assert ours <= os.environ.keys()


SAME = {"git": "abc", "digest": "d1", "versions": {"torch": "2.13", "peft": "1"}}


def test_equal_code_differs_in_nothing():
    assert drift.differences(SAME, dict(SAME)) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"digest": "d2", "git": "abc-dirty"},
            "was abc when the cells were submitted and is abc-dirty now",
        ),
        ({"versions": {"torch": "2.14", "peft": "1"}}, "torch was 2.13 and is 2.14"),
        ({"versions": {"torch": "2.13"}}, "peft was 1 and is absent"),
    ],
)
def test_other_code_is_told_in_words(changed, says):
    (told,) = drift.differences(SAME, SAME | changed)
    assert says in told


def test_a_copy_is_made_once_for_each_state_of_the_source(tmp_path):
    first = drift.snapshot(tmp_path)
    assert (first / "edit_sweeps" / "run.py").is_file()
    assert not list(first.rglob("*.pyc"))
    mark = (first / "edit_sweeps").stat().st_mtime_ns
    assert drift.snapshot(tmp_path) == first
    assert (first / "edit_sweeps").stat().st_mtime_ns == mark
