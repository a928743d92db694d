"""Fuzzing: every function where bytes from outside enter, fed what nobody should send (`make fuzz`).

A target (`outputs`, `files`, `strangers`) names the exceptions that its function documents. Any other one, an
assertion of the target's own, or too much time or memory, is a fault. `python -m tests.fuzz` searches, guided by coverage where
atheris is installed; inputs that ever were a fault are in `corpus/TARGET/`, and tried again by `test_fuzz`.
"""
