"""What every room stands on: errors with codes, atomic files, progress events, lazy registries."""
