"""The store: one HDF5 file for any number of molecules of any size. The format is written down in docs/store.md.

``Store`` reads, ``StoreWriter`` writes. A writer appends every molecule to a journal beside the file
(``schnorb_t.data.journal``) and merges journal and file when it closes, into a new file that replaces the old
one in a single step. So a molecule is either wholly there or not, and what was there stays.
"""

from .header import Header
from .reader import Store, journal_path
from .records import MoleculeRecord
from .writer import StoreWriter, finish, set_splits

__all__ = ["Header", "MoleculeRecord", "Store", "StoreWriter", "finish", "journal_path", "set_splits"]
