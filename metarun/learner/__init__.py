"""The one abstraction, and what families of learners share."""
