"""The one exception that is meant for the person at the command line."""


class UserError(Exception):
    """Something the user can mend: printed as one sentence, without a traceback.

    The sentence names the setting (or file), its value and the way out.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it."""
        return [f"{type(self).__name__}: {self}"]


class NotWritten(UserError):
    """A file could not be written: the disk is full, the folder is read-only or gone."""


class InUse(UserError):
    """Another run is at work in the folder."""


def brief(error: BaseException, length: int = 120) -> str:
    """What an error says, on one short line."""
    return " ".join(str(error).split())[:length] or type(error).__name__
