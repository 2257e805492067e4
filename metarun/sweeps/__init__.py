"""Multiruns: plan the cells, hand them out, summarise them."""
