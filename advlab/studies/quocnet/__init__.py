"""QuocNet by Ray Train."""
