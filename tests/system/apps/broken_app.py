"""An app that cannot be imported."""


def fails() -> float:
    """Raises while the module is imported."""
    return 1 / 0


registry = fails()
