"""DRBD's global_common.conf, with what has every resource ask the arbiter. Pure text, for ``init``.

A configuration has one section ``common``, and that one ``handlers`` and one ``disk``: with a file of
vmheal's own beside the site's, drbdadm would refuse them all.
"""

import re

HANDLERS = (
    'fence-peer "/usr/bin/vmheal-fence-peer";',
    'unfence-peer "/usr/bin/vmheal-fence-peer unfence-peer";',
    'before-resync-source "/usr/bin/vmheal-fence-peer before-resync-source";',
)
FENCING = "fencing resource-and-stonith;"
ON_IO_ERROR = "on-io-error detach;"
_OURS = re.compile(r"\b(fencing|fence-peer|unfence-peer|before-resync-source)\b")


def asking(text: str, *, nine: bool) -> str | None:
    """Return the file with the lines that make DRBD ask; None: it has fencing already, or is not understood.

    Args:
        text: the file as it is.
        nine: DRBD 9 has ``fencing`` in ``net``, 8.4 in ``disk``.
    """
    code = _code(text)
    if _OURS.search(code):
        return None
    disk = [] if "on-io-error" in code else [ON_IO_ERROR]
    wanted = {"handlers": [*HANDLERS]}
    wanted |= {"net": [FENCING], "disk": disk} if nine else {"disk": [FENCING, *disk]}
    if not re.search(r"\bcommon\b", code):
        text, code = (f"{it.rstrip()}\n\ncommon {{\n}}\n" for it in (text, code))
    begin = re.search(r"\bcommon\s*\{", code)
    sections = None if begin is None else _sections(code, begin.end())
    if begin is None or sections is None:
        return None
    inserts: dict[int, str] = {}
    for name, options in wanted.items():
        lines = "".join(f"\n\t\t{it}" for it in options)
        if name in sections:
            inserts[sections[name]] = lines
        elif options:
            inserts[begin.end()] = inserts.get(begin.end(), "") + f"\n\t{name} {{{lines}\n\t}}"
    for at, lines in sorted(inserts.items(), reverse=True):
        text = f"{text[:at]}{lines}{text[at:]}"
    return text


def _code(text: str) -> str:
    """The text with blanks for what is in comments and quotes: each word stays where it is."""
    return re.sub(r'"[^"\n]*"|#[^\n]*', lambda found: " " * len(found.group()), text)


def _sections(code: str, begin: int) -> dict[str, int] | None:
    """Where the sections of one that begins there have their first line, by name; None: it does not end."""
    found: dict[str, int] = {}
    depth = 1
    for brace in re.finditer(r"([a-z-]*)\s*([{}])", code[begin:]):
        if brace.group(2) == "{":
            if depth == 1:
                found[brace.group(1)] = begin + brace.end()
            depth += 1
        else:
            depth -= 1
        if not depth:
            return found
    return None
