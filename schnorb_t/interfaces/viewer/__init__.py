"""Pages to look at predictions with, in any browser, without a network: one per structure, and an index over many."""

from schnorb_t.interfaces.viewer.page import page_text, write_page
from schnorb_t.interfaces.viewer.view import View

__all__ = ["View", "page_text", "write_page"]
