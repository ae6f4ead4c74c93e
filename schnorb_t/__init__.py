"""schnorb_t: Hamiltonian and overlap matrices of molecules from equivariant networks."""

__version__ = "0.1.0"
