"""Fuzzing: valid inputs of every kind are changed at random, and no command may end other than it promises.

`python -m fuzz.run` (in the folder `tests`) runs cases and lists those that broke a promise; `checking` has the
promises, `mutators` the changes, and `files`, `documents` and `answers` the kinds of inputs.
"""
