"""What the programs share: flags in, one clear line and exit status 2 for a usage error."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

USAGE_ERROR_STATUS = 2
_HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}


class UsageError(ValueError):
    """The command line asks for something that cannot be done; the message is one line."""


def run(
    description: str,
    declare_flags: Callable[[flags.FlagValues], None],
    program: Callable[[flags.FlagValues], object],
) -> NoReturn:
    """Declares and parses the flags, runs `program` on them and exits.

    Flags are declared here, not when a module is imported, so that programs can be imported side
    by side although they have flags of the same name.

    Args:
        description: What `--help` shows above the flags.
        declare_flags: Defines the flags of the program on the values that it is given.
        program: Called with the parsed flags. A `UsageError` from it ends the process with the
            message on standard error and status 2, as does a flag that cannot be parsed.
    """
    declare_flags(flags.FLAGS)

    def parse(argv: list[str]) -> list[str]:
        if _HELP.intersection(argv[1:]):
            own = flags.FlagValues()  # without the flags of the libraries
            declare_flags(own)
            print(description, own.get_help(include_special_flags=False), sep="\n")
            sys.exit(0)
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            _exit_with(error)
        if rest[1:]:
            _exit_with(UsageError(f"Only flags are understood. Received: {' '.join(rest[1:])}"))
        if flags.FLAGS["verbosity"].using_default_value:  # absl would show every library's INFO
            flags.FLAGS.verbosity = logging.WARNING
        return rest

    def main(_: list[str]) -> None:
        try:
            program(flags.FLAGS)
        except UsageError as error:
            _exit_with(error)

    app.run(main, flags_parser=parse)


def _exit_with(error: Exception) -> NoReturn:
    program = os.path.basename(sys.argv[0])
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(USAGE_ERROR_STATUS)
