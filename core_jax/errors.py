"""The one exception that a command turns into a message and exit code 2."""


class UserError(ValueError):
    """A mistake that the user can mend: what was given, what was expected, what to type instead.

    Raised before any compilation or data work; `experiments` prints it without a traceback.
    """
