"""The corridor: load, import, land, judge, look again. Short functions, no SQL, no arithmetic."""
