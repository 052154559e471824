"""What happens in which order: load, import, land, judge, look again. No SQL, no arithmetic."""
