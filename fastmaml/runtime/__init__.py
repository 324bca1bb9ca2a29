"""A model bound to its engines: options, admission, adaptation, autograd."""
