"""edit-sweeps collect: what is in the tables, and that they are whole at every moment."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from edit_sweeps import cli
from edit_sweeps.launcher import collecting
from edit_sweeps.launcher.collecting import collect
from edit_sweeps.table import write_table
from tests.synthetic_study import make_record, write_study

run = CliRunner().invoke
FILES = ["cells.csv", "results.csv", "results.parquet"]


@pytest.fixture
def gathered(tmp_path, monkeypatch):
    """A study of all states; the tests stand above it."""
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "outputs" / "rome")


def test_it_is_the_table_of_the_report_with_the_study_before_it(gathered, tmp_path):
    collect([gathered], tmp_path / "to")
    ours = pd.read_csv(tmp_path / "to" / "results.csv")
    theirs = pd.read_csv(write_table(gathered))
    pd.testing.assert_frame_equal(ours.drop(columns="study"), theirs)


def test_columns_have_one_type_whatever_is_in_them(gathered, tmp_path):
    empty = tmp_path / "outputs" / "empty"
    empty.mkdir()
    (empty / "plan.json").write_text("[]")
    collect([gathered], tmp_path / "full")
    collect([empty], tmp_path / "none")
    full, none = (
        pq.read_schema(tmp_path / place / "results.parquet") for place in ("full", "none")
    )
    assert full.names == none.names
    assert full.field("task").type == none.field("task").type
    assert list(pd.read_csv(tmp_path / "none" / "cells.csv").columns) == list(
        collecting.CELL_COLUMNS
    )


def test_a_cell_that_ends_meanwhile_is_never_done_without_results(gathered, tmp_path, monkeypatch):
    late = make_record("memit", 300)
    known = collecting.look

    def look_then_end(study):
        looks = known(study)
        late.save(study / "cells" / late.name)
        return looks

    monkeypatch.setattr(collecting, "look", look_then_end)
    collect([gathered], tmp_path / "to")
    cells = pd.read_csv(tmp_path / "to" / "cells.csv")
    results = pd.read_csv(tmp_path / "to" / "results.csv")
    done = set(cells.name[cells.state.isin(["done", "collapsed"])])
    assert done <= set(results.cell[results.value.notna()])


def test_what_cannot_be_written_leaves_the_old_files_whole(gathered, tmp_path, monkeypatch):
    to = tmp_path / "to"
    collect([gathered], to)
    before = {name: (to / name).read_bytes() for name in FILES}

    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        collect([gathered], to)
    assert sorted(p.name for p in to.iterdir()) == FILES
    assert before == {name: (to / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["rome", "other"], "--to FOLDER"), (["rome", "--to", "outputs/rome/plan.json"], "exists")],
)
def test_where_it_cannot_or_should_not_be_written_is_told(gathered, arguments, says):
    write_study(gathered.parent / "other")
    done = run(cli.app, ["collect", *arguments])
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (gathered / "results.csv").exists()


def test_a_study_named_twice_is_collected_once(gathered):
    assert run(cli.app, ["collect", "rome", "outputs/rome"]).exit_code == 0
    assert len(pd.read_csv(gathered / "cells.csv")) == 11
