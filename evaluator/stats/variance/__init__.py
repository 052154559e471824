"""How wrong a number may be: time, instances, history, and all of them together."""
