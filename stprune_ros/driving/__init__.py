"""Drives through ringworld whose ego vehicle heeds planning hints, and what becomes of them."""
