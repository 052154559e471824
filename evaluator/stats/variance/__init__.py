"""How uncertain a number is: from time, from instances, from history, and all together."""
