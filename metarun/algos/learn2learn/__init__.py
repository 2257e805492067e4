"""learn2learn's own classes as learners: the referees."""
