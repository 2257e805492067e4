"""Runs that train together as one program; nothing below knows of them."""
