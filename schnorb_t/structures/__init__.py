"""The one door for molecules: every command and every function of Python reads and checks structures here.

``read_structures`` and ``iter_structures`` read files, ``as_structure`` takes ASE's ``Atoms``; all give a
``Structure`` with what the source says of charge, spin, cell and isotopes. ``fault_of`` tells why it cannot be used.
"""

from .electrons import Electrons, Statement, electrons
from .geometry import bonds, graph_key
from .reading import LabelFiles, StructureFile, iter_structures, read_for_labels, read_structures
from .rules import (
    MAX_LISTED,
    NEUTRAL,
    OVERLAP,
    RULES,
    Charges,
    Rule,
    broken_rule,
    charges_text,
    check_structure,
    check_structures,
    fault_of,
    open_shell,
    refuse_all,
    sort_out,
)
from .structure import Structure, as_structure, describe, from_atoms, name_of

__all__ = [
    "MAX_LISTED",
    "NEUTRAL",
    "OVERLAP",
    "RULES",
    "Charges",
    "Electrons",
    "LabelFiles",
    "Rule",
    "Statement",
    "Structure",
    "StructureFile",
    "as_structure",
    "bonds",
    "broken_rule",
    "charges_text",
    "check_structure",
    "check_structures",
    "describe",
    "electrons",
    "fault_of",
    "from_atoms",
    "graph_key",
    "iter_structures",
    "name_of",
    "open_shell",
    "read_for_labels",
    "read_structures",
    "refuse_all",
    "sort_out",
]
