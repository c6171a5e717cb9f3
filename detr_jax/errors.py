"""The errors that are meant for a person."""


class UserError(Exception):
    """Something the user can put right. The message is one sentence: what was seen, and what to type."""


class BrokenImage(UserError):
    """An image of a dataset that cannot be decoded. A run of days goes on without it (``data.strict``)."""
