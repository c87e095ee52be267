"""Commands: parse, wire, render; no arithmetic."""
