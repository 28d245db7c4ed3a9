"""Readers of published data sets of edits: one small file a form, and the table of forms."""
