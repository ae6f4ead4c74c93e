"""The command ``schnorb_t geometries``, for those who call the script."""

from schnorb_t.commands import door

if __name__ == "__main__":
    door("geometries")
