"""What can go wrong for the person at the keyboard, each with its next step.

A failed *tool* is not here: it becomes an observation that the model reads, and the loop goes on.
"""


class AgentError(Exception):
    """A situation that ends the program: one line that says what happened, one that says what to do."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo
