"""`python -m edit_sweeps` is `edit-sweeps`."""

from edit_sweeps.cli import app

app(prog_name="edit-sweeps")
