"""The one error that is meant for a person."""


class UserError(Exception):
    """Something the user can put right. The message is one sentence: what was seen, and what to type."""
