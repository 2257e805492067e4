"""What a meta-learner is measured against."""
