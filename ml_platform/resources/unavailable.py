"""What the doors raise when the other side cannot be reached: the one error that is worth another try."""


class UnavailableError(ConnectionError):
    """A database or server that does not answer right now; the message names it and the remedy."""
