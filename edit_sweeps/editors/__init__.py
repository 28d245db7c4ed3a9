"""Editors: one small file a method."""
