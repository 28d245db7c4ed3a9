"""Where published edit data come from: what `edit-sweeps data fetch` brings and the readers then find.

Every address was looked up in public code or on the hub's own pages, not tried from here; licences
are as the place itself states them. docs/edit_data.md says what is missing and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edit_sweeps import data_root

_GITHUB = "https://raw.githubusercontent.com"
_ROME = "https://rome.baulab.info/data/dsets"
_KNOWEDIT = "6d218881e60c7c8be836bd2befd598eb3b318be4"


@dataclass(frozen=True, kw_only=True)
class EditSource:
    """The published file of a data set; either `url` or `hub_id` is given.

    Attributes:
        name: Option of the config group `dataset`.
        file: Its place below `files/` of the data folder; with `hub_id`, inside the hub's data set.
        url: Address of the file.
        hub_id: Data set on the hub.
        revision: Commit, or a branch where no full commit id was found; None: no history there.
        licence: As stated there.
        homepage: Where a person reads about it.
    """

    name: str
    file: str
    url: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    licence: str
    homepage: str


def _on_github(
    name: str, repository: str, revision: str, path: str, licence: str, folder: str
) -> EditSource:
    return EditSource(
        name=name,
        file=f"{folder}/{path.rsplit('/', 1)[-1]}",
        url=f"{_GITHUB}/{repository}/{revision}/{path}",
        revision=revision,
        licence=licence,
        homepage=f"https://github.com/{repository}",
    )


def _by_rome(name: str, file: str, folder: str) -> EditSource:
    return EditSource(
        name=name,
        file=f"{folder}/{file}",
        url=f"{_ROME}/{file}",
        licence="none stated for the file (ROME's code: MIT)",
        homepage="https://rome.baulab.info",
    )


def _knowedit(name: str, file: str) -> EditSource:
    return EditSource(
        name=name,
        file=f"benchmark/{file}",
        hub_id="zjunlp/KnowEdit",
        revision=_KNOWEDIT,
        licence="MIT",
        homepage="https://huggingface.co/datasets/zjunlp/KnowEdit",
    )


EDIT_SOURCES = (
    _by_rome("counterfact", "counterfact.json", "counterfact"),
    _on_github(
        "counterfact_flat",
        "Jometeorie/KnowledgeSpread",
        "d1a8d1ed5367e66010d4d9b081ab388b46c2438c",
        "data/counterfact/counterfact-edit.json",
        licence="none stated",
        folder="counterfact",
    ),
    _on_github(
        "zsre",
        "JasonForJoy/Model-Editing-Hurt",
        "a9e9f3d334c93e926d91e4a1e17fd1f681319e4a",
        "edited-data/zsre_mend_eval_portability_gpt4.json",
        licence="none stated",
        folder="zsre",
    ),
    _by_rome("zsre_rome", "zsre_mend_eval.json", "zsre"),
    _by_rome("zsre_train", "zsre_mend_train.json", "zsre"),
    _on_github(
        "qaedit",
        "WanliYoung/Revisit-Editing-Evaluation",
        "d6025e0ee9731d3b59b84ea242dc06bf0e0c8a74",
        "data/QAEdit_inter_1k.json",
        licence="Apache-2.0",
        folder="qaedit",
    ),
    _knowedit("knowedit_wiki_recent", "wiki_recent/recent_test.json"),
    _knowedit("knowedit_wiki_counterfact", "wiki_counterfact/test_cf.json"),
    _knowedit("knowedit_zsre", "ZsRE/ZsRE-test-all.json"),
    _on_github(
        "mquake",
        "princeton-nlp/MQuAKE",
        "fb43dadc2d8cd19d08ce81c63d957b59deb3f3cd",
        "datasets/MQuAKE-CF-3k-v2.json",
        licence="none stated",
        folder="mquake",
    ),
    EditSource(
        name="wikibigedit",
        file="wiki_big_edit_20240201_20240220.json",
        hub_id="lukasthede/WikiBigEdit",
        revision="main",
        licence="Apache-2.0",
        homepage="https://huggingface.co/datasets/lukasthede/WikiBigEdit",
    ),
)


def find(name: str) -> EditSource | None:
    """The source of an option of `dataset`; None for one that only reads files of the user's own."""
    name = {"zsre_paper": "zsre"}.get(name, name)  # the same file, drawn from as in the paper
    return next((source for source in EDIT_SOURCES if source.name == name), None)


def in_data_folder(source: EditSource) -> Path | None:
    """Where the file lies in the data folder in force (`data_root`); None when it is not there."""
    if source.hub_id is None:
        return data_root.local_file(source.file)
    folder = data_root.local_dataset(source.hub_id)
    path = folder / source.file if folder else None
    return path if path and path.exists() else None
