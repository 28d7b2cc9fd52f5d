"""Becomes a training command that ends with the loop: ``python -m fleetmill.train.child PARENT FOLDER WORD...``."""

from __future__ import annotations

import os
import sys

from fleetmill.seams.processes import be_child_of


def main(arguments: list[str]) -> None:
    """Go to the folder and become the command; what ends this process with its parent outlives the change."""
    parent, folder, *words = arguments
    be_child_of(int(parent))
    os.chdir(folder)  # only now: `-m` would look for our own package in the folder
    try:
        os.execvp(words[0], words)  # noqa: S606 - the words are the line's own
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
