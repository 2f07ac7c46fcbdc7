"""The folder that can be served: written whole, verified before anything in it is opened, opened as a student."""
