"""`python -m pipeline <stage or command>`: one subcommand for each, and no logic."""

import argparse
import sys
from importlib import import_module

from pipeline.records.errors import InputError, input_error_behind

STAGES = {
    "audit": "check raw cases and split them by patient",
    "plan": "derive spacing, patch, network and intensities from the training cases",
    "schedule": "time a few training steps and size the training to its budget",
    "preprocess": "cache the cases as arrays",
    "train": "train the bundle; with folds NAME.fold0, NAME.fold1, ...",
    "ensemble": "make one bundle of those of the folds",
    "evaluate": "segment validation and test cases and score them",
    "report": "write the HTML report",
    "package": "write the trained bundle as a folder and a zip",
    "track": "complete the experiment's MLflow run",
}
# What a stage can be told besides its experiment.
SWITCHES = {
    "plan": {"explain": "say why each value is what it is; write nothing"},
    "schedule": {"remeasure": "measure again although the plan has a schedule"},
}
NUMBERS = {"train": {"processes": "train in N processes together, one for each GPU (default: the plan's)"}}
COMMANDS = {
    "compare": "say whether one run is better than another, scan by scan",
    "fetch": "bring a dataset into data/raw",
    "gate": "fail where recall or Dice fell since a commit by more than chance explains",
    "listen": "receive studies from a DICOM archive, segment them, send the results back",
    "segment": "segment scans with a trained bundle",
    "run": "activate an experiment and reproduce its stages",
}


def main() -> int:
    """Runs one subcommand; an error in what the user gave is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description="Segline: stages and commands.")
    subparsers = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    phantom = subparsers.add_parser("phantom", help="make an embedded phantom dataset")
    phantom.add_argument("--dataset", required=True)
    for name, purpose in STAGES.items():
        subparser = subparsers.add_parser(name, help=purpose)
        subparser.add_argument("--experiment", required=True)
        for switch, effect in SWITCHES.get(name, {}).items():
            subparser.add_argument(f"--{switch}", action="store_true", help=effect)
        for number, effect in NUMBERS.get(name, {}).items():
            subparser.add_argument(f"--{number}", type=int, metavar="N", help=effect)
    # Commands bring their own arguments, so only the one that is called is imported.
    chosen = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, purpose in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=purpose)
        if name == chosen:
            import_module(f"pipeline.commands.{name}").add_arguments(subparser)
    arguments = parser.parse_args()
    try:
        if arguments.name in COMMANDS:
            import_module(f"pipeline.commands.{arguments.name}").run(arguments)
        else:
            subject = arguments.dataset if arguments.name == "phantom" else arguments.experiment
            told = {**SWITCHES.get(arguments.name, {}), **NUMBERS.get(arguments.name, {})}
            switches = {switch: getattr(arguments, switch) for switch in told}
            import_module(f"pipeline.stages.{arguments.name}").run(subject, **switches)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        cause = input_error_behind(error)
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"error: {error.filename}: no such file; expected what an earlier stage writes; run `python -m pipeline "
              "run --experiment NAME`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was whole is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
