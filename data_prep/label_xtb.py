"""The command ``schnorb_t label-xtb``, for those who call the script."""

from schnorb_t.commands import door

if __name__ == "__main__":
    door("label-xtb")
