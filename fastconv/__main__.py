"""The command line: `python -m fastconv train` and `python -m fastconv info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastconv import _train
from fastconv._config import show_config
from fastconv._options import Parser, add_data_options, add_figure_options, add_run_options, execute, whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, of sys.argv by default; return the exit code (SystemExit for wrong arguments: 2)."""
    parser = Parser(prog="python -m fastconv", allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train",
        help="train a network on MNIST",
        description="Train one of the document's networks on MNIST, test it, and draw what came out.",
        allow_abbrev=False,
    )
    _add_train_options(train)
    train.set_defaults(run=_train.run, parser=train)
    info = commands.add_parser("info", help="print version, instruction set, OpenMP and threads")
    info.set_defaults(run=lambda options: show_config(), parser=info)
    options = parser.parse_args(argv)
    return execute(options.parser, lambda: options.run(options))


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", choices=_train.MODELS, default="deep", help="which network (default: deep)")
    epochs = f"default: {_train.EPOCHS}, on the sample {_train.SAMPLE_EPOCHS}"
    add("--epochs", type=whole(1), metavar="N", help=f"times through the training images ({epochs})")
    add("--batch-size", type=whole(1), default=100, metavar="N", help="images in a step (default: 100)")
    add_data_options(parser)
    add(
        "--shifts",
        action="store_true",
        help="train also on each image moved by a pixel to the four sides, as always on the sample",
    )
    add_run_options(parser)
    add("--save", metavar="PATH", help="write the trained parameters to this file")
    add_figure_options(parser, _train.FIGURE)


if __name__ == "__main__":
    sys.exit(main())
