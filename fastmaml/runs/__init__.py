"""What a run leaves on disk and how it resumes; it knows nothing of MAML."""
