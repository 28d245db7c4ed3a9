"""Fetching that meets something wrong: folders that cannot be written to, other files under old names, bad names."""

import dataclasses
import json

import pytest

from edit_sweeps import downloads, manifest
from edit_sweeps.catalogue import Need
from edit_sweeps.fetch import fetch
from edit_sweeps.hub import FetchError, Hub
from tests.hub_server import COMMIT, bring, names, put

pytest_plugins = ["tests.hub_server"]

MODEL = Need(kind="models", name="own/tiny", group="model", option="own/tiny")
RTE = Need(kind="datasets", name="own/glue", subset="rte", group="task", option="nli")
SST2 = dataclasses.replace(RTE, subset="sst2")


def test_what_is_there_needs_no_folder_that_can_be_written_to(server, here, plain):
    needs = (MODEL, plain())
    bring(here, server, *needs)
    (here / ".lock").unlink()
    (
        here / ".lock"
    ).mkdir()  # a lock that cannot be taken, as in a folder that cannot be written to
    assert {outcome.done for outcome in bring(here, server, *needs)} == {"there"}
    with pytest.raises(FetchError, match="cannot be written to"):
        bring(here, server, *needs, RTE)


def test_a_folder_that_cannot_be_made_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("fetch", "--model", "own/tiny", "--to", str(tmp_path / "file" / "data"))
    assert done.exit_code == 2
    assert "cannot be written to" in done.stderr
    assert "Traceback" not in done.output


def test_a_download_goes_on_only_with_the_same_file(server, here, plain, monkeypatch):
    need = plain()
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.break_after = 1000
    bring(here, server, need)
    other = json.dumps([{"fake": n} for n in range(5000)])
    put(server.root / "plain" / "facts.json", other)
    assert bring(here, server, need)[0].done == "brought"
    assert (here / "files" / "facts.json").read_text() == other
    assert not (here / ".part").exists()


def test_a_part_without_its_mark_is_begun_again(server, tmp_path):
    part = tmp_path / "facts.json"
    part.write_text("of whatever")
    downloads.download(f"{server.address}/facts.json", part)
    assert part.read_bytes() == (server.root / "plain" / "facts.json").read_bytes()
    assert not part.with_name("facts.json.mark").exists()


def test_what_an_interrupted_call_left_of_another_revision_stays_out(server, here):
    left = here / ".part" / "models" / "own" / "tiny"
    put(left / "model-00001-of-00002.safetensors", b"old")
    put(left / "old" / "deeper" / "x.json", "{}")
    bring(here, server, MODEL)
    folder = here / "models" / "own" / "tiny"
    assert names(folder) == set(manifest.read(here)["models/own/tiny"].files)
    assert not (folder / "old").exists()


@pytest.mark.parametrize("name", ["data/../../../../evil.json", "/evil.json", "a\\..\\evil.json"])
def test_a_name_that_leaves_the_folder_is_refused(server, here, monkeypatch, name):
    hub, brought = Hub(server.address), []
    honest = hub.look_up

    def look_up(*arguments):
        found = honest(*arguments)
        return dataclasses.replace(found, sizes={**found.sizes, name: 2})

    monkeypatch.setattr(hub, "look_up", look_up)
    monkeypatch.setattr(hub, "bring", lambda *a: brought.append(a))
    whole = dataclasses.replace(RTE, subset=None)
    (error,) = fetch(here, [whole], hub=hub)
    assert "outside the folder" in str(error)
    assert brought == []
    assert not (here / "datasets").exists()


def test_more_of_a_folder_pinned_to_a_commit_keeps_the_pin(server, here):
    pinned = dataclasses.replace(RTE, revision=COMMIT)
    bring(here, server, pinned)
    assert bring(here, server, SST2)[0].done == "brought"
    entry = manifest.read(here)["datasets/own/glue"]
    assert (entry.revision, entry.parts) == (COMMIT, ("rte", "sst2"))


def test_a_tokenizer_comes_without_weights(run, here):
    assert run("fetch", "--tokenizer", "own/tiny").exit_code == 0
    folder = here / "models" / "own" / "tiny"
    assert names(folder) == {"config.json", "tokenizer.json", "merges.txt", "README.md"}
    assert "brought" in run("fetch", "--model", "own/tiny").stdout
    assert "model.safetensors" in names(folder)
