"""The one error type that users see: a single line that says where, what was found, what was wanted and what to do."""

from pathlib import Path


class InputError(Exception):
    """Something the user gave cannot be used.

    Args:
        where: the file, folder, key or case at fault.
        found: what is there.
        wanted: what should be there.
        remedy: what the user can do about it.
        reason: short id for machines (`summary.json`, `audit.json`), for instance ``missing-slice``.
    """

    def __init__(self, where: Path | str, *, found: str, wanted: str, remedy: str, reason: str) -> None:
        self.where = str(where)
        self.found = found
        self.wanted = wanted
        self.remedy = remedy
        self.reason = reason
        # On one line, whatever a file is called.
        super().__init__(" ".join(f"{where}: {found}; expected {wanted}; {remedy}".splitlines()))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles, so that a worker process can hand the error to its parent."""
        return _rebuild, (self.where, self.found, self.wanted, self.remedy, self.reason)


def input_error_behind(error: BaseException) -> InputError | None:
    """Returns the `InputError` that led to `error`; MONAI wraps what its transforms and expressions raise."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    return cause


def _rebuild(where: str, found: str, wanted: str, remedy: str, reason: str) -> InputError:
    return InputError(where, found=found, wanted=wanted, remedy=remedy, reason=reason)
