"""Preference models behind HTTP."""

from __future__ import annotations

from typing import Any

from prefrep.scoring.loading import LocalScoring


def serve(
    *,
    model: list[str] | None = None,
    demo: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    rendered: bool = False,
    anchors: str | None = None,
    group_size: int = 8,
    group_wait: int = 1000,
    tokens: str | None = None,
    cors: list[str] | None = None,
    body_mb: float = 8.0,
    responses: int = 128,
    text_tokens: int = 32_768,
    queue: int = 20_000,
    timeout: float = 120.0,
    **loading: Any,
) -> None:
    """Serve preference models over HTTP: comparisons, tables, rankings, rewards, and a page to ask on.

    Requests that are in flight together are read together, and texts that they share are read once. /docs lists the routes, among them
    OpenRLHF's /get_reward and rerank. The server runs until it is stopped; what is in flight is answered first.

    Examples:
        prefrep serve --model runs/mine/export
        prefrep serve --model old=runs/old/export --model new=runs/new/export --port 8080
        prefrep serve --model "GenerativeJudge model=bundled:smollm2-135m style=letter constraint=choice"
        prefrep serve --demo

    Args:
        model: Exported folder, or a judge that writes (YAML file or `GenerativeJudge model=NAME ...`), or NAME= either; may be repeated.
            Requests choose by name.
        demo: Serve a small model that knows cycles, with examples on its page. It is trained once, in minutes, and kept.
        host: Address to listen on; 0.0.0.0: all of this machine, which should then have --tokens.
        port: Port to listen on; 0: any free one.
        rendered: Read the queries of /get_reward as they are, rendered by the model's own template; else their turns are read.
        anchors: JSONL file of {"prompt", "response"}: what a comparing model compares with where one number per response is wanted.
        group_size: Single responses to one prompt that are compared with each other as soon as they are that many.
        group_wait: Milliseconds that a single response waits for others to the same prompt; 0: it is answered at once.
        tokens: File with bearer tokens, one per line; default: those of the environment variable PREFREP_TOKENS, or none.
        cors: Origins of web pages that may ask, such as https://example.org; may be repeated.
        body_mb: Largest body of a request, in megabytes.
        responses: Most responses to one prompt.
        text_tokens: Longest prompt or response, in tokens. The model truncates below that as in `prefrep score`.
        queue: Texts that may wait; further requests are refused with status 429.
        timeout: Seconds within which a request is answered, or refused with status 504.
        **loading: See `prefrep.scoring.loading.LocalScoring`.

    Raises:
        UsageError: Options that do not go together.
        ConfigError: The address cannot be used, or the extra `serve` is not installed.
        PrefrepError: A model cannot be loaded.
    """
    from prefrep.errors import ConfigError, UsageError
    from prefrep.server.settings import Serving

    settings = Serving(
        rendered, anchors, group_size, group_wait, tokens, tuple(cors or ()), body_mb, responses, text_tokens, queue, timeout
    )
    if demo and model:
        raise UsageError("--demo brings its own model; leave --model out, or --demo")
    if not demo and not model:
        raise UsageError("name a model with --model FOLDER, or try --demo")
    try:
        import fastapi as fastapi
        import prometheus_client as prometheus_client
        import uvicorn as uvicorn
    except ImportError as error:
        raise ConfigError(f"prefrep serve needs the package {error.name}; install it with pip install 'prefrep[serve]'") from error
    from prefrep.server.app import context
    from prefrep.server.metrics import Metrics
    from prefrep.server.models import Models, named
    from prefrep.server.run import Server, bind

    folders, examples = named(model or []), None
    listening = bind(host, port)  # before anything takes time
    if demo:
        from prefrep.demo.served import prepare

        folders, examples = prepare()
    metrics = Metrics()
    models = Models(folders, LocalScoring(**loading).here, settings, metrics)
    Server(context(models, settings, metrics, examples)).answer(listening)
