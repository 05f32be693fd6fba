"""InputError: one line of where, found, wanted and remedy, which survives the way out of a worker process."""

import pickle
from pathlib import Path

from pipeline.records.errors import InputError


def an_error() -> InputError:
    return InputError(Path("data/a.nii.gz"), found="shape 3x3", wanted="3x3x3", remedy="export it again",
                      reason="not-an-image")


def test_the_message_says_where_found_wanted_and_remedy() -> None:
    assert str(an_error()) == "data/a.nii.gz: shape 3x3; expected 3x3x3; export it again"


def test_pickling_keeps_every_part() -> None:
    copy = pickle.loads(pickle.dumps(an_error()))
    assert isinstance(copy, InputError)
    assert str(copy) == str(an_error())
    assert vars(copy) == {"where": "data/a.nii.gz", "found": "shape 3x3", "wanted": "3x3x3",
                          "remedy": "export it again", "reason": "not-an-image"}
