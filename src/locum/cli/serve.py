"""``locum serve``: a bundle behind OpenAI's API on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    target: Annotated[Path, typer.Argument(help="A bundle folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs LOCUM_API_KEY.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    threads: Annotated[int | None, typer.Option(help="CPU threads for the student; default: all usable cores.")] = None,
) -> None:
    """Serve a bundle: /v1/chat/completions, /v1/models, /health, /ready, /metrics. Ctrl-C drains and stops."""
    from locum.bundle.student import open_bundle
    from locum.gateway.serve import serve as run_server

    run_server(open_bundle(target, threads=threads), host=host, port=port)
