"""``python -m schnorb_t``: the same as the console script ``schnorb_t``."""

from schnorb_t.commands import console_script

if __name__ == "__main__":
    console_script()
