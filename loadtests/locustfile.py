"""Load for the sample service; `evaluator load` and `evaluator demo` send the same users to every arm."""

from users import Shopper

__all__ = ["Shopper"]
