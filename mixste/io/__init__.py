"""Files: atomic writes, and readers that never execute what a file holds."""


class DataError(ValueError):
    """Unusable data. The message is one sentence: what was expected, what was found, and where."""

    def _render_traceback_(self) -> list[str]:  # which Jupyter shows instead of a traceback
        return [str(self)]
