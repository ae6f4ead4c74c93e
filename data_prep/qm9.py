"""The command ``schnorb_t qm9``, for those who call the script."""

from schnorb_t.commands import door

if __name__ == "__main__":
    door("qm9")
