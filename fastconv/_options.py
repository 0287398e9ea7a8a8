"""What the command line and the examples share: options, refusals in one line, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import fastconv
from fastconv import plotting


class Refused(Exception):
    """What was asked for cannot be done. Raised before anything is trained."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without argparse's lines of usage."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def execute(parser: argparse.ArgumentParser, command: Callable[[], None]) -> int:
    """Run the command; return the exit code (SystemExit for what is refused: 2)."""
    try:
        command()
    except KeyboardInterrupt as interrupt:
        print(": ".join(["Interrupted", *interrupt.args]), file=sys.stderr)
        return 130
    except Refused as refusal:
        parser.error(str(refusal))
    except OSError as error:  # a full disk, a closed pipe: nothing that a traceback would explain
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data and --sample, for _train.load_data."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the four IDX files of MNIST or a data set of its form "
        "(default: the environment variable FASTCONV_DATA, then the cache, then a download, then the sample)",
    )
    source.add_argument("--sample", action="store_true", help="train on the 5,000 digits that fastconv ships")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """--seed and --threads."""
    seed = "decides start, order and dropout (default: 0)"
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help=seed)
    parser.add_argument(
        "--threads", type=whole(1), metavar="N", help="(default: as many as this process may use)"
    )


def add_figure_options(parser: argparse.ArgumentParser, default: str) -> None:
    """--figure and --no-figure, for figure_path."""
    figure = parser.add_mutually_exclusive_group()
    figure.add_argument(
        "--figure", metavar="PATH", help=f"file of the figure (default: {default}; needs matplotlib)"
    )
    figure.add_argument("--no-figure", action="store_true", help="draw nothing")


def threads(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Within, what --threads says holds."""
    return fastconv.num_threads(options.threads) if options.threads else contextlib.nullcontext()


def figure_path(options: argparse.Namespace, default: str) -> str | None:
    """Where the figure goes, None for nowhere. Only a figure that was asked for is worth a refusal."""
    if options.no_figure:
        return None
    path = default if options.figure is None else options.figure
    problem = target_problem(path) or _figure_problem(path)
    if problem is None:
        return path
    if options.figure is not None:
        raise Refused(f"argument --figure: {problem}")
    print(f"No figure: {problem}")
    return None


def target_problem(path: str) -> str | None:
    """Why this file cannot be written."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        return f"there is no folder {folder!r}"
    if os.path.isdir(target):
        return f"{path!r} is a folder, not a file"
    if not os.access(folder, os.W_OK):
        return f"no permission to write into {folder!r}"
    return None


def _figure_problem(path: str) -> str | None:
    """Why no figure can be drawn into this file."""
    try:
        formats = plotting.formats()
    except ImportError:
        return 'it needs matplotlib: pip install "fastconv[examples]"'
    if os.path.splitext(path)[1].lower().removeprefix(".") in formats:
        return None
    return f"{path!r} must end in .{', .'.join(formats)}"


def whole(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, not {text!r}")
        return int(text)

    return convert
