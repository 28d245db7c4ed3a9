"""The table of published edit data, the options of conf/dataset, and the data folder."""

import json
import re
from pathlib import Path

import pytest
import yaml

from edit_sweeps import data_root
from edit_sweeps.config import CONF, DatasetConfig
from edit_sweeps.datasets.forms import FORMS
from edit_sweeps.edit_sources import EDIT_SOURCES, find, in_data_folder
from edit_sweeps.requests import digest, read_requests
from tests import dataset_records as records
from tests.request_files import Data

OPTIONS = {p.stem: yaml.safe_load(p.read_text()) for p in sorted(CONF.glob("dataset/*.yaml"))}


def test_every_option_names_itself_and_a_form_with_its_target():
    assert len(OPTIONS) >= 12
    fields = set(DatasetConfig.__dataclass_fields__)
    for name, values in OPTIONS.items():
        assert values["name"] == name
        assert set(values) <= fields
        FORMS[values["format"]].reader(values["target"])
    assert {values["format"] for values in OPTIONS.values()} == set(FORMS)


def test_every_source_belongs_to_an_option_and_has_one_address():
    assert len(EDIT_SOURCES) == len({s.name for s in EDIT_SOURCES}) >= 9
    for source in EDIT_SOURCES:
        assert source.name in OPTIONS
        assert (source.url is None) != (source.hub_id is None)
        assert source.url is None or source.url.startswith("https://")
        assert not Path(source.file).is_absolute()
        assert source.licence
        on_github = (source.url or "").startswith("https://raw.githubusercontent.com/")
        if on_github:
            assert re.fullmatch("[0-9a-f]{40}", source.revision)
            assert source.revision in source.url


@pytest.mark.parametrize(
    ("name", "record"), [("zsre", records.ZSRE), ("knowedit_zsre", records.KNOWEDIT_ZSRE)]
)
def test_a_fetched_file_is_found_in_the_data_folder_and_a_path_goes_before_it(
    tmp_path, name, record
):
    source = find(name)
    place = f"datasets/{source.hub_id}" if source.hub_id else "files"
    path = tmp_path / place / source.file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([record]))
    own = tmp_path / "own.json"
    own.write_text(json.dumps([record, record]))
    data = Data(None, name=name, format=OPTIONS[name]["format"])
    assert in_data_folder(source) is None
    with data_root.using(tmp_path):
        assert in_data_folder(source) == path
        assert len(read_requests(data)) == 1
        fetched = digest(data)
        data.path = str(own)
        assert len(read_requests(data)) == 2
    assert digest(data) != fetched


def test_options_without_a_source_have_none():
    assert find("jsonl") is None
    assert find("rippleedits") is None
