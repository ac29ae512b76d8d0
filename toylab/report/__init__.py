"""Figures and pages: arrays in, pictures out; no network is asked for anything."""
