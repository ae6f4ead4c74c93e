"""Structures to label, by their former place: see ``schnorb_t.structures``."""

from schnorb_t.structures import Structure, fault_of, from_atoms, graph_key, open_shell
from schnorb_t.structures import read_for_labels as read_structures

__all__ = ["Structure", "fault_of", "from_atoms", "graph_key", "open_shell", "read_structures"]
