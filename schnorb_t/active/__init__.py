"""Active learning: which molecules of a pool to label next, and the loop around that question.

``features`` what a model says of molecules; ``methods`` the choice from that; ``selection`` from a pool to those
chosen.
"""
