"""Tables and figures of the recipes."""
