"""learn2learn's own classes as learners, for reference."""
