"""What a cell's folder says, read from the ends of its record."""

import json

import pytest

from edit_sweeps.launcher.folders import read_ends
from tests.synthetic_study import make_record


@pytest.mark.parametrize("edits", [0, 1, 3000])
@pytest.mark.parametrize("indent", [1, None])
def test_the_ends_of_a_record_say_what_the_whole_does(tmp_path, edits, indent):
    record = make_record("rome", 1)
    odd = {"nli": 'a\n  "errors": {}, a "quote" and\n "provenance": {}'}
    record.errors, record.state = odd, "collapsed"
    record.traces = [{"case_id": str(i), "loss": 0.1} for i in range(edits)]
    record.save(tmp_path)
    whole = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(whole, indent=indent, ensure_ascii=False))
    ends = read_ends(tmp_path / "record.json")
    assert ends["state"] == "collapsed"
    assert ends["result"]["errors"] == odd
    assert ends["provenance"] == whole["provenance"]
