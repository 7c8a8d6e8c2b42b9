"""A command of the command line, run in this process: its exit code, and what it prints."""

import io
from contextlib import redirect_stdout

from inception_np.__main__ import Parser, command_parser


def arguments(name, *words):
    """The arguments of a command, parsed."""
    parser = Parser()
    command_parser(name, parser.add_subparsers())
    return parser.parse_args([name, *words])


def command(name, *words):
    """(exit code, standard output); errors are raised."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        args = arguments(name, *words)
        code = args.run(args)
    return code, printed.getvalue()
