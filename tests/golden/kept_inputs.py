"""Which of the inputs are judged again by the tests."""

KEPT_INPUTS: tuple[str, ...] = ()
