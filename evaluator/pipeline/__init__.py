"""The order of the work: load, import, land, judge, review. No SQL, no arithmetic."""
