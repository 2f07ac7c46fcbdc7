"""Trained students become files that an engine serves, proved equal to what was trained."""
