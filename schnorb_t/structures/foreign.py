"""Inputs of programs whose molecules are not read: told by their content, so that they are refused by name."""

from __future__ import annotations

import re

#: Program -> what only its inputs hold.
_SIGNS = {
    "Psi4": r"^[ \t]*molecule\b[^\n{=]*\{",
    "Molpro": r"^[ \t]*(\*\*\*,|geometry[ \t]*=[ \t]*\{)",
    "GAMESS": r"^ +\$(contrl|data)\b",
    "CP2K": r"^[ \t]*&force_eval\b",
    "Dalton": r"^[ \t]*atomtypes[ \t]*=[ \t]*\d",
    "MOPAC": r"\A(?:[ \t]*\*[^\n]*\n)*[^\n]*\b(am1|pm[367]|pm6-\w+|rm1|mndo|mndod)\b[^\n]*\n",
    "xtb's detailed input": r"^[ \t]*\$(constrain|opt|md|metadyn|gbsa|write)\b",
}
_NWCHEM = (r"^[ \t]*geometry\b(?![ \t]*[={])", r"^[ \t]*end[ \t]*$")


def foreign_input(head: str) -> str:
    """The program whose input a text is, if its molecules are not read; ``""`` if it is nothing known.

    Args:
        head: beginning of a file that no reader here knows.
    """
    for program, sign in _SIGNS.items():
        if re.search(sign, head, re.I | re.M):
            return program
    if all(re.search(sign, head, re.I | re.M) for sign in _NWCHEM):
        return "NWChem"
    return ""
