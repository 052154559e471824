"""The judge and its peers on simulated releases with a known truth: `make bench-arena` writes docs/accuracy.md."""
