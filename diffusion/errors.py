"""The one exception that is meant for the person at the command line."""


class UserError(Exception):
    """Something the user can mend: printed as one sentence, without a traceback.

    The sentence names the setting (or file), its value and the way out.
    """


def brief(error: BaseException) -> str:
    """What an error says, on one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
