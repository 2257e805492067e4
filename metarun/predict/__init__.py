"""`metarun-predict`: what a trained learner says of a user's own pictures, from a few labelled ones."""
