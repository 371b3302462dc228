"""The one exception that a user sees as a line and not as a traceback."""


class UserError(Exception):
    """Bad input: the message names the place, the value and the remedy. The command exits with status 2."""
