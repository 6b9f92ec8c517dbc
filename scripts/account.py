r"""Works out the privacy of DP-SGD: epsilon from the noise, or the noise from epsilon.

    python scripts/account.py --noise_multiplier=1.23 --batch_size=512 --num_examples=60000 \
        --epochs=40 --delta=1e-5
    python scripts/account.py --target_epsilon=3 --sampling_probability=0.01 --steps=5000 \
        --delta=1e-5 --accountant=pld

Prints epsilon (by RDP and by PLD) or the least noise multiplier that reaches the target, then the
privacy statement of a run with these figures. Assumes Poisson sampling, one optimizer step a batch
and clipping of every example by itself. `--epochs` counts expected passes over the data; the
steps they make, epochs / sampling probability, are rounded up.
"""

import json
import math

from absl import flags

from tfdp import accounting
from tfdp.scripts import command_line
from tfdp.scripts.command_line import UsageError

_NAMES = ("rdp", "pld")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags; not at import, so that importing it has no effect."""

    def number(name: str, text: str) -> None:
        flags.DEFINE_float(name, None, text, flag_values=values)

    def whole(name: str, text: str) -> None:
        flags.DEFINE_integer(name, None, text, flag_values=values)

    number("noise_multiplier", "Noise standard deviation over the clip norm. Gives epsilon.")
    number("target_epsilon", "Epsilon not to exceed. Gives the noise multiplier.")
    number("sampling_probability", "Chance of each example to be in a batch.")
    whole("batch_size", "Expected batch size; with --num_examples.")
    whole("num_examples", "Number of training examples.")
    whole("steps", "Number of optimizer steps.")
    number("epochs", "Expected number of passes over the data, instead of --steps.")
    number("delta", "Delta of the guarantee; below one over the number of examples.")
    flags.DEFINE_string(
        "accountant", "rdp", "rdp or pld: the one that calibrates.", flag_values=values
    )
    flags.DEFINE_boolean("json", False, "Print JSON and nothing else.", flag_values=values)


def answer(values: flags.FlagValues) -> str:
    """Returns what the program prints.

    Args:
        values: parsed flags, as `define_flags` defines them.

    Returns:
        Text, or JSON with `--json`.

    Raises:
        UsageError: if flags are missing, contradict each other, or hold a value out of range.
    """
    try:
        return _answer(values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _answer(values: flags.FlagValues) -> str:
    _either(values, "noise_multiplier", "target_epsilon")
    _either(values, "sampling_probability", "batch_size")
    _either(values, "steps", "epochs")
    _require(values, "delta")
    if values.accountant not in _NAMES:
        raise UsageError(
            f"--accountant must be rdp or pld. Received: accountant={values.accountant}"
        )
    details: dict[str, str | int | float | bool] = {"sampling": "Poisson (assumed)"}
    if values.batch_size is not None:
        _require(values, "num_examples", "with --batch_size")
        if not 0 < values.batch_size <= values.num_examples:
            raise UsageError(
                "--batch_size must be above 0 and at most --num_examples. Received: "
                f"batch_size={values.batch_size}, num_examples={values.num_examples}"
            )
        q = values.batch_size / values.num_examples
        details["expected_batch_size"] = values.batch_size
    else:
        q = values.sampling_probability
    if values.num_examples is not None:
        if values.num_examples < 1:
            raise UsageError(
                f"--num_examples must be at least 1. Received: num_examples={values.num_examples}"
            )
        details["num_examples"] = values.num_examples
    if values.steps is not None and values.steps < 0:
        raise UsageError(f"--steps must not be negative. Received: steps={values.steps}")
    steps = values.steps
    if values.epochs is not None:
        steps = accounting.steps_in_epochs(values.epochs, q)

    sigma = values.noise_multiplier
    if sigma is None:
        sigma = accounting.noise_multiplier(
            values.target_epsilon, q, steps, values.delta, values.accountant
        )
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(sigma, q), steps, details=details)
    epsilons = {name: ledger.epsilon(values.delta, name) for name in _NAMES}
    statement = ledger.statement(values.delta)
    if values.json:
        return json.dumps(
            {
                "noise_multiplier": sigma,
                "sampling_probability": q,
                "steps": steps,
                "delta": values.delta,
                "epsilon": {k: v if math.isfinite(v) else "inf" for k, v in epsilons.items()},
                "calibrated_by": None if values.noise_multiplier is not None else values.accountant,
                "statement": statement.to_dict(),
            },
            indent=2,
            allow_nan=False,
        )
    lines = []
    if values.noise_multiplier is None:
        rounded_up = math.ceil(sigma * 1e5) / 1e5
        lines.append(f"noise multiplier: {rounded_up:.10g} (by {values.accountant.upper()})")
    lines += [f"epsilon ({name.upper()}): {epsilons[name]:.6g}" for name in _NAMES]
    return "\n".join([*lines, "", str(statement)])


def _either(values: flags.FlagValues, first: str, second: str) -> None:
    given = [name for name in (first, second) if values[name].value is not None]
    if len(given) != 1:
        received = " ".join(f"--{name}={values[name].value}" for name in given) or "neither"
        raise UsageError(f"Give either --{first} or --{second}. Received: {received}")


def _require(values: flags.FlagValues, name: str, when: str = "") -> None:
    if values[name].value is None:
        raise UsageError(f"Give --{name}{' ' + when if when else ''}. Received: {name}=None")


def _print_answer(values: flags.FlagValues) -> None:
    print(answer(values))


def main() -> None:
    """Runs the program; the `tfdp-account` command."""
    command_line.run(__doc__, define_flags, _print_answer)


if __name__ == "__main__":
    main()
