"""What /proc says of a process."""

from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, proc(5)'s third: a program's name may have anything in it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
