"""Files: written whole or not at all, and read as data, whoever made them."""


class DataError(ValueError):
    """Data that cannot be used; the message says what was expected, what was found, and where."""
