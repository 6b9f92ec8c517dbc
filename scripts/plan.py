r"""Plans a private training: runs of equal budget, the one to take, and how to tune it cheaply.

    python scripts/plan.py --target_epsilon=8 --delta=8e-7 --num_examples=1281167
    python scripts/plan.py --target_epsilon=3 --delta=1e-5 --num_examples=60000 \
        --max_batch_size=4096 --dataset=mnist --output_dir=runs/plan

Prints the runs, with epsilon by RDP and PLD, and two command lines of `train.py`: the simulation,
which finds hyper-parameters at a fraction of the compute and is not private, and the private run.
With `--output_dir` also writes `plan.json`, `plan.txt` and `plan.png`.
"""

import os

from absl import flags

import tfdp
from tfdp.scripts import command_line, whole_files
from tfdp.scripts.command_line import UsageError


def declare_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags."""

    def number(name: str, text: str, default: float | None = None) -> None:
        flags.DEFINE_float(name, default, text, flag_values=values)

    def whole(name: str, text: str) -> None:
        flags.DEFINE_integer(name, None, text, flag_values=values)

    number("target_epsilon", "Epsilon not to exceed.")
    number("delta", "Delta of the guarantee; below one over the number of examples.")
    whole("num_examples", "Number of training examples.")
    whole("max_batch_size", "Largest expected batch. Defaults to about 1/12 of the examples.")
    whole("compute_budget", "Most gradients of single examples: steps times batch.")
    number("learning_rate", "Rate of the recommended run.", 1.0)
    whole("simulate_at", "Batch size of the simulation. Defaults to 1/64 of the recommended one.")
    flags.DEFINE_enum(
        "accountant", "rdp", ["rdp", "pld"], "Accounting that keeps the budget.", flag_values=values
    )
    flags.DEFINE_string(
        "dataset", None, "Data set of the command lines that are printed.", flag_values=values
    )
    flags.DEFINE_string(
        "output_dir", None, "Folder for JSON, text and picture.", flag_values=values
    )
    flags.DEFINE_boolean("json", False, "Print JSON and nothing else.", flag_values=values)


def plan(values: flags.FlagValues) -> None:
    """Prints the plan, and writes it where that is asked for.

    Raises:
        UsageError: Naming the flag and the value received.
    """
    for name in ("target_epsilon", "delta", "num_examples"):
        if values[name].value is None:
            raise UsageError(f"Give --{name}. Received: {name}=None")
    try:
        found = tfdp.tan.plan(
            values.target_epsilon,
            values.delta,
            values.num_examples,
            max_batch_size=values.max_batch_size,
            compute_budget=values.compute_budget,
            learning_rate=values.learning_rate,
            simulate_at=values.simulate_at,
            accountant=values.accountant,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    text = f"{found}\n\n{command_lines(found, values.dataset)}"
    print(found.to_json() if values.json else text)
    if values.output_dir is not None:
        os.makedirs(values.output_dir, exist_ok=True)
        for name, content in (("plan.json", found.to_json()), ("plan.txt", text + "\n")):
            with whole_files.replacing(os.path.join(values.output_dir, name)) as path:
                with open(path, "w") as file:
                    file.write(content)
        with whole_files.replacing(os.path.join(values.output_dir, "plan.png")) as path:
            found.draw(path)


def command_lines(found: tfdp.tan.Plan, dataset: str | None) -> str:
    """The commands that simulate and that train."""
    name = dataset or "DATASET"
    return "\n".join(
        [
            "To simulate, for tuning (not private):",
            f"  {_command(found, name)} --simulate_at={found.simulation.batch_size} "
            f"--output_dir=runs/{name}_simulated",
            "To train privately, with what was found:",
            f"  {_command(found, name)}",
        ]
    )


def _command(found: tfdp.tan.Plan, dataset: str) -> str:
    run = found.recommended
    # Epochs of `train.py` are whole, and have as many steps as the data have batches.
    epochs = max(1, round(run.steps / -(-run.num_examples // run.batch_size)))
    return (
        f"tfdp-train --dataset={dataset} --batch_size={run.batch_size} --epochs={epochs} "
        f"--target_epsilon={found.target_epsilon:g} --delta={run.delta:g} "
        f"--accountant={found.accountant} --learning_rate={run.learning_rate:g} --momentum=0"
    )


def main() -> None:
    """Runs the program; the `tfdp-plan` command."""
    command_line.run(__doc__, declare_flags, plan)


if __name__ == "__main__":
    main()
