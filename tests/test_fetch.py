"""`edit-sweeps data`: the hub and servers of files are stand-ins on the loopback, asked by the real client."""

import hashlib
import os
import subprocess
import sys
import tarfile

import huggingface_hub
import pytest

from edit_sweeps import catalogue, downloads, manifest
from edit_sweeps.catalogue import Need
from edit_sweeps.hub import FetchError
from tests.hub_server import COMMIT, bring, names, put

pytest_plugins = ["tests.hub_server"]

MODEL = Need(kind="models", name="own/tiny", group="model", option="own/tiny")
RTE = Need(kind="datasets", name="own/glue", subset="rte", group="task", option="nli")
SST2 = Need(kind="datasets", name="own/glue", subset="sst2", group="task", option="sentiment")
PICKLED = Need(kind="models", name="own/pickled", group="model", option="own/pickled")


def test_a_model_comes_with_weights_tokenizer_card_and_no_other_formats(server, here):
    (outcome,) = bring(here, server, MODEL)
    folder = here / "models" / "own" / "tiny"
    expected = {"config.json", "tokenizer.json", "merges.txt", "README.md", "model.safetensors"}
    assert names(folder) == expected
    assert (outcome.done, outcome.licence) == ("brought", "mit")
    entry = manifest.read(here)["models/own/tiny"]
    assert (entry.commit, entry.licence, entry.source) == (COMMIT, "mit", "own/tiny")
    assert set(entry.files) == expected
    for name, facts in entry.files.items():
        content = (folder / name).read_bytes()
        assert facts.sha256 == hashlib.sha256(content).hexdigest()
        assert facts.size == len(content)


def test_the_same_command_again_asks_nobody(server, here, plain):
    put(server.root / "models" / "own" / "words" / "tokenizer.json", "{}")  # no merges.txt
    needs = (MODEL, RTE, plain(), catalogue.tokenizer_need("own/words"))
    bring(here, server, *needs)
    written = manifest.read(here)
    server.asked.clear()
    assert {outcome.done for outcome in bring(here, server, *needs)} == {"there"}
    assert server.asked == []
    assert manifest.read(here) == written
    assert not (here / ".part").exists()


def test_a_dry_run_tells_sizes_and_writes_nothing(server, here, plain):
    outcomes = bring(here, server, MODEL, plain(), dry_run=True)
    assert [o.done for o in outcomes] == ["wanted", "wanted"]
    assert outcomes[0].size > 7000
    assert outcomes[1].size == (server.root / "plain" / "facts.json").stat().st_size
    assert not here.exists()


def test_a_subset_of_a_data_set_comes_alone_and_another_one_joins_it(server, here):
    bring(here, server, RTE)
    folder = here / "datasets" / "own" / "glue"
    first = {"README.md", *(f"rte/{s}-00000-of-00001.parquet" for s in ("train", "validation"))}
    assert names(folder) == first
    server.asked.clear()
    bring(here, server, RTE, SST2)
    assert names(folder) == first | {"sst2/validation-00000-of-00001.parquet"}
    assert [a for a in server.asked if "/rte/" in a] == []
    assert manifest.read(here)["datasets/own/glue"].parts == ("rte", "sst2")


def test_single_files_are_not_taken_for_the_whole_subset(server, here):
    one = Need(
        kind="datasets",
        name="own/glue",
        subset="rte",
        only=("rte/train-00000-of-00001.parquet",),
        group="moments",
        option="quick",
    )
    bring(here, server, one)
    entry = manifest.read(here)["datasets/own/glue"]
    assert entry.parts == ()
    assert set(entry.files) == {*one.only, "README.md"}
    assert bring(here, server, one)[0].done == "there"
    assert bring(here, server, RTE)[0].done == "brought"


def test_a_lost_file_is_brought_again_alone(server, here):
    bring(here, server, MODEL)
    (here / "models" / "own" / "tiny" / "merges.txt").unlink()
    server.asked.clear()
    (outcome,) = bring(here, server, MODEL)
    assert (outcome.done, outcome.changed) == ("brought", ())
    assert {a.split("/")[-1] for a in server.asked if "/resolve/" in a} == {"merges.txt"}


def test_a_model_without_safetensors_is_refused_with_the_conversion_and_the_rest_comes(
    server, here
):
    refused, brought = bring(here, server, PICKLED, MODEL)
    assert isinstance(refused, FetchError)
    assert "no safetensors weights" in str(refused)
    assert "save_pretrained('converted')" in str(refused)
    assert brought.done == "brought"
    assert list(manifest.read(here)) == ["models/own/tiny"]


def test_what_does_not_exist_is_said(server, here):
    (error,) = bring(here, server, Need(kind="models", name="own/none", group="model", option="x"))
    assert "own/none" in str(error)
    assert isinstance(error, FetchError)
    assert not (here / "models").exists()


def test_another_revision_of_what_is_there_is_refused(server, here):
    bring(here, server, MODEL)
    other = Need(kind="models", name="own/tiny", revision="v2", group="model", option="x")
    (error,) = bring(here, server, other)
    assert "holds revision main and v2 is asked for" in str(error)


def test_off_line_flags_are_named_as_the_reason(server, here, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (error,) = bring(here, server, MODEL)
    assert "HF_HUB_OFFLINE=1 is set" in str(error)


def test_an_interrupted_download_leaves_no_half_file_and_goes_on_where_it_stopped(
    server, here, plain, monkeypatch
):
    need, served = plain(), (server.root / "plain" / "facts.json").read_bytes()
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.break_after = 1000
    (error,) = bring(here, server, need)
    assert "goes on where this one stopped" in str(error)
    assert not (here / "files").exists() or names(here / "files") == set()
    assert manifest.read(here) == {}
    assert (here / ".part" / "files" / "facts.json").stat().st_size == 1000
    (outcome,) = bring(here, server, need)
    assert outcome.done == "brought"
    assert (here / "files" / "facts.json").read_bytes() == served
    facts = manifest.read(here)["files/facts.json"].files["facts.json"]
    assert facts.sha256 == hashlib.sha256(served).hexdigest()


def test_a_broken_connection_is_tried_again_by_itself(server, here, plain):
    server.break_after = 1000
    (outcome,) = bring(here, server, plain())
    assert outcome.done == "brought"
    assert server.asked == ["GET facts.json"] * 2


def test_a_file_that_is_another_one_at_its_source_is_reported(server, here, plain):
    need = plain()
    bring(here, server, need)
    (here / "files" / "facts.json").unlink()
    put(server.root / "plain" / "facts.json", "[]")
    (outcome,) = bring(here, server, need)
    assert outcome.changed == ("facts.json",)


def test_folders_of_one_archive_are_taken_out_of_one_download(server, here, plain, tmp_path):
    for split in ("dev", "train"):
        for n in range(3):
            put(tmp_path / "repo" / "data" / split / f"{split}_{n}.txt", f"{split} {n}")
    put(tmp_path / "repo" / "data" / "dev" / "deeper" / "x.txt", "x")
    with tarfile.open(server.root / "plain" / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "repo", "repo-1")
    needs = [plain(f"set/{s}", "all.tar.gz", f"repo-1/data/{s}") for s in ("dev", "train")]
    bring(here, server, *needs)
    assert names(here / "files") == {
        f"set/{s}/{s}_{n}.txt" for s in ("dev", "train") for n in range(3)
    }
    assert (here / "files" / "set" / "dev" / "dev_1.txt").read_text() == "dev 1"
    assert server.asked == ["GET all.tar.gz"]
    assert len(manifest.read(here)["files/set/dev"].files) == 3
    assert not (here / ".part").exists()


def test_only_https_is_fetched_but_from_this_machine(tmp_path):
    with pytest.raises(FetchError, match="only https"):
        downloads.download("http://example.org/x", tmp_path / "x")


def test_the_command_brings_lists_and_checks(run, here):
    done = run("fetch", "--model", "own/tiny")
    assert done.exit_code == 0, done.output
    assert "models/own/tiny: brought" in done.stdout
    assert f"export EDIT_SWEEPS_DATA={here}" in done.stdout
    listed = run("list").stdout
    assert "models/own/tiny" in listed
    assert "mit" in listed
    assert COMMIT[:10] in listed
    assert "0 of 5 files" in run("check").stdout
    with (here / "models" / "own" / "tiny" / "model.safetensors").open("r+b") as file:
        file.write(b"W")
    checked = run("check")
    assert checked.exit_code == 1
    assert "models/own/tiny/model.safetensors has changed" in checked.stdout
    assert "1 of 5 files" in checked.stdout


def test_what_fails_is_told_and_the_exit_code_says_so(run):
    done = run("fetch", "--model", "own/pickled,own/tiny")
    assert done.exit_code == 1
    assert "no safetensors" in done.stderr
    assert "models/own/tiny: brought" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing is asked for"),
        (("--model", "gpt2-xll"), "did you mean gpt2-xl?"),
        (("--model", "custom"), "pretrained is to be given"),
        (("--task", "custom"), "custom.name is to be given"),
        (("--dataset", "counterfct"), "did you mean counterfact?"),
        (("--moments", "quik"), "did you mean quick?"),
    ],
)
def test_a_wrong_name_is_refused_with_what_was_meant(run, arguments, said):
    done = run("fetch", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_what_comes_with_the_package_is_said_to_need_nothing(run, here):
    done = run("fetch", "--model", "miniature", "--task", "miniature", "--dataset", "jsonl")
    assert done.exit_code == 0
    assert done.stdout.count("nothing to fetch") == 3


def test_on_line_the_hub_names_the_commit_that_enters_keys(server, tmp_path):
    code = (
        "from edit_sweeps.hub_cache import commit_of\n"
        "for kind, name in (('models', 'own/tiny'), ('datasets', 'own/glue'), ('models', 'own/none')):\n"
        "    print(commit_of(kind, name, None))\n"
    )
    environment = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
    environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", code]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [COMMIT, COMMIT, "None"], done.stderr
        assert sum("config.json" in request for request in server.asked) <= 4
