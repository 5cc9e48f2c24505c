"""Relayed feeds: the stages of each venue in them."""
