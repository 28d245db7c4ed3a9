"""What is submitted to a real Slurm, how often, and with what configuration and code."""

import json
import shutil
import sys
from itertools import pairwise

import pytest
import yaml

from edit_sweeps import claims
from edit_sweeps.launcher.states import CLAIMS, PLANNING
from tests.mini_slurm import MiniSlurm
from tests.slurm_programs import need_slurm
from tests.slurm_study import QUICK, ROOT, SLURM, Study

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

TWO = ["num_edits=1,2"]
FIVE = ["seed=0,1,2,3,4", "num_edits=1"]


@pytest.fixture
def study(tmp_path, slurm):
    return Study(tmp_path, slurm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Results of seven cells, run here and undisturbed."""
    return Study(tmp_path_factory.mktemp("calm")).undisturbed(
        tmp_path_factory, "seed=0,1,2,3,4", "num_edits=1,2"
    )


def check(study, calm, count):
    """Every cell has one record, equal to the undisturbed one, and was started once."""
    results = study.results()
    assert len(results) == count, study.log()
    assert all(results[name] == calm[name] for name in results)
    assert set(study.starts().values()) == {1}


def test_every_task_has_a_gpu_of_its_own(study, calm):
    study.hold(1)
    study.submit("seed=0,1,2,3", "num_edits=1", "cluster.gpus=1", "cluster.cpus=1")
    (job,) = study.jobs()
    study.slurm.wait_for(job, "RUNNING")
    study.release(1)
    study.wait()
    check(study, calm, 4)
    gpus = [r["provenance"]["visible_gpus"] for r in study.records().values()]
    assert sorted(gpus) == ["0", "0", "1", "1"], "two nodes with two GPUs each"


def test_a_second_submission_leaves_live_cells_alone(study, calm):
    study.hold(1)
    study.submit(*TWO)
    study.wait_at(1)
    shown = study.submit(*TWO)
    assert "2 cells queued or running already, left alone" in shown
    assert "Nothing to submit" in shown
    assert "Submitted 1 cell as 1 job" in study.submit("seed=0,1", "num_edits=2"), (
        "only what is new"
    )
    assert "left to it" in study.launch("-m", *QUICK, *TWO), "a local run leaves them alone, too"
    study.release(1)
    study.wait()
    check(study, calm, 3)


def test_two_processes_that_submit_at_once_submit_every_cell_once(study, calm):
    with claims.hold(study.path / CLAIMS, PLANNING):
        both = [study.start("-m", *study.arguments(*FIVE)) for _ in range(2)]
        for process in both:
            while "waiting for it" not in (line := process.stdout.readline()):
                assert line, "it ended without waiting"
    shown = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert sum("Submitted 5 cells" in each for each in shown) == 1, shown
    study.wait()
    check(study, calm, 5)


def test_a_configuration_edited_while_the_job_is_queued_changes_nothing(study, calm, tmp_path):
    own = tmp_path / "conf"
    shutil.copytree(ROOT / "tests" / "standin", own)
    search = f"hydra.searchpath=[file://{own}]"
    study.submit(*TWO, search, "+cluster.extra.hold=true")
    file = own / "editor" / "standin.yaml"
    file.write_text(file.read_text().replace("size: 0.001", "size: 7"))
    assert "size: 7" in file.read_text()
    study.slurm.run("scontrol", "release", study.jobs()[0])
    study.wait()
    check(study, calm, 2)
    frozen = [yaml.safe_load(f.read_text()) for f in study.path.glob("cells/*/config.yaml")]
    assert [config["editor"]["size"] for config in frozen] == [0.001] * 2
    (submission,) = study.submissions()
    for record in study.records().values():
        seen = {name: record["provenance"][name] for name in ("git", "versions")}
        assert seen == {name: submission["code"][name] for name in seen}


def test_arrays_are_split_at_the_limit_of_the_cluster(tmp_path, calm):
    need_slurm()
    with MiniSlurm(extra_conf={"MaxArraySize": 3}) as small:
        study = Study(tmp_path, small)
        study.submit(*FIVE)
        assert [len(a["tasks"]) for a in study.submissions()[0]["arrays"]] == [2, 2, 1]
        study.wait()
        check(study, calm, 5)


def test_with_real_accounting_what_squeue_has_forgotten_is_still_known(tmp_path, calm):
    need_slurm("dbd")
    with MiniSlurm(accounting="dbd", extra_conf={"MinJobAge": 2}) as slurm:
        study = Study(tmp_path, slurm)
        (study.control / "kill-1").touch()
        study.submit("seed=0,1", "num_edits=1")
        study.wait()
        (job,) = study.jobs()
        slurm.wait_until(
            "forgetting", lambda: job not in slurm.run("squeue", "-h", "-t", "all", "-o", "%A"), 60
        )
        told = json.loads(study.companion("status", "main", "--json"))["cells"]
        assert sorted(cell["state"] for cell in told) == ["done", "lost"], told
        assert any("ended as FAILED" in cell["why"] for cell in told), told
        study.submit("seed=0,1", "num_edits=1")
        study.wait()
        assert len(study.results()) == 2
        assert all(study.results()[name] == calm[name] for name in study.results())


def test_small_units_are_packed_into_one_job_run_side_by_side_and_share_its_gpu(study, calm):
    study.hold(1)
    study.submit(
        *FIVE, "cluster.units_per_gpu=3", "cluster.gpus=1", "cluster.cpus=1", "cluster.memory_gb=1"
    )
    (array,) = study.submissions()[0]["arrays"]
    assert [len(task["units"]) for task in array["tasks"]] == [3, 2]
    study.slurm.wait_until("five processes", lambda: len(study.edited()) == 5, 120)
    study.release(1)
    study.wait()
    check(study, calm, 5)
    gpus = {}
    for record in study.records().values():
        told = record["provenance"]
        gpus.setdefault(told["job"], []).append(told["visible_gpus"])
    assert sorted(len(seen) for seen in gpus.values()) == [2, 3]
    assert all(len(set(seen)) == 1 and seen[0] in {"0", "1"} for seen in gpus.values()), gpus


def test_at_most_so_many_tasks_run_at_once(study, calm):
    three = ["seed=0,1,2", "num_edits=1"]
    study.submit(*three, "cluster.max_parallel=1")
    study.slurm.wait_until(
        "the limit", lambda: "JobArrayTaskLimit" in study.slurm.run("squeue", "-r", "-o", "%r"), 60
    )
    study.wait()
    check(study, calm, 3)
    times = sorted((a["started"], b["ended"]) for a, b in study.attempts().values())
    assert all(end <= start for (_, end), (start, _) in pairwise(times)), times


def test_from_inside_a_job(study, calm):
    arguments = " ".join(f"'{a}'" for a in study.arguments(*TWO))
    outer = study.slurm.submit(
        f"cd {study.folder}; {shutil.which('env')} HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "
        f"{sys.executable} {ROOT}/launch.py -m {arguments}",
        "--mem-per-cpu=1000", "--gpus=1",
    )  # fmt: skip
    study.slurm.wait_for(outer, "COMPLETED", timeout_s=120)
    study.wait()
    check(study, calm, 2)


def test_from_another_folder_by_the_path_of_the_study(study, calm, tmp_path, monkeypatch):
    study.submit(*TWO, "cluster.wait=true", "cluster.refresh_s=0.5")
    check(study, calm, 2)
    study.folder = tmp_path / "elsewhere"
    study.folder.mkdir()
    shown = study.companion("status", str(tmp_path / "outputs" / "main"))
    assert "main: 2 cells: done 2" in shown


# Prerequisites.


def test_what_several_units_need_is_made_once_and_waited_for(study):
    study.submit("seed=0,1", "num_edits=1", "editor.second_moment=true", "moments.tokens=2000")
    first, cells = study.submissions()[0]["arrays"]
    assert (first["kind"], len(first["tasks"]), cells["kind"]) == ("moments", 1, "cells")
    assert cells["after"] == [f"afterok:{first['job']}"]
    study.wait()
    assert len(study.results()) == 2
    assert (
        study.slurm.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", first["job"]).strip()
        == "COMPLETED"
    )
    shown = study.submit(
        "seed=2,3", "num_edits=1", "editor.second_moment=true", "moments.tokens=2000"
    )
    assert "moments" not in shown, "they are there by now"
    study.wait()
    assert len(study.results()) == 4


def test_a_failing_prerequisite_takes_its_cells_along_and_the_same_command_brings_them(study):
    command = ["seed=0,1", "num_edits=1", "editor.second_moment=true", "moments.tokens=2000"]
    (study.control / "fail-prepare").touch()
    study.submit(*command)
    study.wait()
    _, cells = study.submissions()[0]["arrays"]
    assert set(study.slurm.states(cells["job"]).values()) == {"CANCELLED"}
    shown = study.companion("status", "main")
    assert "lost 2" in shown
    assert study.results() == {}
    (study.control / "fail-prepare").unlink()
    assert "Submitted 2 cells" in study.submit(*command)
    study.wait()
    assert len(study.results()) == 2


def test_cells_wait_for_their_baseline_and_are_compared_with_it(study):
    tasks = ["task=mini_sentiment", "eval.limit=8"]
    study.submit("seed=0,1", "num_edits=1", *tasks)
    first, cells = study.submissions()[0]["arrays"]
    assert (first["kind"], cells["after"]) == ("baselines", [f"afterok:{first['job']}"])
    study.wait()
    compared = [r["result"]["comparisons"] for n, r in study.records().items() if "-none-" not in n]
    assert [set(each) for each in compared] == [{"edit", "mini_sentiment"}] * 2


# Code.


def tamper(study):
    """The submission as if it had been made with other code."""
    (file,) = study.path.glob("submissions/*/submission.json")
    body = json.loads(file.read_text())
    body["code"]["digest"] = "0" * 16
    file.write_text(json.dumps(body))


@pytest.mark.parametrize(("policy", "count"), [("warn", 2), ("refuse", 0)])
def test_other_code_than_at_submission_is_told_or_refused(study, calm, policy, count):
    study.submit(*TWO, "+cluster.extra.hold=true", f"cluster.on_drift={policy}")
    tamper(study)
    study.slurm.run("scontrol", "release", study.jobs()[0])
    study.wait()
    assert "the package's source was" in study.log()
    assert len(study.results()) == count
    assert all(result == calm[name] for name, result in study.results().items())


def test_a_snapshot_is_what_jobs_run(study, calm):
    study.submit(*TWO, "cluster.snapshot=true")
    study.wait()
    check(study, calm, 2)
    (copy,) = study.path.glob("code/*/edit_sweeps")
    assert (copy / "run.py").exists()
    script = next(study.path.glob("submissions/*/slurm/*_submission.sh")).read_text()
    assert f"PYTHONPATH={copy.parent}" in script


def test_a_dry_run_shows_arrays_and_cost_and_asks_sbatch_but_submits_nothing(study):
    shown = study.submit(*FIVE, "dry_run=true", "cluster.gpus=2", "cluster.time=90")
    assert "cells: 5 tasks, 5 cells, each task 2 GPUs" in shown
    assert "At most 15.0 GPU-hours" in shown
    assert "Job" in shown.split("sbatch --test-only says:")[1]
    refused = study.submit(*FIVE, "dry_run=true", "cluster.gpus=9")
    assert "REFUSED" in refused
    assert not study.slurm.run("squeue", "-h")
    assert not [p for p in study.path.rglob("*") if p.is_file() and p.name != "multirun.yaml"]


def test_what_sbatch_refuses_is_told_without_a_traceback_and_nothing_is_lost(study, calm):
    shown = study.submit(*TWO, "cluster.partition=nowhere", code=2)
    assert "was refused and not submitted" in shown
    assert "nowhere" in shown
    assert "Traceback" not in shown
    assert "Submitted 2 cells" in study.submit(*TWO)
    study.wait()
    check(study, calm, 2)


def test_on_a_machine_without_slurm_the_command_says_so(tmp_path):
    study = Study(tmp_path)
    study.env["PATH"] = "/nowhere"
    shown = study.launch("-m", *QUICK, *SLURM, *TWO, code=2)
    assert "login node of a Slurm cluster" in shown
    assert "Traceback" not in shown
