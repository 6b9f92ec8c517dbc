"""What the programs share: flags in, one clear line and exit status 2 for a usage error."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

USAGE_ERROR_STATUS = 2


class UsageError(ValueError):
    """The command line asks for something that cannot be done; the message is one line."""


def run(
    declare_flags: Callable[[flags.FlagValues], None],
    program: Callable[[flags.FlagValues], None],
) -> NoReturn:
    """Declares and parses the flags, runs `program` on them and exits.

    Flags are declared here, not when a module is imported, so that programs can be imported side
    by side although they have flags of the same name.

    Args:
        declare_flags: Defines the flags of the program on the values that it is given.
        program: Called with the parsed flags. A `UsageError` from it ends the process with the
            message on standard error and status 2, as does a flag that cannot be parsed.
    """
    declare_flags(flags.FLAGS)
    for names in flags.FLAGS.flags_by_module_dict().items():
        if names[0] == declare_flags.__module__:
            for flag in names[1]:  # `--help` shows the flags of the file that was called
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            _exit_with(error)
        if rest[1:]:
            _exit_with(UsageError(f"Only flags are understood. Received: {' '.join(rest[1:])}"))
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
