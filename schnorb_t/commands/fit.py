"""``schnorb_t fit --config configs/sample.yaml``: train, test against two baselines, leave a one-page result.

Every key of the configuration can be overridden (``--data.batch_size 16``); ``--print_config`` shows them all with
their documentation. ``--ckpt_path runs/.../last.ckpt`` goes on where an interrupted run stopped.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> None:
    """Train by the command line ``argv`` (default: the process's own).

    Raises:
        UserError: the configuration, the data or a checkpoint is wrong.
    """
    from schnorb_t.training.configuration import asked_architecture, make_parser, parse_configuration
    from schnorb_t.training.run import train

    arguments = sys.argv[1:] if argv is None else argv
    parser = make_parser("schnorb_t fit", __doc__, asked_architecture(arguments))
    train(parse_configuration(arguments, parser), parser)
