"""The command line of `python -m monai.bundle run`, as it was typed.

Fire turns ``--input 123`` into a number and ``a,b`` into a tuple, and MONAI's parser evaluates ``$...`` and ``@...``.
Paths are therefore taken from the process's arguments. The config never refers to `input`; it refers to `output_dir`
for programs that set it, and `check_arguments` refuses what MONAI would evaluate there.
"""

import difflib
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from pipeline.engine.speeds import SPEEDS
from pipeline.imaging.discovery import Found, SeriesRule, find_scans
from pipeline.records.bundles import member_numbers
from pipeline.records.errors import InputError

# What monai.bundle.run takes itself, and what it takes with --tracking.
RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")
# A `$` or `@` that MONAI might come to see first in the text, after Fire took quotes or brackets away.
EVALUATED = re.compile(r"(^|[^\w./ -])[$@]")
# What a word on the command line may be; Fire makes True and False of the last two.
CHOICES = {
    "speed": tuple(SPEEDS),
    "irregular": ("refuse", "resample"),
    "dicom_seg": ("binary", "fractional", "none"),
    **dict.fromkeys(("resume", "strict", "mirroring", "rtstruct", "probabilities", "uncertainty"), ("True", "False")),
}
TRACKING_ARGUMENTS = ("output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config")


def check_arguments() -> None:
    """Refuses a ``--key`` that names no key of the config files, which MONAI would silently take.

    From here on a request to end is an interruption: what was unpacked is removed and what is begun brought to an end.

    Raises:
        SystemExit: 2, with one line on stderr that names the nearest key.
    """
    given = typed_arguments()
    if given:
        end_as_if_interrupted()
    try:
        known = {*_config_keys(given.get("config_file")), *RUN_ARGUMENTS}
        if "tracking" in given:
            known |= set(TRACKING_ARGUMENTS)
        if "config_file" in given:
            _refuse_unknown(given, known)
        _refuse_evaluated("output_dir", given.get("output_dir"))
        _refuse_other_words(given)
        if "members" in given:
            member_numbers(given["members"])
    except InputError as error:
        _exit(error)


def end_as_if_interrupted() -> None:
    """Makes a request to end this process (SIGTERM, SIGHUP) what Ctrl-C is."""
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.default_int_handler)


def path_given(name: str, otherwise: Path | str | None = None) -> Path:
    """Returns the path after ``--<name>``, character by character as it was typed.

    Args:
        name: the argument.
        otherwise: the path where the process has no such argument, for instance because a program runs the config.

    Raises:
        SystemExit: 2, with one line on stderr: there is no path.
    """
    given = typed_arguments()
    path = given.get(name, otherwise)
    if not path:
        _exit(InputError(f"--{name}", found="no path", wanted=f"--{name} PATH", reason="missing-argument",
                         remedy=f"add it; a path that starts with a hyphen is written --{name}=PATH"))
    return Path(path)


def scans_below(path: Path | str, leave_out: Path | str, *, rule: SeriesRule | None = None,
                strict: bool = False, series: str | None = None) -> Found:
    """Returns the scans at or below `path`, passing over the results in `leave_out`; says what was set aside.

    Args:
        path: a file, folder or archive.
        leave_out: where results go.
        rule: chooses among the series of a study.
        strict: refuses single series that do not match the rule.
        series: which of several DICOM series; None reads it as it was typed after ``--series``.

    Raises:
        SystemExit: 2, with one line on stderr: there is no scan; 130: it was interrupted.
    """
    series = series or typed_arguments().get("series")
    try:
        found = find_scans(Path(path), leave_out=Path(leave_out), series=series, rule=rule, strict=strict,
                           may_be_none=True)
    except InputError as error:
        _exit(error)
    except KeyboardInterrupt:
        print("interrupted; nothing was begun", file=sys.stderr)
        raise SystemExit(130) from None
    if found.set_aside:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.set_aside.items()))
        print(f"set aside: {counts}", file=sys.stderr)
    return found


def typed_arguments() -> dict[str, str | None]:
    """Returns name and text of each ``--name text`` on this process's command line; the last one of a name wins.

    Empty unless the process was started as ``python -m monai.bundle run``. The value is None where there is no text.
    """
    program = Path(sys.argv[0]).parts[-3:]
    if program != ("monai", "bundle", "__main__.py") or sys.argv[1:2] != ["run"]:
        return {}
    return read_arguments(sys.argv[2:])


def read_arguments(words: Sequence[str]) -> dict[str, str | None]:
    """Splits words into names and texts as Fire does, and changes no text.

    Source: fire.core._ParseKeywordArgs.
    """
    # What follows the last isolated `--` is for Fire itself.
    end = len(words) - 1 - list(reversed(words)).index("--") if "--" in words else len(words)
    given: dict[str, str | None] = {}
    position = 0
    while position < end:
        word = words[position]
        position += 1
        if not _is_flag(word):
            continue
        name, equals, text = word.lstrip("-").partition("=")
        value: str | None = text if equals else None
        if not equals and position < end and not _is_flag(words[position]):
            value = words[position]
            position += 1
        given[name.replace("-", "_")] = value
    return given


def _is_flag(word: str) -> bool:
    return word.startswith("--") or re.match(r"-[a-zA-Z]", word) is not None


def _config_keys(config_file: str | None) -> set[str]:
    """Returns the top-level keys of the config files that the text after ``--config_file`` names."""
    keys: set[str] = set()
    for name in _file_names(config_file or ""):
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        keys |= {str(key).lstrip("+") for key in content}
    return keys


def _file_names(text: str) -> list[str]:
    """Returns the names in ``a.yaml``, ``a.yaml,b.yaml`` or ``['a.yaml', 'b.yaml']``."""
    if Path(text).is_file():
        return [text]
    return [name for name in (part.strip(" '\"") for part in text.strip("[]()").split(",")) if name]


def _refuse_unknown(given: dict[str, str | None], known: set[str]) -> None:
    for name in given:
        # Nested keys (`network_def#channels`, `network_def::channels`) are checked by MONAI itself.
        top = re.split("#|::", name.lstrip("+"))[0]
        if top not in known:
            nearest = difflib.get_close_matches(top, sorted(known), n=1)
            raise InputError(f"--{name}", found="no such key in the config", wanted="one of its keys",
                             remedy=f"did you mean --{nearest[0]}?" if nearest else "remove it", reason="unknown-key")


def _refuse_other_words(given: dict[str, str | None]) -> None:
    for name, words in CHOICES.items():
        # A name alone is Fire's way to say True.
        text = (given[name] or "True") if name in given else words[0]
        if text not in words:
            raise InputError(f"--{name}", found=f"`{text}`", wanted=f"one of {', '.join(words)}", remedy="choose one",
                             reason="unknown-choice")


def _refuse_evaluated(name: str, text: str | None) -> None:
    if text and EVALUATED.search(text):
        raise InputError(f"--{name}", found=f"`{text}`, which MONAI would evaluate", wanted="a path",
                         remedy=f"write ./{text}", reason="evaluated-path")


def _exit(error: InputError) -> NoReturn:
    print(" ".join(str(error).splitlines()), file=sys.stderr)
    raise SystemExit(2)
