"""The command line: `python -m fastconv train` and `python -m fastconv info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastconv import _train
from fastconv._config import show_config


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without argparse's lines of usage."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


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
    train.set_defaults(run=lambda options: _run_train(train, options))
    info = commands.add_parser("info", help="print version, instruction set, OpenMP and threads")
    info.set_defaults(run=lambda options: show_config())
    options = parser.parse_args(argv)
    try:
        options.run(options)
    except KeyboardInterrupt as interrupt:
        print(": ".join(["Interrupted", *interrupt.args]), file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a closed pipe: nothing that a traceback would explain
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", choices=_train.MODELS, default="deep", help="which network (default: deep)")
    epochs = f"default: {_train.EPOCHS}, on the sample {_train.SAMPLE_EPOCHS}"
    add("--epochs", type=whole(1), metavar="N", help=f"times through the training images ({epochs})")
    add("--batch-size", type=whole(1), default=100, metavar="N", help="images in a step (default: 100)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the four IDX files of MNIST or a data set of its form "
        "(default: the environment variable FASTCONV_DATA, then the cache, then a download, then the sample)",
    )
    source.add_argument("--sample", action="store_true", help="train on the 5,000 digits that fastconv ships")
    add("--seed", type=whole(0), default=0, metavar="N", help="decides start, order and dropout (default: 0)")
    add("--threads", type=whole(1), metavar="N", help="(default: as many as this process may use)")
    add("--save", metavar="PATH", help="write the trained parameters to this file")
    figure = parser.add_mutually_exclusive_group()
    figure.add_argument(
        "--figure", metavar="PATH", help=f"file of the figure (default: {_train.FIGURE}; needs matplotlib)"
    )
    figure.add_argument("--no-figure", action="store_true", help="draw nothing")


def _run_train(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    try:
        _train.run(options)
    except _train.Refused as refusal:
        parser.error(str(refusal))


def whole(least: int) -> Callable[[str], int]:
    """For argparse: a whole number of at least `least`."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, not {text!r}")
        return int(text)

    return convert


if __name__ == "__main__":
    sys.exit(main())
