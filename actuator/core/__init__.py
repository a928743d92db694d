"""Decisions: pure functions over evidence, history and settings. No I/O, no clock."""
