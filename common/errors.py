"""The one exception that means "what you gave me is wrong"."""


class InputError(ValueError):
    """A user's input is unusable: a file, key, option or value.

    The message names the file, key or option, the value found and what is allowed, in one line.
    Command lines turn it into exit status 2 (see :func:`common.runs.cli.guarded`).
    """
