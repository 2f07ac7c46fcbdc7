"""From a task file to a bundle: plan, steps with a cache, build."""
