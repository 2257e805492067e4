"""How fast metarun is: beside learn2learn, beside outer steps written out by hand, and learner by learner."""
