"""The errors that are meant for a person, and what to tell of others."""


class UserError(Exception):
    """Something the user can put right. The message is one sentence: what was seen, and what to type."""


class BrokenImage(UserError):
    """An image of a dataset that cannot be decoded. A run of days goes on without it (``data.strict``)."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, for a sentence: the first line, or what kind of error it is."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
