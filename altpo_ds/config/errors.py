"""The exceptions that a user sees as a line and not as a traceback, and the exit statuses of a run that ends early."""

FAILED = 1  # a rank was lost
PREEMPTED = 85  # SIGTERM or SIGUSR1: saved, to be started again
INTERRUPTED = 130  # SIGINT, as shells say it


class UserError(Exception):
    """Bad input: the message names the place, the value and the remedy. The command exits with status 2."""


class NodeError(UserError):
    """What only this rank can know, of its node: it tells so itself, though it is not the main one."""


class Stopped(Exception):  # noqa: N818, it is no error
    """The run ends before its last step; the message says how to go on. The command exits with `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
