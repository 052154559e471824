"""Access logs of routers: which format their lines have, and how a log is followed while it is written."""
